"""Any message of the right type is obeyed exactly, or refused as a whole with an event, and then nothing moves."""

import json

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from smolvla_gym.agent.scripted import ExpertAgent
from smolvla_gym.integrations import ros_messages as ros
from smolvla_gym.integrations.bridge.topics import FOLLOW, TAKEN
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_NAMES, JOINT_UPPER
from tests.integrations.bridge.memory import Arm

QUICK = settings(max_examples=60, deadline=None)
NAMES = (*JOINT_NAMES, "gripper", "jaw_left", "jaw_right")
numbers = st.one_of(st.floats(-4, 4), st.floats(0, 1), st.floats(allow_nan=True, allow_infinity=True))
names = st.one_of(st.sampled_from(NAMES), st.text(max_size=9), st.just("\x1b[2J" * 400))
int32, uint32 = st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1)
durations = st.fixed_dictionaries(
    {"sec": st.one_of(st.integers(0, 4), int32), "nanosec": st.one_of(st.integers(0, 999_999_999), uint32)}
)
stamps = st.one_of(st.just({"sec": 0, "nanosec": 0}), durations)
headers = st.fixed_dictionaries({"stamp": stamps, "frame_id": st.text(max_size=5)})
lists = st.lists(numbers, max_size=8)
mostly_empty = st.one_of(st.just([]), lists)
points = st.fixed_dictionaries(
    {
        "positions": st.one_of(st.lists(st.floats(-2, 2), min_size=1, max_size=3), lists),
        "velocities": mostly_empty, "accelerations": mostly_empty, "effort": mostly_empty,
        "time_from_start": durations,
    }
)  # fmt: skip


@st.composite
def joint_states(draw):
    """Well-formed ones in half of the cases."""
    if draw(st.booleans()):
        known = draw(st.lists(st.sampled_from(NAMES[:7]), min_size=1, max_size=4, unique=True))
        return ros.joint_state(0.0, known, [draw(within(name)) for name in known])
    return {
        "header": draw(headers), "name": draw(st.lists(names, max_size=8)), "position": draw(lists),
        "velocity": draw(mostly_empty), "effort": draw(mostly_empty),
    }  # fmt: skip


def within(name):
    """Positions of a joint within its limits."""
    if name == "gripper":
        return st.floats(0, 1)
    return st.floats(JOINT_LOWER[JOINT_NAMES.index(name)], JOINT_UPPER[JOINT_NAMES.index(name)])


@st.composite
def trajectories(draw):
    """Well-formed ones in half of the cases."""
    if draw(st.booleans()):
        return draw(GARBLED)
    known = draw(st.lists(st.sampled_from(JOINT_NAMES), min_size=1, max_size=3, unique=True))
    times = sorted(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True)))
    made = [ros.trajectory_point(time, [draw(within(name)) for name in known]) for time in times]
    return {"header": ros.header(0.0), "joint_names": known, "points": made}


GARBLED = st.fixed_dictionaries(
    {
        "header": headers,
        "joint_names": st.one_of(st.lists(st.sampled_from(JOINT_NAMES), max_size=3, unique=True), st.lists(names)),
        "points": st.lists(points, max_size=4),
    }
)
JOINT_STATES, TRAJECTORIES = joint_states(), trajectories()
TOLERANCES = st.lists(
    st.fixed_dictionaries({"name": names, "position": numbers, "velocity": numbers, "acceleration": numbers}),
    max_size=2,
)
GOALS = st.fixed_dictionaries(
    {
        "goal_id": st.text("0123456789abcdef", min_size=8, max_size=8), "trajectory": TRAJECTORIES,
        "path_tolerance": st.one_of(st.just([]), TOLERANCES), "goal_tolerance": st.one_of(st.just([]), TOLERANCES),
        "goal_time_tolerance": st.one_of(st.just({"sec": 0, "nanosec": 0}), durations),
    }
)  # fmt: skip
ANY = {
    "sensor_msgs/JointState": JOINT_STATES,
    "trajectory_msgs/JointTrajectory": TRAJECTORIES,
    "std_msgs/String": st.fixed_dictionaries({"data": st.one_of(st.text(), st.just("x" * 100_000))}),
    "std_msgs/Bool": st.fixed_dictionaries({"data": st.booleans()}),
    "std_msgs/Empty": st.just({}),
}


@pytest.fixture(scope="module")
def shared():
    arm = Arm(agent=lambda env: ExpertAgent())
    yield arm
    arm.env.close()


def at_rest(arm):
    """The arm without anything under way."""
    arm.rest()
    return arm.commanded, arm.bridge.setpoint.opening


def stays(arm, begin, opening):
    """Makes sure that nothing moves for a moment."""
    arm.steps(3)
    np.testing.assert_array_equal(arm.commanded, begin)
    assert arm.bridge.setpoint.opening == opening


@QUICK
@given(message=JOINT_STATES)
def test_a_command_is_obeyed_exactly_or_refused(shared, message):
    begin, opening = at_rest(shared)
    shared.send("/joint_commands", message)
    shared.steps(1)
    if shared.events("refused"):
        (refused,) = shared.events("refused")
        assert refused["topic"] == "/joint_commands"
        assert len(refused["why"]) <= 500
        assert refused["why"].isprintable()
        return stays(shared, begin, opening)
    event("obeyed")
    # Obeyed: it was well-formed, and the named joints alone have a new target.
    values = dict(zip(message["name"], message["position"], strict=True))
    assert len(values) == len(message["name"]) > 0
    assert np.isfinite(list(values.values())).all()
    target = shared.bridge.setpoint.next_action()
    for index, name in enumerate(JOINT_NAMES):
        if name in values:
            low, high = JOINT_LOWER[index], JOINT_UPPER[index]
            assert low - 1e-3 <= values[name] <= high + 1e-3
            assert target[index] == pytest.approx(np.clip(values[name], low, high), abs=1e-5)
        else:
            assert target[index] == pytest.approx(begin[index], abs=1e-5)
    if not set(values) & set(NAMES[6:]):
        assert target[6] == pytest.approx(opening, abs=1e-6)
    return None


@pytest.mark.parametrize("way", ["/joint_trajectory", FOLLOW])
@QUICK
@given(data=st.data())
def test_a_trajectory_is_accepted_with_a_result_or_refused(shared, way, data):
    begin, opening = at_rest(shared)
    message = data.draw(TRAJECTORIES if way != FOLLOW else GOALS)
    shared.send(way, message)
    shared.steps(1)
    accepted, refused = shared.events("trajectory"), shared.events("refused")
    assert len(accepted) + len(refused) == 1
    if refused:
        assert refused[0]["topic"] == way
        assert refused[0]["why"].isprintable()
        stays(shared, begin, opening)
    else:
        event("accepted")
        trajectory = message if way != FOLLOW else message["trajectory"]
        columns = [JOINT_NAMES.index(name) for name in trajectory["joint_names"]]
        following = shared.bridge.setpoint.following
        end = following.plan.end if following is not None else shared.commanded
        np.testing.assert_allclose(end[columns], trajectory["points"][-1]["positions"], atol=1e-3)
        shared.send("/stop", {})
        shared.steps(1)
        ends = shared.events("trajectory_done", "trajectory_aborted", "trajectory_preempted")
        assert [event["id"] for event in ends] == [accepted[0]["id"]]
    results = shared.results()
    assert [result["goal_id"] for result in results] == ([message["goal_id"]] if way == FOLLOW else [])
    assert all(result["error_code"] <= 0 and len(result["error_string"]) <= 500 for result in results)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_messages_together_leave_a_bridge_that_works(shared, data):
    """After any message the setpoints are finite and within limits, and a stop works."""
    for _ in range(data.draw(st.integers(1, 5))):
        topic = data.draw(st.sampled_from([*TAKEN, FOLLOW]))
        shared.send(topic, data.draw(GOALS if topic == FOLLOW else ANY[TAKEN[topic]]))
    shared.steps(3)
    shared.bridge.publish()
    assert np.isfinite(shared.commanded).all()
    assert (shared.commanded >= JOINT_LOWER - 1e-3).all()
    assert (shared.commanded <= JOINT_UPPER + 1e-3).all()
    for topic, message in shared.transport.sent:
        if topic in ("/status", "/events"):
            json.loads(message["data"])
    shared.send("/clear_fault", {})
    shared.steps(1)
    shared.rest()
    begin = shared.commanded
    shared.steps(2)
    np.testing.assert_array_equal(shared.commanded, begin)


def test_a_huge_trajectory_is_refused_at_once(shared):
    begin, opening = at_rest(shared)
    point = {**ros.trajectory_point(1.0, [0.0] * 6)}
    shared.send(
        "/joint_trajectory", {"header": ros.header(0.0), "joint_names": list(JOINT_NAMES), "points": [point] * 50_000}
    )
    shared.steps(1)
    assert "50000 points" in shared.events("refused")[0]["why"]
    stays(shared, begin, opening)


@pytest.mark.parametrize("text", ["", "  ", "a\nb", "\x1b[31mred", "x" * 501])
def test_instructions_that_are_no_line_are_refused(shared, text):
    at_rest(shared)
    shared.send("/instruction", {"data": text})
    shared.steps(1)
    assert shared.events("refused")[0]["topic"] == "/instruction"


def test_contradictory_openings_are_refused(shared):
    begin, opening = at_rest(shared)
    shared.send("/joint_commands", ros.joint_state(0.0, ["gripper", "jaw_left"], [1.0, 0.0]))
    shared.steps(1)
    assert "two openings" in shared.events("refused")[0]["why"]
    stays(shared, begin, opening)
