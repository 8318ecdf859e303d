"""The grippers, over the board's packets, with simulated jaws that an obstacle may stop."""

import numpy as np
import pytest

from smolvla_gym.errors import UnknownNameError
from smolvla_gym.parol6.protocol import (
    Command,
    CommandFrame,
    GripperCommand,
    GripperFlag,
    GripperMode,
    GripperObject,
    GripperStatus,
    Line,
    StateFrame,
)
from smolvla_gym.twin.firmware import Firmware
from smolvla_gym.twin.gripper import SSG48, AirGripper, NoGripper, make_gripper

GO = GripperFlag.ACTIVATE | GripperFlag.GO_TO


class Rig:
    """A board with a gripper whose jaws cannot go below or above given openings."""

    def __init__(self, gripper):
        self.gripper = gripper
        self.firmware = Firmware(np.zeros(6), gripper)
        self.low, self.high, self.opening = 0.0, 1.0, gripper.target_opening

    def send(self, seconds=0.0, lines=0, **fields) -> GripperStatus:
        """Sends a command at 100 Hz, at least twice: a status is that from before its packet."""
        frame = CommandFrame(Command.IDLE, lines=lines, gripper=GripperCommand(**fields)).pack()
        for _ in range(max(round(seconds * 100), 2)):
            (answer,) = self.firmware.receive(frame)
            self.wait(0.01)
        return StateFrame.unpack(answer).gripper

    def wait(self, seconds):
        for _ in range(round(seconds * 500)):
            self.opening = min(max(self.gripper.target_opening, self.low), self.high)
            self.firmware.advance(0.002)
            self.gripper.advance(0.002, self.opening)

    def calibrate(self):
        frame = CommandFrame(Command.IDLE, gripper=GripperCommand(mode=GripperMode.CALIBRATE)).pack()
        self.firmware.receive(frame)
        return self.send(3.0)


@pytest.fixture
def rig():
    return Rig(SSG48())


@pytest.fixture
def ready(rig):
    assert rig.calibrate().calibrated
    return rig


def test_without_a_gripper_the_board_reports_its_own_defaults():
    for gripper in (NoGripper(), AirGripper()):
        assert Rig(gripper).send(0.1, position=255, speed=9, current=500, flags=GO) == GripperStatus()


def test_another_node_gets_no_answer(rig):
    assert rig.send(0.1, can_id=3) == GripperStatus()
    assert not rig.send(0.1).calibrated


def test_it_does_not_move_before_it_is_calibrated(rig):
    status = rig.send(1.0, position=255, speed=255, current=500, flags=GO)
    assert not status.calibrated
    assert status.activated
    assert status.action
    assert rig.opening == 1.0


def test_calibration_opens_then_closes_and_takes_its_time(rig):
    rig.gripper.advance(0.002, 0.5)
    rig.firmware.receive(CommandFrame(Command.IDLE, gripper=GripperCommand(mode=GripperMode.CALIBRATE)).pack())
    seen, seconds = [], 0.0
    while not rig.send().calibrated:
        seen.append(rig.opening)
        seconds += 0.02
        assert seconds < 5.0
    assert max(seen) == 1.0
    assert rig.opening == 0.0
    assert 2 * 0.64 + 1.0 < seconds < 2 * 0.64 + 2.0  # it stands at each stop for 0.64 s
    assert rig.send().position == 255


def test_sent_again_and_again_calibration_never_ends(rig):
    rig.send(5.0, mode=GripperMode.CALIBRATE)
    assert not rig.send(0.1).calibrated
    assert rig.send(3.0).calibrated


def test_the_bit_of_a_calibration_stays_set_during_another_one(ready):
    ready.firmware.receive(CommandFrame(Command.IDLE, gripper=GripperCommand(mode=GripperMode.CALIBRATE)).pack())
    assert ready.send(0.1).calibrated
    opened = [ready.send().position for _ in range(100)]
    assert min(opened) == 0
    assert ready.send(2.0).position == 255


def test_a_calibration_fails_after_its_own_timeout_and_clears_the_bit(ready):
    for _ in range(4):  # begun again and again it never stands long enough
        ready.send(5.0, mode=GripperMode.CALIBRATE)
    ready.firmware.receive(CommandFrame(Command.IDLE, gripper=GripperCommand(mode=GripperMode.CALIBRATE)).pack())
    ready.gripper.advance(29.0, 0.5)
    assert ready.gripper.calibrated
    ready.gripper.advance(2.0, 0.4)
    assert not ready.gripper.calibrated


def test_a_new_command_ends_a_calibration_and_the_next_one_begins_there(rig):
    rig.firmware.receive(CommandFrame(Command.IDLE, gripper=GripperCommand(mode=GripperMode.CALIBRATE)).pack())
    rig.send(1.0)  # it has opened
    assert rig.opening < 1.0
    rig.send(1.0, flags=GripperFlag.ACTIVATE)
    stopped = rig.opening
    assert not rig.send(1.0, flags=GripperFlag.ACTIVATE).calibrated
    assert rig.opening == stopped
    frame = GripperCommand(mode=GripperMode.CALIBRATE, flags=GripperFlag.ACTIVATE)
    rig.firmware.receive(CommandFrame(Command.IDLE, gripper=frame).pack())
    seen = []
    while not rig.send(flags=GripperFlag.ACTIVATE).calibrated:
        seen.append(rig.opening)
    assert max(seen) <= stopped
    assert rig.opening == 0.0


def test_calibration_fails_on_jaws_that_cannot_move(rig):
    rig.low = 0.98
    assert not rig.calibrate().calibrated


def test_calibration_on_an_object_takes_it_for_closed(rig):
    rig.low = 0.5
    assert rig.calibrate().position == 255
    rig.low = 0.0
    rig.send(1.0, position=255, speed=255, current=500, flags=GO)
    assert rig.opening == pytest.approx(0.5)


@pytest.mark.parametrize(("byte", "opening"), [(0, 1.0), (255, 0.0), (51, 0.8)])
def test_it_goes_to_a_position(ready, byte, opening):
    status = ready.send(1.0, position=byte, speed=255, current=500, flags=GO)
    assert ready.opening == pytest.approx(opening)
    assert status.position == byte
    assert status.object is GripperObject.AT_POSITION
    assert status.current == 0


@pytest.mark.parametrize("flags", [0, GripperFlag.ACTIVATE, GripperFlag.GO_TO])
def test_it_moves_only_when_activated_with_the_flag_go_to(ready, flags):
    ready.send(0.5, position=0, speed=255, current=500, flags=flags)
    assert ready.opening == 0.0


@pytest.mark.parametrize(("byte", "speed"), [(0, 0.000092), (128, 0.0924), (255, 0.18408)])
def test_the_speed_byte_is_the_documented_speed_of_a_jaw(ready, byte, speed):
    frame = CommandFrame(Command.IDLE, gripper=GripperCommand(0, byte, 500, GO)).pack()
    ready.firmware.receive(frame)
    before = ready.opening
    ready.wait(0.1)
    assert (ready.gripper.target_opening - before) * 0.024 == pytest.approx(speed * 0.1, rel=0.01)


def test_an_object_is_felt_while_closing_and_let_go(ready):
    ready.send(1.0, position=0, speed=128, current=400, flags=GO)
    ready.low = 0.6
    status = ready.send(0.1, position=255, speed=128, current=400, flags=GO)
    assert status.moving
    status = ready.send(1.0, position=255, speed=128, current=400, flags=GO)
    assert status.object is GripperObject.WHILE_CLOSING
    assert status.position == 102
    assert status.current == 400
    assert status.status == 0x80 | 0x40 | 0x20 | 0x01
    assert ready.gripper.target_opening == 0.0  # it goes on pushing
    status = ready.send(0.05, position=0, speed=128, current=400, flags=GO)
    assert status.moving
    assert ready.opening > 0.6
    assert ready.send(1.0, position=0, speed=128, current=400, flags=GO).object is GripperObject.AT_POSITION


def test_an_object_that_slips_away_is_no_longer_felt(ready):
    ready.send(1.0, position=0, speed=128, current=400, flags=GO)
    ready.low = 0.4
    assert ready.send(1.0, position=255, speed=128, current=400, flags=GO).object is GripperObject.WHILE_CLOSING
    ready.low = 0.0
    status = ready.send(0.2, position=255, speed=128, current=400, flags=GO)
    assert status.object is GripperObject.AT_POSITION
    assert status.position == 255


def test_an_object_between_the_jaws_from_outside_is_felt_while_opening(ready):
    ready.high = 0.3
    status = ready.send(1.0, position=0, speed=128, current=400, flags=GO)
    assert status.object is GripperObject.WHILE_OPENING
    assert status.current == -400


def test_its_stop_is_latched_until_cleared(ready):
    go = {"position": 0, "speed": 128, "current": 400}
    ready.send(0.05, **go, flags=GO)
    status = ready.send(0.1, **go, flags=GO | GripperFlag.ESTOP)
    held = ready.opening
    assert status.estop_error
    assert 0.0 < held < 1.0
    assert ready.send(1.0, **go, flags=GO).estop_error
    assert ready.opening == held
    ready.send(mode=GripperMode.CLEAR_ERROR)
    status = ready.send(1.0, **go, flags=GO)
    assert not status.estop_error
    assert ready.opening == 1.0


def test_without_power_it_forgets_its_calibration_and_stays_where_it_is(ready):
    ready.firmware.reboot()
    ready.wait(0.5)
    assert ready.opening == 0.0
    assert not ready.send(0.1).calibrated


def test_air_opens_with_the_first_output_and_closes_without():
    rig = Rig(AirGripper())
    rig.send(0.05, lines=Line.OUT1)
    assert 0.0 < rig.opening < 1.0
    rig.send(0.5, lines=Line.OUT1)
    assert rig.opening == 1.0
    rig.send(0.5, lines=Line.OUT2)
    assert rig.opening == 0.0


def test_grippers_by_name():
    assert isinstance(make_gripper("ssg48"), SSG48)
    assert isinstance(make_gripper("pneumatic"), AirGripper)
    with pytest.raises(UnknownNameError):
        make_gripper("hand")
