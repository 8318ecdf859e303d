"""What the board's driver does not take for granted: its own punctuality, single answers, the board's word."""

from __future__ import annotations

import numpy as np
import pytest

from smolvla_gym.drivers.board.state import TICK, Mode
from smolvla_gym.errors import FaultError, NotHomedError
from smolvla_gym.parol6 import HOME, MAX_ACCELERATION, STEPS_PER_RAD, rad_from_steps
from smolvla_gym.parol6.protocol import Command


def test_homing_and_homing_again_after_an_interruption(make_rig):
    rig = make_rig(homed=False).start()
    rig.board.home(rig.now)
    with pytest.raises(FaultError):
        rig.board.enable(rig.now)
    rig.run(12.0)
    assert rig.state.mode is Mode.HOMING
    rig.faults.estop = True
    rig.tick()
    assert rig.frames[-1][1].command == Command.DISABLE
    assert rig.state.fault == "estop"
    rig.faults.estop = False
    rig.run(0.05)
    rig.board.clear(rig.now)
    rig.run(0.05)

    # The firmware now skips the switches that it had found: it would drive J2 into the table and call the arm homed.
    before = rig.firmware.motor
    rig.board.home(rig.now)
    took = rig.run(60.0, lambda: rig.state.mode is not Mode.HOMING)
    assert rig.state.fault == "homing_unverified"
    assert "joint_3" in rig.state.detail
    assert "power" in rig.state.detail
    assert took < 2.0
    assert np.rad2deg(rad_from_steps(rig.firmware.motor - before))[:3] == pytest.approx([0.0, 0.0, 0.0], abs=25.0)
    rig.board.clear(rig.now)
    rig.run(0.05)
    # A driver that comes after this one must not believe it either.
    assert not any(rig.state.homed_joints)
    assert not rig.state.homed
    with pytest.raises(NotHomedError):
        rig.board.enable(rig.now)

    rig.firmware.reboot()
    rig.run(0.05)
    rig.board.home(rig.now)
    rig.run(60.0, lambda: rig.state.mode is not Mode.HOMING)
    assert rig.state.fault is None
    assert rig.state.homed
    np.testing.assert_allclose(rig.state.joints, HOME, atol=1e-4)
    np.testing.assert_allclose(rig.firmware.offset, 0.0, atol=1.0)
    rig.board.enable(rig.now)
    rig.run(5.0, lambda: rig.state.mode is Mode.READY)
    assert rig.state.mode is Mode.READY


@pytest.mark.parametrize("stall", [0.05, 0.1, 0.2, 1.0, 10.0])
def test_a_driver_that_stood_still_begins_anew_from_rest(rig, stall):
    rig.ready().move(0.4)
    sent = len(rig.frames)
    rig.now += stall
    rig.virtual.service()
    if stall < 0.25:
        rig.aim(HOME)
    rig.run(1.0)
    moves = [frame.position for _, frame in rig.frames[sent - 1 :] if frame.command == Command.MOVE]
    speed = np.diff(moves, axis=0) / TICK
    # From rest: at first no faster than a tick of full acceleration.
    assert np.all(np.abs(speed[0]) <= MAX_ACCELERATION * STEPS_PER_RAD * TICK)
    assert (rig.state.fault == "feedback_timeout") is (stall > 0.25)


@pytest.mark.parametrize("seed", range(30))
def test_a_wrong_answer_is_not_taken_for_the_pose(rig, seed):
    rig.virtual.reseed(seed)
    rig.start()
    rig.board.enable(rig.now)
    for tick in range(40):
        rig.faults.corrupt = tick % 2 == 0
        rig.tick()
        if rig.state.mode is Mode.READY:
            np.testing.assert_allclose(rig.state.commanded, rad_from_steps(rig.firmware.counters), atol=1e-6)
            return
    assert rig.state.mode in (Mode.ENABLING, Mode.DISABLED)
