"""Whatever is asked for, what leaves the gate is within all limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolvla_gym.safety import SafetyGate
from smolvla_gym.errors import ActionError
from smolvla_gym.parol6 import ACTION_NAMES, JOINT_LOWER, JOINT_UPPER, MAX_ACCELERATION, MAX_SPEED, STANDBY

DT = st.sampled_from([1 / 100, 1 / 50, 1 / 30, 1 / 10, 1 / 5])
SPAN = JOINT_UPPER - JOINT_LOWER
SHARE = st.one_of(st.floats(-0.2, 1.2), st.sampled_from([-1e6, 0.0, 1.0, 1e6]))
TARGET = st.lists(SHARE, min_size=6, max_size=6).map(lambda s: np.append(JOINT_LOWER + np.array(s) * SPAN, 0.5))
INSIDE = st.lists(st.floats(0, 1), min_size=6, max_size=6).map(
    lambda s: np.clip(JOINT_LOWER + np.array(s) * SPAN, JOINT_LOWER, JOINT_UPPER)
)


def drive(gate, start, targets, dt):
    """Setpoints, shape (n + 1, 6), and what the joints' speeds and accelerations are between them."""
    gate.reset(start)
    path = np.vstack([start, [gate.filter(target)[0][:6] for target in targets]])
    speed = np.vstack([np.zeros(6), np.diff(path, axis=0) / dt])
    return path, speed, np.diff(speed, axis=0) / dt


def check_limits(path, speed, acceleration, dt):
    assert np.all(path >= JOINT_LOWER)
    assert np.all(path <= JOINT_UPPER)
    # Angles of a few rad are only known to 1e-15, their differences divided by dt accordingly.
    assert np.all(np.abs(speed) <= MAX_SPEED * (1 + 1e-9) + 4e-15 / dt)
    assert np.all(np.abs(acceleration) <= MAX_ACCELERATION * (1 + 1e-9) + 1e-14 / dt**2)


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
def test_a_constant_target_is_reached_and_never_passed(dt, start, goal):
    # The slowest joint needs its way at full speed, and a while to speed up and to brake.
    steps = int((np.max(SPAN / MAX_SPEED) + 2 * np.max(MAX_SPEED / MAX_ACCELERATION) + 1) / dt) + 10
    path, speed, acceleration = drive(SafetyGate(dt), start, [np.append(goal, 0.5)] * steps, dt)
    check_limits(path, speed, acceleration, dt)
    np.testing.assert_allclose(path[-1], goal, atol=1e-9)
    passed = (path - goal) * np.sign(start - goal)
    assert np.min(passed) >= -1e-9


@settings(max_examples=60, deadline=None)
@given(DT, INSIDE, INSIDE)
def test_joints_move_in_proportion_where_only_their_speed_is_limited(dt, start, goal):
    gate, position = SafetyGate(dt), start
    gate.reset(start)
    for _ in range(int(4 / dt)):
        setpoint, events = gate.filter(np.append(goal, 0.5))
        step, left, position = setpoint[:6] - position, goal - position, setpoint[:6]
        if {event["rule"] for event in events} == {"speed"}:
            share = np.max(np.abs(step)) / np.max(np.abs(left))
            # Events are not written for the last hundred-thousandth of a limit.
            np.testing.assert_allclose(step, share * left, atol=2e-5 * np.max(MAX_SPEED) * dt)


def test_a_long_way_has_such_a_stretch_and_the_slowest_joint_sets_the_pace():
    gate, goal = SafetyGate(1 / 30), STANDBY + np.array([1.5, 0.2, 0.1, 0.3, -0.3, 0.5])
    gate.reset(STANDBY)
    rules, setpoint = [], STANDBY
    for _ in range(90):
        before = setpoint
        setpoint, events = gate.filter(np.append(goal, 0.5))
        rules.append({event["rule"] for event in events})
        if rules[-1] == {"speed"}:
            assert (setpoint[0] - before[0]) * 30 == pytest.approx(MAX_SPEED[0])
            assert {event["joint"] for event in events} >= {"joint_1"}
    assert rules.count({"speed"}) > 10


@settings(max_examples=150, deadline=None)
@given(DT, INSIDE, st.lists(st.tuples(TARGET, st.integers(1, 30)), min_size=1, max_size=4))
def test_what_is_changed_is_told_and_only_that(dt, start, moves):
    gate = SafetyGate(dt)
    gate.reset(start)
    for target, repeats in moves:
        for _ in range(repeats):
            setpoint, events = gate.filter(target)
            changed = np.abs(setpoint - target)
            if not events:
                assert np.max(changed[:6]) <= 1e-4 * np.max(MAX_SPEED) * dt + 1e-5
            for event in events:
                joint = ACTION_NAMES.index(event["joint"])
                assert set(event) == {"rule", "joint", "requested", "allowed"}
                assert event["rule"] in ("position", "speed", "acceleration")
                assert event["requested"] != event["allowed"]
                limit = {"speed": MAX_SPEED, "acceleration": MAX_ACCELERATION}.get(event["rule"])
                if limit is None:
                    assert event["requested"] == target[joint]
                    assert event["allowed"] in (JOINT_LOWER[joint], JOINT_UPPER[joint])
                else:
                    assert abs(event["allowed"]) <= limit[joint] * (1 + 1e-6) + 1e-12 / dt**2
                assert changed[joint] > 1e-9


@pytest.mark.parametrize(("joint", "value", "allowed"), [(1, 0.2, JOINT_UPPER[1]), (4, -9.0, JOINT_LOWER[4])])
def test_a_target_beyond_a_limit_is_clamped_and_told(joint, value, allowed):
    gate = SafetyGate(1 / 30)
    gate.reset(STANDBY)
    target = np.append(STANDBY, 0.5)
    target[joint] = value
    events = [event for event in gate.filter(target)[1] if event["rule"] == "position"]
    assert events == [
        {"rule": "position", "joint": ACTION_NAMES[joint], "requested": value, "allowed": pytest.approx(allowed)}
    ]


def test_the_gripper_is_clamped_and_told_too():
    gate = SafetyGate(1 / 30)
    gate.reset(STANDBY)
    setpoint, events = gate.filter(np.append(STANDBY, 1.5))
    assert setpoint[6] == 1.0
    assert events == ({"rule": "position", "joint": "gripper", "requested": 1.5, "allowed": 1.0},)


def test_holding_still_and_a_slow_motion_are_not_events():
    gate = SafetyGate(1 / 30)
    gate.reset(STANDBY)
    assert gate.filter(np.append(STANDBY, 0.0))[1] == ()
    for n in range(1, 6):
        setpoint, events = gate.filter(np.append(STANDBY + n * 1e-4, 1.0))
        assert events == ()
        np.testing.assert_allclose(setpoint[:6], STANDBY + n * 1e-4)


def test_actions_at_the_edge_of_the_float32_action_space_are_not_events():
    for edge in (JOINT_LOWER, JOINT_UPPER):
        gate = SafetyGate(1 / 30)
        gate.reset(edge)
        setpoint, events = gate.filter(np.append(edge, 0.0).astype(np.float32))
        assert events == ()
        assert np.all((setpoint[:6] >= JOINT_LOWER) & (setpoint[:6] <= JOINT_UPPER))


def test_a_share_of_the_speed_is_that_share():
    gate = SafetyGate(1 / 50, speed_scale=0.25)
    _, speed, _ = drive(gate, STANDBY, [np.append(STANDBY + np.eye(6)[0], 0.0)] * 100, 1 / 50)
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
    touched, untouched = SafetyGate(1 / 30), SafetyGate(1 / 30)
    for gate in (touched, untouched):
        gate.reset(STANDBY)
        gate.filter(GOOD)
    with pytest.raises(ActionError, match=message) as error:
        touched.filter(action)
    assert isinstance(error.value, ValueError)
    for _ in range(3):
        setpoint, events = touched.filter(GOOD)
        expected, expected_events = untouched.filter(GOOD)
        np.testing.assert_array_equal(setpoint, expected)
        assert events == expected_events


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_floating_point_type_will_do(dtype):
    gate = SafetyGate(1 / 30)
    gate.reset(STANDBY)
    setpoint, _ = gate.filter(np.append(STANDBY, 0.5).astype(dtype))
    np.testing.assert_allclose(setpoint[:6], STANDBY, atol=2e-3)


def test_the_gate_keeps_no_hold_on_the_arrays_it_was_given():
    gate, start = SafetyGate(1 / 30), np.array(STANDBY)
    gate.reset(start)
    action = np.append(STANDBY, 0.5)
    first, _ = gate.filter(action)
    start[:], first[:] = 0.0, 0.0
    np.testing.assert_allclose(gate.filter(action)[0][:6], STANDBY)
