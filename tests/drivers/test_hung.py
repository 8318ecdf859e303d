"""The worker that owns the port hangs: that is a fault, no call waits long, and the worker refuses old requests."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
import pytest

from smolvla_gym.drivers.board.state import Mode
from smolvla_gym.errors import FaultError
from tests.drivers.arm import TARGET, drive

pytestmark = [
    pytest.mark.realtime,
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal"),
]


@pytest.fixture
def link(make_link, arm):
    link = make_link()
    link.enable()
    drive(link, arm)
    yield link
    if not link._worker.ended:
        os.kill(link.pid, signal.SIGCONT)


def test_a_process_that_hangs_is_a_fault_and_old_aims_are_not_obeyed(link, arm):
    os.kill(link.pid, signal.SIGSTOP)
    begin = time.monotonic()
    while link.state().fault is None:
        with pytest.raises(FaultError, match=r"did not answer for 0\.2 s|link_lost"):
            link.aim(TARGET)
        assert time.monotonic() - begin < 1.0
    assert link.state().fault == "link_lost"
    assert "does not answer" in link.state().detail
    begin = time.monotonic()
    with pytest.raises(FaultError, match="link_lost"):
        link.aim(TARGET)
    assert time.monotonic() - begin < 0.1
    before = arm.counters()
    os.kill(link.pid, signal.SIGCONT)
    arm.until(lambda: link.state().fault != "link_lost", 1.0)
    time.sleep(0.3)
    assert np.abs(arm.counters() - before).max() < 300.0  # an aim would move it by thousands
    assert not arm.moving()


def test_an_aim_that_waited_is_not_obeyed(link):
    with pytest.raises(FaultError, match="old"):
        link._request("aim", action=TARGET.tolist(), sent=time.monotonic() - 0.3)
    link.aim(TARGET)


def test_clearing_starts_another_process(link, arm):
    hung = link.pid
    os.kill(hung, signal.SIGSTOP)
    arm.until(lambda: link.state().fault == "link_lost", 1.0)
    link.clear()
    assert link.pid != hung
    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)
    assert link.state().mode is Mode.DISABLED
    link.enable()
    drive(link, arm)


def test_the_fault_says_what_the_arm_does_without_its_worker(make_link, arm):
    link = make_link()
    with arm.virtual.lock:
        arm.firmware.lose_homing()

    def kill(state):
        if state.mode is Mode.HOMING and not link._worker.ended:
            os.kill(link.pid, signal.SIGKILL)

    with pytest.raises(FaultError, match="goes on homing by itself"):
        link.home(kill)


def test_what_is_printed_while_the_process_starts_does_no_harm(make_link, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("print('hello'); print('5')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert make_link().state().mode is Mode.DISABLED


def test_a_reader_that_fails_counts_as_the_end(make_link, monkeypatch):
    link = make_link()

    def fail(message):
        raise RuntimeError

    monkeypatch.setattr("threading.excepthook", lambda arguments: None)
    monkeypatch.setattr("smolvla_gym.drivers.board.state.BoardState.from_json", fail)
    time.sleep(0.1)
    assert link.state().fault == "link_lost"
