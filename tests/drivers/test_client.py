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

from smolvla_gym.drivers.board.event_log import EventLog, default_log_path
from smolvla_gym.drivers.board.inline import InlineBoard
from smolvla_gym.drivers.board.process import BoardProcess
from smolvla_gym.drivers.board.state import BoardSettings, Mode
from smolvla_gym.drivers.clock import SystemClock
from smolvla_gym.errors import ActionError, DeviceError, FaultError, NotHomedError
from smolvla_gym.parol6 import HOME
from smolvla_gym.parol6.protocol import Command
from smolvla_gym.twin.faults import Faults
from smolvla_gym.twin.firmware import Firmware
from smolvla_gym.twin.gripper import AirGripper
from smolvla_gym.twin.virtual_board import VirtualBoard
from tests.drivers.rig import POSE, Rig, homed_firmware

pytestmark = [
    pytest.mark.realtime,
    pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal"),
]

SETTINGS = BoardSettings(gripper="pneumatic")
STOP = 1.1
TARGET = np.array([*HOME, 1.0])


class Arm:
    """A virtual board in real time."""

    def __init__(self, firmware: Firmware) -> None:
        self.firmware, self.faults = firmware, Faults()
        self._world = time.monotonic()
        self.virtual = VirtualBoard(firmware, self.faults, self._advance)
        self.virtual.start()

    def _advance(self, moment: float) -> None:
        self.firmware.advance(moment - self._world)
        self._world = moment

    def counters(self) -> np.ndarray:
        with self.virtual.lock:
            return self.firmware.counters

    def moving(self) -> bool:
        before = self.counters()
        time.sleep(0.03)
        return bool(np.abs(self.counters() - before).max() > 1.0)

    def until(self, done, timeout: float) -> float:
        """Waits; returns how long it took in s."""
        begin = time.monotonic()
        while not done():
            assert time.monotonic() < begin + timeout
            time.sleep(0.002)
        return time.monotonic() - begin

    def disabled_within(self, timeout: float) -> float:
        took = self.until(lambda: self.firmware.disabled, timeout)
        assert self.firmware.command == Command.DISABLE
        assert not self.moving()
        return took


@pytest.fixture
def arm():
    arm = Arm(homed_firmware(POSE, AirGripper()))
    yield arm
    arm.virtual.close()


@pytest.fixture
def make_link(arm):
    links = []

    def make(**options) -> BoardProcess:
        links.append(BoardProcess(arm.virtual.path, SETTINGS, period=1 / 30, collision=False, **options))
        return links[-1]

    yield make
    for link in links:
        link.close()


def drive(link, arm, seconds=0.4) -> None:
    for _ in range(round(seconds / 0.03)):
        link.aim(TARGET)
        time.sleep(0.03)
    assert arm.moving()


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
    arm.faults.estop = True
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


# -- in lockstep -------------------------------------------------------------------------------------------------------


class LockstepClock:
    """Waiting on it lets the virtual arm run."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.link: InlineBoard | None = None

    def now(self) -> float:
        return self._rig.now

    def sleep_until(self, moment: float) -> None:
        while self._rig.now < moment - 1e-9:
            self._rig.now = min(self._rig.now + 0.002, moment)
            self.link.run_until(self._rig.now)
            self._rig.virtual.service()


@pytest.fixture
def inline(tmp_path):
    rig = Rig(homed=False)
    clock = LockstepClock(rig)
    clock.link = InlineBoard(rig.board, rig.settings, clock, EventLog(tmp_path / "log.jsonl"))
    clock.link.connect()
    yield clock.link, clock, rig
    clock.link.close()
    rig.close()


def test_in_lockstep(inline):
    link, clock, rig = inline
    with pytest.raises(NotHomedError):
        link.enable()
    states = []
    link.home(states.append)
    assert len(states) > 2500
    link.enable()
    for _ in range(30):
        link.aim(np.array([*HOME - 0.1, 1.0]))
        clock.sleep_until(clock.now() + 1 / 30)
    np.testing.assert_allclose(link.state().joints[3], -0.1, atol=1e-3)
    rig.faults.estop = True
    with pytest.raises(FaultError, match="estop"):
        link.calibrate_gripper() or clock.sleep_until(clock.now() + 0.1) or link.aim(TARGET)
    rig.faults.estop = False
    clock.sleep_until(clock.now() + 0.1)
    link.clear()
    link.enable()
    assert [event["fault"] for event in link.events() if event.get("rule") == "fault"] == ["estop"]
    link.close()
    assert rig.firmware.disabled
    with pytest.raises(DeviceError, match="closed"):
        link.enable()


# -- the log -----------------------------------------------------------------------------------------------------------


def test_a_log_that_cannot_be_written_is_reported_once(tmp_path, capsys):
    (tmp_path / "file").touch()
    log = EventLog(tmp_path / "file" / "log.jsonl")
    log.write({"time": 0.0, "rule": "fault"})
    log.close()
    folder = tmp_path / "log.jsonl"
    folder.mkdir()
    log = EventLog(folder)
    for k in range(3):
        log.write({"time": float(k), "rule": "fault"})
    log.close()
    assert capsys.readouterr().err.count("cannot be written") == 2


def test_the_log_does_not_repeat_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = default_log_path()
    assert path.is_relative_to(tmp_path)
    log = EventLog(path)
    for k in range(150):
        log.write({"time": k / 100, "rule": "position", "where": "joint_1", "why": "clamped"})
        log.write({"time": k / 100, "event": "shaping", "limits": {"speed": 1}})
    for _ in range(2):
        log.write({"time": 1.5, "rule": "fault", "where": "arm", "why": "estop"})
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all("T" in line["at"] for line in lines)
    assert [line.get("rule", line.get("event")) for line in lines] == [*["position", "shaping"] * 2, *["fault"] * 2]
    assert [line["not_written_before"] for line in lines[2:4]] == [99, 99]


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


def test_the_clock_is_the_one_that_states_carry():
    assert SystemClock().now() == pytest.approx(time.monotonic(), abs=0.1)
