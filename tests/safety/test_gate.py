"""Every setpoint of the gate is within all limits, for any action."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolvla_gym.errors import ActionError
from smolvla_gym.parol6 import ACTION_NAMES, JOINT_LOWER, JOINT_UPPER, MAX_ACCELERATION, MAX_JERK, MAX_SPEED, STANDBY
from smolvla_gym.safety import SafetyGate

DT = st.sampled_from([1 / 100, 1 / 50, 1 / 30, 1 / 10, 1 / 5])
SPAN = JOINT_UPPER - JOINT_LOWER
SHARE = st.one_of(st.floats(-0.2, 1.2), st.sampled_from([-1e6, 0.0, 1.0, 1e6]))
TARGET = st.lists(SHARE, min_size=6, max_size=6).map(lambda s: np.append(JOINT_LOWER + np.array(s) * SPAN, 0.5))
INSIDE = st.lists(st.floats(0, 1), min_size=6, max_size=6).map(
    lambda s: np.clip(JOINT_LOWER + np.array(s) * SPAN, JOINT_LOWER, JOINT_UPPER)
)


FINE = 20  # samples of a control step


def drive(gate, start, targets, dt):
    """Commanded angles, speeds, accelerations and jerks on the way to each target for dt, by finite differences."""
    gate.reset(start)
    path = [np.tile(start, (4, 1))]
    for target in targets:
        gate.aim(target)
        path.append(gate.travel(dt, FINE)[0])
    path = np.vstack(path)
    speed = np.diff(path, axis=0) * FINE / dt
    acceleration = np.diff(speed, axis=0) * FINE / dt
    return path, speed, acceleration, np.diff(acceleration, axis=0) * FINE / dt


def check_limits(path, speed, acceleration, jerk, dt):
    assert np.all(path >= JOINT_LOWER)
    assert np.all(path <= JOINT_UPPER)
    # Angles of a few rad are only known to 1e-15 and the planner's to 1e-12, their differences accordingly.
    h = dt / FINE
    assert np.all(np.abs(speed) <= MAX_SPEED * (1 + 1e-6) + 1e-11 / h)
    assert np.all(np.abs(acceleration) <= MAX_ACCELERATION * (1 + 1e-6) + 1e-11 / h**2)
    assert np.all(np.abs(jerk) <= MAX_JERK * (1 + 1e-6) + 1e-11 / h**3)


@settings(max_examples=150, deadline=None)
@given(DT, INSIDE, st.lists(st.tuples(TARGET, st.integers(1, 12)), min_size=1, max_size=8))
def test_any_sequence_of_targets_stays_within_the_limits(dt, start, moves):
    targets = [target for target, repeats in moves for _ in range(repeats)]
    check_limits(*drive(SafetyGate(dt), start, targets, dt), dt)


@settings(max_examples=60, deadline=None)
@given(DT, INSIDE, TARGET, TARGET)
def test_so_do_targets_that_alternate_at_every_step(dt, start, one, other):
    check_limits(*drive(SafetyGate(dt), start, [one, other] * 40, dt), dt)


@settings(max_examples=60, deadline=None)
@given(DT, st.booleans(), st.integers(1, 30))
def test_turning_round_at_full_speed_before_a_limit_is_within_them_too(dt, up, steps):
    far, back = (JOINT_UPPER, JOINT_LOWER) if up else (JOINT_LOWER, JOINT_UPPER)
    targets = [np.append(far, 0.0)] * steps + [np.append(back, 0.0)] * 5 + [np.append(far, 0.0)] * 400
    check_limits(*drive(SafetyGate(dt), (JOINT_LOWER + JOINT_UPPER) / 2, targets, dt), dt)


@settings(max_examples=100, deadline=None)
@given(DT, INSIDE, INSIDE)
def test_a_constant_target_is_reached_with_all_joints_together_and_never_passed(dt, start, goal):
    # The slowest joint needs its way at full speed, and a while to speed up and to brake.
    steps = int((np.max(SPAN / MAX_SPEED) + 4 * np.max(MAX_SPEED / MAX_ACCELERATION) + 1) / dt) + 10
    path, *rates = drive(SafetyGate(dt), start, [np.append(goal, 0.5)] * steps, dt)
    check_limits(path, *rates, dt)
    np.testing.assert_allclose(path[-1], goal, atol=1e-8)
    passed = (path - goal) * np.sign(start - goal)
    assert np.min(passed) >= -1e-8


@settings(max_examples=60, deadline=None)
@given(INSIDE, TARGET, st.integers(0, 40))
def test_a_hold_stops_as_fast_as_the_limits_allow(start, target, steps):
    gate = SafetyGate(1 / 30)
    gate.reset(start)
    gate.aim(target)
    gate.travel(steps / 30, 1)
    speed = np.abs(gate.velocity)
    gate.hold()
    time = speed / MAX_ACCELERATION + 3 * MAX_ACCELERATION / MAX_JERK
    gate.travel(np.max(time), 1)
    assert gate.at_rest
    np.testing.assert_allclose(gate.velocity, 0.0, atol=1e-9)
    position = gate.position
    gate.travel(1.0, 5)
    np.testing.assert_array_equal(gate.position, position)


def test_a_plan_goes_on_to_its_target_without_new_ones():
    gate, goal = SafetyGate(1 / 30), STANDBY + 0.1
    gate.reset(STANDBY)
    gate.aim(np.append(goal, 0.2))
    for _ in range(300):
        gate.advance(0.01)
    assert gate.at_rest
    np.testing.assert_allclose(gate.position, goal)
    assert gate.opening == pytest.approx(0.2)


def test_from_outside_the_limits_the_arm_only_comes_back_and_does_not_jump():
    gate = SafetyGate(1 / 30)
    outside = np.array(STANDBY)
    outside[1] = JOINT_UPPER[1] + 0.2
    path, *_ = drive(gate, outside, [np.append(STANDBY + 9.0, 0.0)] * 20 + [np.append(STANDBY, 0.0)] * 90, 1 / 30)
    assert np.max(path[:, 1]) <= outside[1]
    assert np.max(np.abs(np.diff(path[:, 1]))) <= MAX_SPEED[1] / 30 / FINE * (1 + 1e-6)
    np.testing.assert_allclose(path[-1], STANDBY, atol=1e-6)


@settings(max_examples=150, deadline=None)
@given(DT, INSIDE, st.lists(st.tuples(TARGET, st.integers(1, 30)), min_size=1, max_size=4))
def test_each_change_is_reported_and_nothing_else(dt, start, moves):
    gate = SafetyGate(dt)
    gate.reset(start)
    for target, repeats in moves:
        for _ in range(repeats):
            before = gate.position
            interventions, shaping = gate.aim(target)
            gate.travel(dt, 1)
            changed = np.append(np.abs(gate.position - target[:6]), abs(gate.opening - target[6]))
            if not interventions and not shaping:
                assert np.max(changed[:6]) <= 1e-4 * np.max(MAX_SPEED) * dt + 1e-5
            clamped = np.clip(target[:6], JOINT_LOWER, JOINT_UPPER)
            outside = [ACTION_NAMES[joint] for joint in np.flatnonzero(np.abs(target[:6] - clamped) > 1e-5)]
            assert [(each["rule"], each["where"]) for each in interventions] == [("position", at) for at in outside]
            assert set(shaping) <= {"speed", "acceleration"}
            fast = np.abs(clamped - before) / dt / MAX_SPEED
            assert (fast > 1 + 1e-4).sum() <= shaping.get("speed", 0) <= (fast > 1).sum()
            if shaping:
                assert np.max(np.abs(gate.position - clamped)) > 1e-9
                assert all(1 <= count <= 6 for count in shaping.values())


@pytest.mark.parametrize(("joint", "value", "allowed"), [(1, 0.2, JOINT_UPPER[1]), (4, -9.0, JOINT_LOWER[4])])
def test_a_target_beyond_a_limit_is_clamped_and_reported(joint, value, allowed):
    gate = SafetyGate(1 / 30)
    gate.reset(STANDBY)
    target = np.append(STANDBY, 0.5)
    target[joint] = value
    (clamped,) = gate.aim(target).interventions
    assert (clamped["rule"], clamped["where"]) == ("position", ACTION_NAMES[joint])
    assert f"{value:.4g}" in clamped["why"]
    gate.travel(60.0, 1)
    assert gate.position[joint] == pytest.approx(allowed)


def test_the_gripper_is_clamped_and_reported_too():
    gate = SafetyGate(1 / 30)
    gate.reset(STANDBY)
    (clamped,) = gate.aim(np.append(STANDBY, 1.5)).interventions
    assert gate.opening == 1.0
    assert (clamped["rule"], clamped["where"]) == ("position", "gripper")


def test_holding_still_and_a_slow_motion_are_not_reported():
    gate = SafetyGate(1 / 30)
    gate.reset(STANDBY)
    assert gate.aim(np.append(STANDBY, 0.0)) == ((), {})
    for n in range(1, 6):
        assert gate.aim(np.append(STANDBY + n * 1e-5, 1.0)) == ((), {})
        gate.travel(1 / 30, 1)
        np.testing.assert_allclose(gate.position, STANDBY + n * 1e-5)


def test_actions_at_the_edge_of_the_float32_action_space_are_not_reported():
    for edge in (JOINT_LOWER, JOINT_UPPER):
        gate = SafetyGate(1 / 30)
        gate.reset(edge)
        assert gate.aim(np.append(edge, 0.0).astype(np.float32)) == ((), {})
        gate.travel(1 / 30, 1)
        assert np.all((gate.position >= JOINT_LOWER) & (gate.position <= JOINT_UPPER))


def test_a_share_of_the_speed_is_that_share():
    gate = SafetyGate(1 / 50, speed_scale=0.25)
    _, speed, *_ = drive(gate, STANDBY, [np.append(STANDBY + np.eye(6)[0], 0.0)] * 100, 1 / 50)
    assert np.max(np.abs(speed[:, 0])) == pytest.approx(0.25 * MAX_SPEED[0])


GOOD = np.append(STANDBY + 0.05, 0.5)
BAD = [
    ([0.0] * 7, "numpy array.*got list"),
    (None, "numpy array.*got NoneType"),
    (GOOD[:6], r"shape \(7,\).*\(6,\)"),
    (GOOD[None], r"shape \(7,\).*\(1, 7\)"),
    (np.array(1.0), r"shape \(7,\).*\(\)"),
    (np.zeros(7, np.int64), "float32.*not int64"),
    (np.zeros(7, bool), "float32.*not bool"),
    (GOOD.astype(complex), "float32.*not complex128"),
    (GOOD.astype(str), "float32.*not <U"),
    (GOOD.astype(object), "float32.*not object"),
    (np.where(np.arange(7) == 2, np.nan, GOOD), "joint_3=nan.*did not move"),
    (np.where(np.arange(7) == 6, -np.inf, GOOD), "gripper=-inf"),
    (np.where(np.arange(7) < 2, np.inf, GOOD), "joint_1=inf, joint_2=inf"),
]


@pytest.mark.parametrize(("action", "message"), BAD)
def test_a_malformed_action_is_refused_by_name_and_changes_nothing(action, message):
    refused, other = SafetyGate(1 / 30), SafetyGate(1 / 30)
    for gate in (refused, other):
        gate.reset(STANDBY)
        gate.aim(GOOD)
        gate.travel(1 / 30, 1)
    with pytest.raises(ActionError, match=message) as error:
        refused.aim(action)
    assert isinstance(error.value, ValueError)
    for _ in range(3):
        assert refused.aim(GOOD) == other.aim(GOOD)
        np.testing.assert_array_equal(refused.travel(1 / 30, 3)[0], other.travel(1 / 30, 3)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_any_floating_point_type_will_do(dtype):
    gate = SafetyGate(1 / 30)
    gate.reset(STANDBY)
    gate.aim(np.append(STANDBY, 0.5).astype(dtype))
    assert gate.travel(1 / 30, 1)[0].dtype == np.float64
