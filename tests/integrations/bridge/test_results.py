"""Each trajectory is accepted or refused, and the end of each accepted one is reported, with its reason."""

import numpy as np
import pytest

from smolvla_gym.agent.scripted import ExpertAgent
from smolvla_gym.integrations.bridge.topics import FOLLOW
from smolvla_gym.integrations.bridge.trajectory import MAX_AHEAD_S, ResultCode
from tests.integrations.bridge.memory import Arm, command, goal
from tests.integrations.bridge.messages import trajectory


@pytest.fixture(scope="module")
def shared():
    arm = Arm(agent=lambda env: ExpertAgent())
    yield arm
    arm.env.close()


@pytest.fixture
def arm(shared):
    shared.rest()
    yield shared
    if shared.bridge.fault is not None:
        shared.send("/clear_fault", {})
        shared.steps(1)


def to(arm, offset, seconds=2.0, **options):
    """A trajectory of joint_1 by an offset in rad."""
    return trajectory((seconds, [arm.commanded[0] + offset]), names=["joint_1"], **options)


def away(arm):
    """An offset in rad that joint_1 can move by, 0.4 or -0.4."""
    return -0.4 if arm.commanded[0] > 0 else 0.4


def test_success_is_told_with_its_id(arm):
    begin, offset = arm.commanded[0], away(arm)
    arm.send("/joint_trajectory", to(arm, offset))
    arm.steps(70)
    (accepted,), (done,) = arm.events("trajectory"), arm.events("trajectory_done")
    assert done["id"] == accepted["id"]
    assert accepted["seconds"] == 2.0
    assert arm.commanded[0] - begin == pytest.approx(offset, abs=1e-3)


@pytest.mark.parametrize("way", ["/joint_trajectory", FOLLOW])
@pytest.mark.parametrize(
    ("topic", "message", "outcome", "why"),
    [
        ("/joint_commands", "joint_2", "preempted", "/joint_commands"),
        ("/joint_trajectory", "trajectory", "preempted", "replaced"),
        ("/start", {}, "preempted", "policy"),
        ("/stop", {}, "aborted", "/stop"),
        ("/estop", {"data": True}, "aborted", "/estop"),
        ("/reset", {}, "aborted", "/reset"),
    ],
)
def test_what_ends_a_trajectory_is_told(arm, way, topic, message, outcome, why):
    offset = away(arm)
    arm.send(way, goal("a", to(arm, offset)) if way == FOLLOW else to(arm, offset))
    arm.steps(10)
    if message == "joint_2":
        message = command({"joint_2": float(arm.commanded[1])})
    elif message == "trajectory":
        message = to(arm, -offset / 2)
    arm.send(topic, message)
    arm.steps(2)
    accepted, (ended,) = arm.events("trajectory"), arm.events("trajectory_preempted", "trajectory_aborted")
    assert ended["event"] == f"trajectory_{outcome}"
    assert ended["id"] == accepted[0]["id"]
    assert why in ended["why"]
    assert not arm.events("trajectory_done")
    results = arm.results()
    assert len(results) == (way == FOLLOW)
    if results:
        assert (results[0]["goal_id"], results[0]["status"]) == ("a", "abort")
        assert results[0]["error_code"] != ResultCode.SUCCESSFUL
        assert why in results[0]["error_string"]
    arm.bridge.running = False


def test_the_end_of_the_bridge_is_told():
    import threading

    arm = Arm()
    arm.send("/joint_trajectory", to(arm, away(arm), 5.0))
    arm.bridge.tick()
    stop = threading.Event()
    stop.set()
    arm.bridge.run(stop)
    arm.env.close()
    arm.bridge.setpoint.drop("again")  # nothing is under way
    assert [event["event"] for event in arm.events() if "trajectory" in event["event"]] in (
        ["trajectory", "trajectory_aborted"],
    )


def test_a_trajectory_that_the_safety_gate_stops_is_aborted(arm):
    """Straight down into the table."""
    low = arm.commanded
    low[1], low[2] = np.deg2rad(-20.0), np.deg2rad(150.0)
    arm.send(FOLLOW, goal("a", trajectory((6.0, low))))
    arm.steps(250)
    (ended,), (result,) = arm.events("trajectory_aborted", "trajectory_done"), arm.results()
    assert "safety gate" in ended["why"]
    assert result["error_code"] == ResultCode.PATH_TOLERANCE_VIOLATED
    still = arm.commanded
    arm.steps(20)
    np.testing.assert_array_equal(arm.commanded, still)
    arm.send("/reset", {})
    arm.steps(1)


def test_a_gripper_command_leaves_a_trajectory_be(arm):
    begin, offset = arm.commanded[0], away(arm)
    arm.send("/joint_trajectory", to(arm, offset))
    arm.steps(10)
    for name, value in (("gripper", 0.2), ("jaw_left", 0.3 * arm.env.unwrapped.gripper.stroke)):
        arm.send("/joint_commands", command({name: value}))
        arm.steps(5)
    arm.steps(60)
    assert arm.events("trajectory_done")
    assert not arm.events("trajectory_preempted", "trajectory_aborted", "commander_silent")
    assert arm.commanded[0] - begin == pytest.approx(offset, abs=1e-3)
    assert arm.status["opening"] == pytest.approx(0.3, abs=0.03)


# -- stamps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "word"), [(-1e9, "ago"), (-2.5, "ago"), (MAX_AHEAD_S + 1, "begins in")])
def test_trajectories_of_another_time_are_refused(arm, shift, word):
    begin = arm.commanded
    arm.send("/joint_trajectory", to(arm, away(arm), stamp=max(arm.now + shift, 1.0)))
    arm.steps(30)
    (refused,) = arm.events("refused")
    assert word in refused["why"]
    np.testing.assert_array_equal(arm.commanded, begin)


def test_a_trajectory_ahead_waits_and_then_arrives(arm):
    begin, offset = arm.commanded[0], away(arm)
    arm.send("/joint_trajectory", to(arm, offset, stamp=arm.now + 1.0))
    arm.steps(28)
    assert arm.commanded[0] == begin
    assert arm.events("trajectory")[0]["starts_in"] == pytest.approx(1.0, abs=0.05)
    arm.steps(70)
    assert arm.events("trajectory_done")
    assert arm.commanded[0] - begin == pytest.approx(offset, abs=1e-3)


def test_of_a_trajectory_that_began_the_rest_is_followed_only_from_where_it_is(arm):
    here, sign = arm.commanded[0], np.sign(away(arm))
    rows = [(1.0, [here - sign * 0.2]), (2.0, [here]), (3.0, [here + sign * 0.2])]
    arm.send("/joint_trajectory", trajectory(*rows, names=["joint_1"], stamp=arm.now - 2.0))
    arm.steps(45)
    assert arm.events("trajectory_done")
    assert arm.commanded[0] - here == pytest.approx(sign * 0.2, abs=1e-3)
    still = arm.commanded
    # At -0.18 by now. Exactly at the first point the rounding of a stamp would decide whether that has passed.
    arm.send("/joint_trajectory", trajectory(*rows, names=["joint_1"], stamp=arm.now - 1.1))
    arm.steps(30)
    assert "begin where the arm is" in arm.events("refused")[0]["why"]
    np.testing.assert_array_equal(arm.commanded, still)


def test_an_old_command_is_refused(arm):
    begin = arm.commanded
    arm.send("/joint_commands", command({"joint_1": float(begin[0] + away(arm))}, stamp=arm.now - 60.0))
    arm.steps(10)
    assert "old" in arm.events("refused")[0]["why"]
    np.testing.assert_array_equal(arm.commanded, begin)


# -- the action ----------------------------------------------------------------------------------------------------


def test_a_goal_succeeds_with_feedback(arm):
    begin, offset = arm.commanded[0], away(arm)
    arm.send(FOLLOW, goal("a", to(arm, offset), path={"joint_1": 0.3}, end={"joint_1": 0.01}, time=1.0))
    arm.steps(75)
    (result,) = arm.results()
    assert (result["goal_id"], result["status"]) == ("a", "succeed")
    assert result["error_code"] == ResultCode.SUCCESSFUL
    feedback = [message for topic, message in arm.transport.sent if topic == f"{FOLLOW}/feedback"]
    assert len(feedback) > 15
    assert all(message["joint_names"] == ["joint_1"] for message in feedback)
    for message in feedback:
        desired, actual, error = (message[name]["positions"][0] for name in ("desired", "actual", "error"))
        assert error == pytest.approx(desired - actual)
    assert feedback[-1]["desired"]["positions"][0] - begin == pytest.approx(offset, abs=0.05)


def test_a_canceled_goal_stops_the_arm(arm):
    arm.send(FOLLOW, goal("a", to(arm, away(arm))))
    arm.steps(30)
    arm.send(f"{FOLLOW}/cancel", {"goal_id": "b"})  # another one
    arm.steps(1)
    assert not arm.results()
    arm.send(f"{FOLLOW}/cancel", {"goal_id": "a"})
    arm.steps(15)
    (result,) = arm.results()
    assert result["status"] == "canceled"
    still = arm.commanded
    arm.steps(20)
    np.testing.assert_array_equal(arm.commanded, still)
    assert arm.events("trajectory_aborted")[0]["why"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"path": {"joint_1": 0.001}}, ResultCode.PATH_TOLERANCE_VIOLATED),
        ({"end": {"joint_1": 1e-9}, "time": 0.1}, ResultCode.GOAL_TOLERANCE_VIOLATED),
    ],
)
def test_tolerances_are_honoured(arm, options, code):
    arm.send(FOLLOW, goal("a", to(arm, away(arm), 0.6), **options))
    arm.steps(60)
    (result,) = arm.results()
    assert (result["status"], result["error_code"]) == ("abort", code)
    assert "joint_1" in result["error_string"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda arm: {"trajectory": to(arm, 9.0)}, ResultCode.INVALID_GOAL),
        (lambda arm: {"trajectory": trajectory((1.0, [0.0]), names=["elbow"])}, ResultCode.INVALID_JOINTS),
        (lambda arm: {"trajectory": to(arm, 0.1, stamp=1.6e9)}, ResultCode.OLD_HEADER_TIMESTAMP),
        (lambda arm: goal("a", to(arm, 0.1), path={"elbow": 0.1}), ResultCode.INVALID_JOINTS),
        (lambda arm: goal("a", to(arm, 0.1), end={"joint_1": np.nan}), ResultCode.INVALID_GOAL),
        (lambda arm: goal("a", to(arm, away(arm), 0.1), time=0.1), ResultCode.GOAL_TOLERANCE_VIOLATED),
        (lambda arm: {"component_path_tolerance": [{"joint_name": "base"}]}, ResultCode.INVALID_GOAL),
        (lambda arm: {"multi_dof_trajectory": {"joint_names": ["base"], "points": []}}, ResultCode.INVALID_GOAL),
    ],
)
def test_bad_goals_are_aborted_with_a_code_and_nothing_moves(arm, change, code):
    begin = arm.commanded
    arm.send(FOLLOW, {**goal("a", to(arm, away(arm))), **change(arm)})
    arm.steps(20)
    (result,), (refused,) = arm.results(), arm.events("refused")
    assert (result["status"], result["error_code"]) == ("abort", code)
    assert result["error_string"] == refused["why"]
    np.testing.assert_array_equal(arm.commanded, begin)


def test_goals_are_refused_while_a_fault_holds_the_arm(arm):
    arm.send("/estop", {"data": True})
    arm.steps(2)
    arm.send(FOLLOW, goal("a", to(arm, away(arm))))
    arm.steps(2)
    (result,) = arm.results()
    assert "/clear_fault" in result["error_string"]


def test_a_stop_is_told_once_however_often_it_was_heard(arm):
    for _ in range(3):
        arm.send("/stop", {})
    arm.send("/joint_trajectory", to(arm, away(arm)))
    arm.send(FOLLOW, goal("a", to(arm, away(arm))))
    arm.steps(1)
    assert len(arm.events("stopped")) == 1
    assert {event["topic"] for event in arm.events("refused")} == {"/joint_trajectory", FOLLOW}
    assert arm.results()[0]["status"] == "abort"


def test_unnamed_joints_of_a_trajectory_stay(arm):
    begin = arm.commanded
    arm.send("/joint_trajectory", to(arm, away(arm)))
    arm.steps(70)
    np.testing.assert_allclose(arm.commanded[1:], begin[1:], atol=1e-6)
