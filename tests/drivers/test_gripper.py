"""How an electric gripper fails, and comes back."""

from __future__ import annotations

import struct

import pytest

from smolvla_gym.drivers.board.state import Mode
from smolvla_gym.parol6.protocol import GripperFlag, GripperMode
from smolvla_gym.twin.gripper import SSG48, Can, make_gripper
from tests.drivers.rig import POSE


def calibrations(rig) -> int:
    return [frame.gripper.mode for _, frame in rig.frames].count(GripperMode.CALIBRATE)


def test_a_failed_gripper_is_asleep_until_the_arm_is_enabled_again(make_rig):
    rig = make_rig(gripper=None).start()
    rig.board.enable(rig.now)
    rig.run(2.0)
    assert rig.state.fault == "gripper_failed"
    rig.firmware.gripper = make_gripper("ssg48")
    rig.frames.clear()
    rig.run(1.0)
    assert calibrations(rig) == 0
    assert not any(frame.gripper.flags for _, frame in rig.frames)
    rig.board.clear(rig.now)
    rig.run(1.0)
    assert rig.state.fault is None
    rig.ready()


def test_a_gripper_is_not_woken_any_more_once_enabling_was_given_up(make_rig):
    rig = make_rig(gripper=None).start()
    rig.board.enable(rig.now)
    rig.run(0.1)
    rig.board.disable(rig.now)
    rig.run(2.0)
    assert rig.state.fault is None
    assert rig.state.mode is Mode.DISABLED


def test_a_calibration_that_got_lost_on_the_bus_is_asked_for_again(make_rig):
    rig = make_rig(calibrated=False)
    obey, lost = rig.firmware.gripper.on_can, []

    def lose_one(node, command, data):
        if command == Can.CALIBRATE and not lost:
            lost.append(command)
            return None
        return obey(node, command, data)

    rig.firmware.gripper.on_can = lose_one
    rig.ready()
    assert calibrations(rig) == 2
    assert rig.firmware.gripper.calibrated


def test_another_calibration_has_ended_when_both_ends_were_seen(make_rig):
    """The bit of the first one stays set, and a target that is sent too early would end it."""
    rig = make_rig().ready()
    rig.aim(POSE, 0.5)
    rig.run(0.5)
    ended = []
    rig.board.calibrate_gripper(rig.now)
    while not rig.state.gripper_ready:
        ended.append(rig.state.opening)
        rig.aim(POSE, 0.5)
        rig.run(0.05)
        assert len(ended) < 200
    assert calibrations(rig) == 1
    assert max(ended) == 1.0
    assert rig.state.opening == 0.0
    assert 2.3 < 0.05 * len(ended) < 4.5
    rig.run(0.5)
    assert rig.state.fault is None


def test_another_calibration_that_got_lost_is_not_taken_for_one(make_rig):
    rig = make_rig().ready()
    rig.aim(POSE, 1.0)
    rig.run(1.0)
    obey = rig.firmware.gripper.on_can
    rig.firmware.gripper.on_can = lambda node, command, data: (
        None if command == Can.CALIBRATE else obey(node, command, data)
    )
    rig.board.calibrate_gripper(rig.now)
    for _ in range(60):
        rig.aim(POSE, 1.0)
        rig.run(0.1)
    assert calibrations(rig) == 3
    assert not rig.state.gripper_ready


@pytest.mark.parametrize("error", ["power", "estop"])
def test_a_gripper_that_fails_while_the_arm_moves(make_rig, error):
    rig = make_rig().ready()
    rig.aim(POSE, 0.5)
    rig.run(0.1)
    if error == "power":
        rig.firmware.gripper.power_cycle()
    else:
        rig.firmware.gripper.on_can(SSG48.NODE, Can.OPERATE, struct.pack(">BBhB", 0, 0, 0, GripperFlag.ESTOP))
    rig.run(0.1)
    assert rig.state.fault == "gripper_failed"
    rig.run(1.0)
    rig.board.clear(rig.now)
    rig.run(0.5)
    assert rig.state.fault is None
    rig.ready()
    rig.run(0.5)
    assert rig.state.fault is None


def test_a_fault_leaves_the_jaws_as_they_are(make_rig):
    rig = make_rig().ready()
    rig.aim(POSE, 0.5)
    rig.run(0.1)
    held = rig.frames[-1][1].gripper
    rig.board.hold("camera_stale", rig.now)
    rig.run(1.0)
    assert rig.frames[-1][1].gripper == held
