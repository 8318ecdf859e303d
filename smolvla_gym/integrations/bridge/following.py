"""Execution of a trajectory, from its acceptance to its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from smolvla_gym.integrations import ros_messages as ros
from smolvla_gym.integrations.bridge.trajectory import ResultCode, Trajectory, TrajectoryError, seconds_of
from smolvla_gym.parol6 import JOINT_NAMES, MAX_ACCELERATION, MAX_JERK, MAX_SPEED, NUM_JOINTS, Array
from smolvla_gym.utils.untrusted import printable

ARRIVED: Final = 1e-3
"""Largest distance in rad of each joint's setpoint from its target at which the joint counts as arrived."""

GOAL_TOLERANCE: Final = 0.02
"""Largest distance in rad of each measured joint from the end of a trajectory, where its goal names none."""

STUCK_S: Final = 5.0
"""Seconds without progress after which a trajectory is aborted."""

_TRAIL: Final = MAX_SPEED**2 / (2 * MAX_ACCELERATION) + MAX_SPEED * MAX_ACCELERATION / (2 * MAX_JERK) + 0.05
"""Distance in rad that each joint keeps from a target that moves at its full speed: its braking distance."""


@dataclass(frozen=True)
class Tolerances:
    """Tolerances of a goal.

    Attributes:
        path: Largest distance in rad of each measured joint from the desired position, shape (6,).
        goal: The same at the end, shape (6,).
        time: Time in s after the planned end within which the arm has to arrive; None: as long as it gets nearer.
    """

    path: Array = field(default_factory=lambda: np.full(NUM_JOINTS, np.inf))
    goal: Array = field(default_factory=lambda: np.full(NUM_JOINTS, GOAL_TOLERANCE))
    time: float | None = None


def read_tolerances(goal: Mapping[str, Any], joints: Sequence[str]) -> Tolerances:
    """Return the tolerances of a ``FollowJointTrajectory`` goal. As in ros2_control 0 means the default, -1 none.

    Args:
        goal: The goal.
        joints: Names of the trajectory's joints.

    Raises:
        TrajectoryError: A tolerance is not finite, is of a joint that the trajectory does not name, or is of a quantity
            that this arm does not measure: it measures positions alone.
    """
    if any(goal.get(name) for name in ("component_path_tolerance", "component_goal_tolerance")):
        raise TrajectoryError("Component tolerances are for mobile bases; this arm has none.")
    trajectory = goal.get("multi_dof_trajectory") or {}
    if trajectory.get("joint_names") or trajectory.get("points"):
        raise TrajectoryError("A multi_dof_trajectory is for mobile bases; this arm has none.")
    found = Tolerances()
    for array, given in ((found.path, goal["path_tolerance"]), (found.goal, goal["goal_tolerance"])):
        for tolerance in given:
            name, value = str(tolerance["name"]), float(tolerance["position"])
            if name not in joints or name not in JOINT_NAMES:
                raise TrajectoryError(
                    f"A tolerance of {printable(name, 60)!r}, which the trajectory does not name.",
                    ResultCode.INVALID_JOINTS,
                )
            if not np.isfinite(value):
                raise TrajectoryError(f"The tolerance {value} rad of {name} is not finite.")
            if any(float(tolerance[other]) > 0 or np.isnan(tolerance[other]) for other in ("velocity", "acceleration")):
                raise TrajectoryError(
                    f"The tolerance of {name} limits its speed or acceleration, which this arm does not measure: "
                    "leave them 0."
                )
            if value:
                array[JOINT_NAMES.index(name)] = value if value > 0 else np.inf
    time = seconds_of(goal["goal_time_tolerance"], "goal_time_tolerance")
    return Tolerances(found.path, found.goal, np.inf if time < 0 else time or None)


@dataclass(frozen=True)
class Result:
    """Result of a trajectory that the arm itself ended.

    Attributes:
        code: Error code for the client of an action.
        why: Reason; empty after a success.
    """

    code: ResultCode
    why: str = ""


class Following:
    """Execution of one trajectory: a target for each control step, and the result."""

    def __init__(self, plan: Trajectory, period: float, tolerances: Tolerances) -> None:
        """Wait for the start of the trajectory, or begin to follow it.

        Args:
            plan: The trajectory.
            period: Duration of a control step in s.
            tolerances: Tolerances of its goal.
        """
        self.plan: Trajectory = plan
        self._period, self._tolerances = period, tolerances
        self._wait, self._late, self._stuck, self._nearest = max(plan.delay, 0.0), 0.0, 0.0, np.inf

    @property
    def waits(self) -> bool:
        """Return whether the beginning lies in the future."""
        return self._wait > 0.5 * self._period

    def next_target(self, commanded: Array) -> Array | None:
        """Return the target of the next step in rad, shape (6,); None while the trajectory waits for its beginning.

        Where the arm is slower the trajectory waits: the arm stays on its path, and arrives later.

        Args:
            commanded: Present setpoint in rad, shape (6,).
        """
        if self.waits:
            self._wait -= self._period
            return None
        ahead = np.abs(self.plan.desired - commanded)
        return self.plan.advance(0.0 if (ahead > _TRAIL).any() else self._period)

    def judge(self, commanded: Array, measured: Array, safety: Sequence[Mapping[str, Any]]) -> Result | None:
        """Return the result, or None while the trajectory goes on; called after each step.

        Args:
            commanded: Present setpoint in rad, shape (6,).
            measured: Measured joint angles in rad, shape (6,).
            safety: Interventions of the step.
        """
        for intervention in safety:
            if intervention["rule"] in ("collision", "workspace"):
                code = ResultCode.PATH_TOLERANCE_VIOLATED
                return Result(code, f"the safety gate stopped the arm: {intervention['why']}")
        if self.waits:
            return None
        plan, limits = self.plan, self._tolerances
        error = np.abs(plan.desired - measured)
        if (error > limits.path).any():
            return _violated("path", error, limits.path, ResultCode.PATH_TOLERANCE_VIOLATED)
        away = np.abs(plan.desired - commanded)
        if plan.done:
            if (error <= limits.goal).all() and away.max() < ARRIVED:
                return Result(ResultCode.SUCCESSFUL)
            self._late += self._period
            if limits.time is not None and self._late > limits.time:
                return _violated("goal", error, limits.goal, ResultCode.GOAL_TOLERANCE_VIOLATED)
        # Progress: time of the trajectory passed, or the distance became shorter.
        distance = float(np.maximum(away, error).max()) - plan.now
        self._stuck = 0.0 if distance < self._nearest - 1e-4 else self._stuck + self._period
        self._nearest = min(self._nearest, distance)
        if self._stuck > STUCK_S:
            return _violated("goal", error, limits.goal, ResultCode.GOAL_TOLERANCE_VIOLATED)
        return None

    def feedback(self, seconds: float, measured: Array) -> ros.Message:
        """Return the feedback of a ``FollowJointTrajectory``.

        Args:
            seconds: Present time in s.
            measured: Measured joint angles in rad, shape (6,).
        """
        desired, columns = self.plan.desired, self.plan.columns
        parts = {"desired": desired, "actual": measured, "error": desired - measured}
        points = {
            name: ros.trajectory_point(self.plan.now, [float(values[column]) for column in columns])
            for name, values in parts.items()
        }
        return {"header": ros.header(seconds), "joint_names": [JOINT_NAMES[column] for column in columns], **points}


def _violated(which: str, error: Array, limits: Array, code: ResultCode) -> Result:
    over = error - np.where(np.isfinite(limits), limits, 0.0)
    joint = int(over.argmax())
    return Result(
        code, f"{JOINT_NAMES[joint]} is {error[joint]:.4f} rad away, {which} tolerance {limits[joint]:.4f} rad"
    )
