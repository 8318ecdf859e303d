"""The board's driver: the arm stops for every reason there is, and nothing outside the limits is ever sent."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

from smolvla_gym.drivers.board.state import TICK, BoardSettings, BoardState, Mode
from smolvla_gym.errors import ActionError, DeviceError, FaultError, NotHomedError
from smolvla_gym.parol6 import (
    HOME,
    JOINT_LOWER,
    JOINT_UPPER,
    MAX_ACCELERATION,
    MAX_SPEED,
    STEPS_PER_RAD,
    rad_from_steps,
    steps_from_rad,
)
from smolvla_gym.parol6.protocol import Command, CommandFrame, GripperFlag, GripperMode, Line, StateFrame
from smolvla_gym.safety import SafetyGate
from tests.drivers.rig import POSE, kill_switch

STOP = 1.1
"""The longest controlled stop from full speed in s, and the time to settle."""


# -- connecting and enabling -------------------------------------------------------------------------------------------


def test_connecting_ends_a_jog_that_a_program_before_left(rig):
    rig.firmware.receive(CommandFrame(Command.ENABLE).pack())
    rig.firmware.receive(CommandFrame(Command.JOG, speed=(3000, 0, 0, 0, 0, 0)).pack())
    rig.start()
    assert rig.frames[0][1].command == Command.DISABLE
    assert rig.until_still(0.2) == 0.0
    assert rig.state.mode is Mode.DISABLED
    assert not rig.state.velocity.any()  # the board goes on reporting the speed of the jog


def test_a_port_without_a_board(rig):
    rig.faults.silence = True
    rig.start()
    rig.run(1.2)
    assert rig.state.mode is Mode.LOST
    assert rig.state.fault == "port_lost"
    assert "PAROL6" in rig.state.detail
    with pytest.raises(FaultError, match="port_lost"):
        rig.board.enable(rig.now)


def test_enabling_needs_homed_joints(make_rig):
    rig = make_rig(homed=False).start()
    with pytest.raises(NotHomedError):
        rig.board.enable(rig.now)
    with pytest.raises(FaultError, match="not enabled"):
        rig.aim(POSE)


def test_the_first_setpoint_is_the_measured_pose(rig):
    rig.ready()
    measured = StateFrame().position, tuple(steps_from_rad(POSE).tolist())
    rig.run(0.3)
    moves = [frame for _, frame in rig.frames if frame.command == Command.MOVE]
    assert len(moves) >= 30
    assert {frame.position for frame in moves} == {measured[1]}
    assert {frame.speed for frame in moves} == {(0,) * 6}
    assert rig.until_still(0.1) == 0.0


def test_an_arm_outside_its_limits_comes_back_and_goes_no_farther(make_rig):
    pose = POSE.copy()
    pose[3] = JOINT_UPPER[3] + 0.1
    rig = make_rig(joints=pose).ready()
    target = pose.copy()
    target[3] += 0.5
    for _ in range(30):
        rig.aim(target)
        rig.run(0.03)
    assert rig.state.fault is None
    assert max(frame.position[3] for _, frame in rig.frames) <= steps_from_rad(pose)[3]
    assert rig.joints[3] == pytest.approx(JOINT_UPPER[3], abs=1e-3)


# -- motion ------------------------------------------------------------------------------------------------------------


def test_setpoints_are_the_gates_half_a_tick_ahead(rig):
    rig.ready()
    target = np.array([*HOME, 1.0])
    gate = SafetyGate(1 / 30)
    gate.reset(rig.state.joints)
    arrived = rig.now - 0.002
    rig.board.aim(target, arrived)
    gate.aim(target)
    sent = []
    for k in range(16):
        rig.now += 0.004 * (k % 3)  # late ticks make no jumps
        rig.tick()
        sent.append(rig.frames[-1][1])
        gate.advance(TICK if k else TICK / 2 + 0.002)
        np.testing.assert_allclose(sent[-1].position, gate.position * STEPS_PER_RAD, atol=1.51)
        np.testing.assert_allclose(sent[-1].speed, gate.velocity * STEPS_PER_RAD, atol=1.51)


def test_the_arm_arrives(rig):
    rig.ready()
    target = POSE + np.array([0.2, 0.1, -0.1, 0.3, 0.2, -0.3])
    for _ in range(60):
        rig.aim(target, 0.4)
        rig.run(0.03)
    np.testing.assert_allclose(rig.state.joints, target, atol=3e-4)
    assert rig.state.opening == pytest.approx(0.4, abs=0.01)
    assert rig.state.at_rest
    assert rig.state.fault is None


def test_a_wrong_action_moves_nothing(rig):
    rig.ready()
    for action in (np.full(7, np.nan), np.zeros(6), [0.0] * 7, np.array([np.inf, *np.zeros(6)])):
        with pytest.raises(ActionError):
            rig.board.aim(action, rig.now)
    assert rig.until_still(0.1) == 0.0


@pytest.mark.parametrize(
    ("seed", "actions"),
    [*((seed, 500) for seed in range(5)), *(pytest.param(seed, 2000, marks=pytest.mark.slow) for seed in range(5, 10))],
)
def test_nothing_outside_the_limits_is_ever_sent(make_rig, seed, actions):
    rng = np.random.default_rng(seed)
    rig = make_rig().ready()
    rig.frames.clear()
    middle, span = (JOINT_LOWER + JOINT_UPPER) / 2, (JOINT_UPPER - JOINT_LOWER) / 2
    before = rig.state.joints
    for _ in range(actions):
        kind = rng.integers(8)
        action = np.array([*(middle + rng.uniform(-1, 1, 6) * span), rng.uniform(-1, 2)])
        if kind == 0:
            action[rng.integers(7)] = rng.choice([np.nan, np.inf, -np.inf])
        elif kind == 1:
            action[:6] = middle + span * rng.choice([-1.0, 1.0, -3.0, 3.0], 6)
        elif kind == 2:
            action *= rng.choice([1e3, -1e6, 1e30, -1e300])
        elif kind == 3:
            action[:6] = before + rng.choice([-1.0, 1.0], 6) * rng.uniform(0, 0.1)
        elif kind == 4:
            rig.board.finish()
        elif kind == 5:
            action = action.astype(rng.choice([np.float16, np.float32]))
        with np.errstate(all="ignore"), contextlib.suppress(ActionError):
            rig.board.aim(action, rig.now - rng.uniform(0.0, 0.012))
        rig.now += rng.choice([0.0, 0.0, 0.003, 0.02])
        for _ in range(rng.choice([1, 1, 1, 4])):
            rig.tick()
        before = rig.state.joints
    assert rig.state.fault is None, rig.state
    moves = [frame for _, frame in rig.frames if frame.command == Command.MOVE]
    assert len(moves) >= actions
    position = np.array([moves[0].position] * 2 + [frame.position for frame in moves]) / STEPS_PER_RAD
    step = 1 / STEPS_PER_RAD  # positions are rounded to whole steps, and those that would end with FF to the one below
    assert (position >= JOINT_LOWER - step / 2 - 1e-9).all()
    assert (position <= JOINT_UPPER + step / 2 + 1e-9).all()
    assert (np.abs(np.diff(position, axis=0)) <= 1.001 * MAX_SPEED * TICK + 2 * step).all()
    assert (np.abs(np.diff(position, 2, axis=0)) <= 1.05 * MAX_ACCELERATION * TICK**2 + 4 * step).all()
    speed = np.array([frame.speed for frame in moves]) / STEPS_PER_RAD
    assert (np.abs(speed) <= 1.001 * MAX_SPEED + 2 * step).all()
    assert np.abs(np.diff(position, axis=0)).max() > 0.5 * (MAX_SPEED * TICK).min()  # it did move


# -- faults ------------------------------------------------------------------------------------------------------------


def _estop(rig):
    rig.faults.estop = True


def _silence(rig):
    rig.faults.silence = True


def _mend(rig):
    rig.faults.clear()


def _lag(rig):
    rig.firmware.shift_counter(1, 0.2 * STEPS_PER_RAD[1])


def _disobey(rig):
    true = rig.firmware._state
    rig.firmware._state = lambda: StateFrame(**{**vars(true()), "command": Command.IDLE})


def _obey(rig):
    del rig.firmware._state


@pytest.mark.parametrize(
    ("name", "cause", "cure", "seen", "stop"),
    [
        ("estop", _estop, _mend, TICK, TICK),
        ("feedback_timeout", _silence, _mend, 0.13, STOP),
        ("following_error", _lag, None, TICK, TICK),
        ("not_obeying", _disobey, _obey, 0.22, TICK),
        ("homing_lost", lambda rig: rig.firmware.lose_homing(), None, TICK, TICK),
        ("command_timeout", lambda rig: None, None, 3.02, 0.0),
        ("camera_stale", lambda rig: rig.board.hold("camera_stale", rig.now), None, 0.0, STOP),
        ("command_limit", lambda rig: rig.gate.reset(POSE + 1.0), None, TICK, TICK),
    ],
)
def test_fault(rig, name, cause, cure, seen, stop):
    rig.ready().move()
    cause(rig)
    assert rig.run(4.0, lambda: rig.state.fault is not None) <= seen + 2 * TICK
    assert rig.state.fault == name
    assert rig.state.detail
    assert rig.until_still(1.5) <= stop + 2 * TICK
    assert rig.firmware.disabled
    assert rig.firmware.command == Command.DISABLE
    for call in (rig.board.enable, rig.board.home, rig.board.calibrate_gripper):
        with pytest.raises(FaultError, match=name):
            call(rig.now)
    with pytest.raises(FaultError, match=name):
        rig.aim(POSE)
    if cure is not None:
        with pytest.raises(FaultError, match="still"):
            rig.board.clear(rig.now)
        cure(rig)
        rig.run(0.05)
        assert rig.state.fault == name  # latched
    rig.board.clear(rig.now)
    assert rig.state.fault is None
    rig.run(0.2)
    assert rig.state.mode is Mode.DISABLED
    with pytest.raises(FaultError, match="not enabled"):
        rig.aim(POSE)
    if name in ("homing_lost", "estop"):  # stopped at speed, the motors may have slipped
        with pytest.raises(NotHomedError, match="slipped" if name == "estop" else "home it first"):
            rig.board.enable(rig.now)
        return
    rig.board.enable(rig.now)
    rig.run(1.0, lambda: rig.state.mode is Mode.READY)
    assert rig.state.mode is Mode.READY
    assert rig.until_still(0.2) == 0.0
    assert name in rig.events("fault")


def test_the_estop_is_answered_in_the_same_tick(rig):
    rig.ready().move()
    rig.faults.estop = True
    before = len(rig.frames)
    rig.tick()
    assert [frame.command for _, frame in rig.frames[before:]] == [Command.MOVE, Command.DISABLE]


def test_an_estop_at_rest_needs_no_homing(rig):
    rig.ready()
    rig.faults.estop = True
    rig.tick()
    assert rig.state.detail == "The emergency stop is pressed."
    assert rig.state.homed
    rig.faults.clear()
    rig.run(0.05)
    rig.board.clear(rig.now)
    rig.ready()


def test_after_an_estop_at_speed_the_arm_is_homed_again(rig):
    rig.ready().move()
    rig.faults.estop = True
    rig.tick()
    assert "slipped" in rig.state.detail
    rig.faults.clear()
    rig.run(0.05)
    rig.board.clear(rig.now)
    assert not rig.state.homed
    rig.board.home(rig.now)
    rig.run(75.0, lambda: rig.state.mode is not Mode.HOMING)
    assert rig.state.fault is None
    assert rig.state.homed
    rig.ready()


def test_faults_show_while_disabled(rig):
    rig.start()
    rig.faults.estop = True
    rig.run(0.05)
    assert rig.state.fault == "estop"
    assert rig.state.estop


def test_an_estop_replaces_another_fault(rig):
    rig.ready().move()
    rig.board.hold("camera_stale", rig.now)
    rig.run(0.05)
    rig.faults.estop = True
    rig.run(0.05)
    assert rig.state.fault == "estop"
    assert rig.state.mode is Mode.DISABLED


def test_a_joint_beyond_its_limits(rig):
    rig.ready()
    target = POSE.copy()
    target[3] = JOINT_UPPER[3]
    for _ in range(60):
        rig.aim(target)
        rig.run(0.03)
    rig.firmware.shift_counter(3, np.deg2rad(2.0) * STEPS_PER_RAD[3])
    rig.run(0.02)
    assert rig.state.fault == "position_limit"
    assert rig.firmware.disabled


def test_a_pulled_cable(rig):
    rig.ready().move()
    rig.virtual.unplug()
    rig.run(0.02)
    assert rig.state.fault == "port_lost"
    assert rig.state.mode is Mode.LOST
    assert rig.until_still(1.0) < 0.3  # the board goes to the last target by itself
    with pytest.raises(DeviceError):
        rig.board.clear(rig.now)
    rig.virtual.replug()
    rig.board.clear(rig.now)
    rig.run(0.1)
    assert rig.state.fault is None
    assert rig.state.mode is Mode.DISABLED
    assert rig.firmware.disabled


@pytest.mark.parametrize("fault", ["partial", "corrupt", "wrong_length"])
def test_answers_that_are_broken_stop_the_arm(rig, fault):
    rig.ready().move()
    setattr(rig.faults, fault, True)
    rig.run(1.0, lambda: rig.state.fault is not None)
    assert rig.state.fault is not None
    assert rig.until_still(2.0) <= STOP + 2 * TICK
    assert rig.firmware.disabled


@pytest.mark.parametrize(("fault", "age"), [(("drip", True), 2 * TICK), (("delay_s", 0.02), 3 * TICK)])
def test_answers_that_come_late_are_understood(rig, fault, age):
    setattr(rig.faults, *fault)
    rig.ready().move(1.0)
    rig.run(0.1)
    assert rig.state.fault is None
    assert rig.now - rig.state.time == pytest.approx(age)  # the next tick is due


def test_no_action_brakes_and_the_next_one_goes_on(rig):
    rig.ready().move()
    rig.board.drain_events()
    moved = rig.until_still(2.0)
    assert 0.2 < moved < 0.25 + STOP
    assert "watchdog" in rig.events("rule")
    assert rig.state.mode is Mode.READY
    rig.move()
    assert rig.state.fault is None


def test_between_episodes_no_actions_are_expected(rig):
    rig.ready().move()
    rig.board.finish()
    rig.run(5.0)
    assert rig.state.mode is Mode.READY
    assert rig.state.fault is None
    rig.move()
    rig.run(4.0)
    assert rig.state.fault == "command_timeout"


def test_disabling_brakes_first(rig):
    rig.ready().move()
    before = len(rig.frames)
    rig.board.disable(rig.now)
    assert rig.run(3.0, lambda: rig.state.mode is Mode.DISABLED) < STOP
    moves = [f.position for _, f in rig.frames[before:] if f.command == Command.MOVE]
    step = np.diff(np.array(moves), axis=0) / STEPS_PER_RAD / TICK
    assert len(step) > 15
    assert np.abs(step[-1]).max() < 1e-3
    assert rig.state.fault is None


# -- homing ------------------------------------------------------------------------------------------------------------


def test_homing_that_takes_too_long(make_rig):
    rig = make_rig(homed=False, homing_timeout=2.0).start()
    rig.board.home(rig.now)
    rig.run(2.1)
    assert rig.state.fault == "homing_failed"
    assert rig.firmware.disabled
    assert rig.until_still(0.1) == 0.0


def test_homing_whose_switch_is_broken(make_rig):
    rig = make_rig(homed=False).start()
    kill_switch(rig.firmware, 0)
    rig.board.home(rig.now)
    rig.run(30.0, lambda: rig.state.fault is not None)
    assert rig.state.fault == "homing_failed"
    assert "joint_1" in rig.state.detail
    assert rig.firmware.disabled
    assert rig.until_still(0.1) == 0.0


def test_homing_without_answers(make_rig):
    rig = make_rig(homed=False).start()
    rig.board.home(rig.now)
    rig.run(1.0)
    rig.faults.silence = True
    rig.run(0.13)
    assert rig.state.fault == "feedback_timeout"
    assert rig.firmware.disabled


# -- grippers ----------------------------------------------------------------------------------------------------------


def test_enabling_calibrates_a_gripper_that_is_not(make_rig):
    rig = make_rig(calibrated=False).ready()
    rig.run(0.05)
    assert [f.gripper.mode for _, f in rig.frames].count(GripperMode.CALIBRATE) == 1
    assert rig.firmware.gripper.calibrated
    assert rig.state.gripper_ready
    assert rig.state.opening == pytest.approx(0.0, abs=0.01)
    gripper = rig.frames[-1][1].gripper
    assert (gripper.position, gripper.speed, gripper.current) == (255, 139, 500)
    assert gripper.flags == GripperFlag.ACTIVATE | GripperFlag.GO_TO


def test_a_gripper_that_is_missing(make_rig):
    rig = make_rig(gripper=None).start()
    rig.board.enable(rig.now)
    rig.run(2.0)
    assert rig.state.fault == "gripper_failed"
    assert "CAN" in rig.state.detail
    assert rig.firmware.disabled


def test_calibrating_again(rig):
    rig.ready()
    rig.board.calibrate_gripper(rig.now)
    rig.run(0.1)
    assert not rig.state.gripper_ready
    assert rig.run(5.0, lambda: rig.state.gripper_ready) < 4.0
    assert rig.state.gripper_ready
    assert rig.state.mode is Mode.READY


@pytest.mark.parametrize("invert", [False, True])
def test_an_air_gripper(make_rig, invert):
    rig = make_rig(gripper="pneumatic", invert_output=invert).ready()
    for opening in (1.0, 0.2, 0.8):
        rig.aim(POSE, opening)
        rig.run(0.03)
        assert rig.state.opening == round(opening)
        assert (Line.OUT1 in rig.firmware.outputs) == (bool(round(opening)) != invert)
    before = rig.firmware.outputs
    rig.board.disable(rig.now)
    rig.run(0.5)
    assert rig.firmware.outputs == before  # what it holds it does not drop


# -- data --------------------------------------------------------------------------------------------------------------


def test_a_state_survives_json(rig):
    state = rig.ready().state
    again = BoardState.from_json(json.loads(json.dumps(state.to_json())))
    assert repr(again) == repr(state)
    unknown = BoardState()
    assert repr(BoardState.from_json(json.loads(json.dumps(unknown.to_json())))) == repr(unknown)


def test_joints_run_on_for_two_ticks(rig):
    state = rig.ready().move().state
    np.testing.assert_allclose(state.joints_at(state.time), state.joints)
    np.testing.assert_allclose(state.joints_at(state.time + 0.015), state.joints + 0.015 * state.velocity)
    np.testing.assert_allclose(state.joints_at(state.time + 9.0), state.joints + 0.02 * state.velocity)
    true = rad_from_steps(rig.firmware.counters)  # a tick later
    np.testing.assert_allclose(state.joints_at(state.time + TICK), true, atol=4e-3)


def test_settings_are_checked():
    for wrong in ({"gripper": "claw"}, {"hold_after": -1.0}, {"feedback_timeout": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            BoardSettings(**wrong)
