"""The process that owns the port, and what becomes of the arm when either end of the link dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest

from smolvla_gym.drivers.board.process import BoardProcess
from smolvla_gym.drivers.board.state import Mode
from smolvla_gym.errors import ActionError, DeviceError, FaultError, NotHomedError
from smolvla_gym.twin.gripper import AirGripper
from tests.drivers.arm import SETTINGS, STOP, TARGET, Arm, drive
from tests.drivers.rig import POSE, homed_firmware

pytestmark = [
    pytest.mark.realtime,
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal"),
]

# -- together ----------------------------------------------------------------------------------------------------------


def test_a_whole_life(make_link, arm, tmp_path):
    log = tmp_path / "folder" / "log.jsonl"
    link = make_link(log=log)
    assert link.state().mode is Mode.DISABLED
    with pytest.raises(DeviceError, match="busy"):
        make_link()
    os.kill(link.pid, signal.SIGINT)  # Ctrl-C is not for this process
    with pytest.raises(FaultError, match="not enabled"):
        link.aim(TARGET)
    link.enable()
    assert link.state().mode is Mode.READY
    np.testing.assert_allclose(link.state().joints, POSE, atol=2e-4)
    with pytest.raises(ActionError):
        link.aim(np.full(7, np.nan))
    drive(link, arm)
    assert time.monotonic() - link.state().time < 0.1
    link.finish()
    arm.until(lambda: link.state().at_rest, STOP)
    arm.faults.estop = True  # at rest; after one at speed the arm would have to be homed
    assert arm.disabled_within(0.2) < 0.1
    arm.until(lambda: link.state().fault == "estop", 0.2)
    with pytest.raises(FaultError, match="estop"):
        link.aim(TARGET)
    with pytest.raises(FaultError, match="pressed"):
        link.clear()
    arm.faults.estop = False
    arm.until(lambda: not link.state().estop, 0.2)
    link.clear()
    link.enable()
    drive(link, arm)
    link.finish()
    arm.until(lambda: link.state().at_rest, STOP)
    drive(link, arm)
    link.hold("camera_stale")
    assert link.state().fault == "camera_stale"
    assert arm.disabled_within(STOP) > 0.05
    link.clear()
    link.enable()
    drive(link, arm)
    link.disable()
    assert arm.firmware.disabled
    statistics = link.statistics()
    assert statistics["replies"] > 0.9 * statistics["ticks"] > 100
    events = link.events()
    assert {event["rule"] for event in events if "rule" in event} == {"fault"}
    assert any(event["limits"].get("speed") for event in events if event.get("event") == "shaping")
    assert link.events() == []
    link.close()
    link.close()
    with pytest.raises(DeviceError, match="closed"):
        link.aim(TARGET)
    written = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"estop", "camera_stale"} <= {entry.get("fault") for entry in written}
    assert written[-1]["event"] == "end"


def test_the_port_is_pulled_and_comes_back(make_link, arm):
    link = make_link()
    link.enable()
    drive(link, arm)
    arm.virtual.unplug()
    arm.until(lambda: link.state().fault == "port_lost", 0.5)
    with pytest.raises(DeviceError):
        link.clear()
    arm.until(lambda: not arm.moving(), 0.3)  # at the last target
    arm.virtual.replug()
    link.clear()
    link.enable()
    assert link.state().mode is Mode.READY


def test_a_board_that_comes_back_under_another_name_is_found_again(arm, make_link):
    other = Arm(homed_firmware(POSE, AirGripper()))
    try:
        link = make_link(find_port=lambda: other.virtual.path)
        arm.virtual.unplug()
        arm.until(lambda: link.state().fault == "port_lost", 1.0)
        link.clear()
        assert link.state().fault is None
        link.enable()
        assert link.state().mode == "ready"
        assert not other.firmware.disabled
        link.close()
    finally:
        other.virtual.close()


def test_a_port_that_is_not_there_and_one_that_is_silent(arm):
    with pytest.raises(DeviceError, match="not there"):
        BoardProcess("/dev/ttyNONE", SETTINGS, period=0.1, collision=False)
    arm.faults.silence = True
    with pytest.raises(DeviceError, match="PAROL6"):
        BoardProcess(arm.virtual.path, replace(SETTINGS, connect_timeout=0.3), period=0.1, collision=False)


def test_an_unhomed_arm(make_link, arm):
    with arm.virtual.lock:
        arm.firmware.lose_homing()
    link = make_link()
    with pytest.raises(NotHomedError):
        link.enable()
    seen = []

    def stop(state):
        seen.append(state.mode)
        arm.faults.estop = len(seen) > 30

    with pytest.raises(FaultError, match="estop"):
        link.home(stop)
    assert Mode.HOMING in seen
    assert arm.firmware.disabled


# -- the ends die ------------------------------------------------------------------------------------------------------


def test_the_link_process_is_killed(make_link, arm):
    link = make_link()
    link.enable()
    drive(link, arm)
    target = link.state().commanded
    os.kill(link.pid, signal.SIGKILL)
    assert arm.until(lambda: link.state().fault == "link_lost", 0.5) < 0.2
    time.sleep(0.3)
    assert not arm.moving()  # the firmware went to its last target, a hundredth of a second on
    np.testing.assert_allclose(link.state().commanded, target, atol=0.05)
    for call in (link.enable, link.finish, link.disable, lambda: link.aim(TARGET)):
        with pytest.raises(FaultError, match="link_lost"):
            call()
    link.clear()
    assert link.state().fault is None
    link.enable()
    drive(link, arm)


def test_the_link_process_is_asked_to_end(make_link, arm):
    link = make_link()
    link.enable()
    drive(link, arm)
    # Interrupted after its deadline, SimpleQueue.get() of CPython 3.12 waits for ever: the loop must not use it.
    os.kill(link.pid, signal.SIGSTOP)
    os.kill(link.pid, signal.SIGTERM)
    time.sleep(0.05)
    os.kill(link.pid, signal.SIGCONT)
    assert arm.disabled_within(STOP) > 0.05  # it braked
    arm.until(lambda: link.state().fault == "link_lost", 1.0)


SCRIPT = """
import os, signal, sys, time
import numpy as np
from smolvla_gym.drivers.board.state import BoardSettings
from smolvla_gym.drivers.board.process import BoardProcess

link = BoardProcess(sys.argv[1], BoardSettings(gripper="pneumatic", disable_after=1.0), period=1 / 30, collision=False)
link.enable()
end = sys.argv[2]
if end == "fork":
    if os.fork() == 0:
        link.close()  # must not end the link of the parent
        time.sleep(5.0)
        os._exit(0)
for k in range(100):
    link.aim(np.array([1.5, -1.5, 3.1, 0.0, 0.0, 3.1, 1.0]))
    time.sleep(0.03)
    if k == 8:
        print("moving", flush=True)
        if end == "forget":
            del link
            time.sleep(5.0)
"""


@pytest.mark.parametrize(
    ("end", "number", "limit"),
    [
        ("kill", signal.SIGKILL, 1.0),
        ("term", signal.SIGTERM, 1.0),
        ("fork", signal.SIGKILL, 1.0),
        ("interrupt", signal.SIGINT, 1.5),
        ("forget", None, 1.0),
        ("stop", signal.SIGSTOP, 2.0),
    ],
)
def test_the_program_that_thinks_ends(arm, end, number, limit):
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), arm.virtual.path, end],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert program.stdout.readline() == b"moving\n"
        assert arm.moving()
        if number is not None:
            program.send_signal(number)
        took = arm.disabled_within(limit)
        print(f"{end}: disabled after {took:.2f} s")
        assert took > 0.05  # it braked
    finally:
        program.stdout.close()
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
