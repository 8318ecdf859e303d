"""Setpoint of the arm from messages: a stream of joint commands, a trajectory, or none."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import ActionError
from smolvla_gym.integrations.bridge.following import ARRIVED, Following, Tolerances, read_tolerances
from smolvla_gym.integrations.bridge.joint_command import read_joint_command
from smolvla_gym.integrations.bridge.topics import FOLLOW
from smolvla_gym.integrations.bridge.trajectory import MAX_AHEAD_S, ResultCode, Trajectory, TrajectoryError, seconds_of
from smolvla_gym.parol6 import NUM_JOINTS, Array

SILENCE_S: Final = 0.5
"""Timeout in s of a stream of ``/joint_commands``, after which the arm stops."""

MAX_COMMAND_AGE_S: Final = 2.0
"""Age in s above which a ``/joint_commands`` with a stamp is refused."""

Report = Callable[..., None]


class Setpoint:
    """Source of the env's next action from the latest command; it reports the end of each trajectory.

    Attributes:
        opening: Commanded opening of the gripper, 0 to 1. The measured one differs where the gripper holds an object.
        following: Execution of the trajectory under way, or None.
    """

    def __init__(
        self, env: gym.Env[Any, Any], report: Report, answer: Report, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start without a command: the arm holds.

        Args:
            env: A ``PAROL6Env``.
            report: Called with the kind of an event and its details.
            answer: Called with the id of a goal, its status (``"succeed"``, ``"abort"`` or ``"canceled"``), the
                ``ResultCode`` and the reason, when the trajectory of an action ends.
            clock: Returns the time in s.
        """
        bare: Any = env.unwrapped
        self._backend, self._space, self._report, self._answer = bare.backend, env.action_space, report, answer
        self._period, self._stroke, self._clock = 1.0 / float(bare.control_hz), float(bare.gripper.stroke), clock
        self._target: NDArray[np.float32] | None = None  # None: the arm stops, and stays
        self._commanded_at: float | None = None
        self.following: Following | None = None
        self._goal: str | None = None  # of the trajectory under way, where an action brought it
        self._count = 0
        self.opening: float = 1.0

    @property
    def mode(self) -> str:
        """``"trajectory"``, ``"commands"`` or ``"idle"``."""
        if self.following is not None:
            return "trajectory"
        return "idle" if self._commanded_at is None else "commands"

    def command(self, message: Mapping[str, Any], now: float = 0.0) -> None:
        """Take a ``sensor_msgs/JointState``; joints that it does not name keep their targets.

        A command for the gripper alone does not end a trajectory: arm and gripper are two controllers in ROS.

        Args:
            message: The command.
            now: Present time in s on the clock of the stamps.

        Raises:
            ActionError: The arm cannot go there, or the command is old or stamped far ahead.
        """
        elements = read_joint_command(message, self._stroke)
        stamp = seconds_of(message["header"]["stamp"], "header.stamp")
        if stamp and now - stamp > MAX_COMMAND_AGE_S:
            raise ActionError(
                f"the command is {now - stamp:.3g} s old (header.stamp {stamp:.3f} s, the clock says {now:.3f} s; up "
                f"to {MAX_COMMAND_AGE_S:g} s are accepted): stamp it anew, or leave the stamp zero"
            )
        if stamp - now > MAX_AHEAD_S:
            raise ActionError(
                f"the command is stamped {stamp - now:.3g} s ahead (header.stamp {stamp:.3f} s, the clock says "
                f"{now:.3f} s; up to {MAX_AHEAD_S:g} s are accepted): set the clock, or leave the stamp zero"
            )
        if set(elements) == {NUM_JOINTS}:
            self.opening = float(np.clip(elements[NUM_JOINTS], 0.0, 1.0))
            if self._target is not None:
                self._target[NUM_JOINTS] = self.opening
            return
        target = self.hold() if self._target is None else self._target.copy()
        for index, value in elements.items():
            target[index] = value
        self._end("preempted", "a /joint_commands took over")
        self._target = np.clip(target, self._space.low, self._space.high)  # type: ignore[attr-defined]
        self._commanded_at = self._clock()

    def follow(self, message: Mapping[str, Any], now: float = 0.0) -> None:
        """Take a ``trajectory_msgs/JointTrajectory``.

        Args:
            message: The trajectory.
            now: Present time in s on the clock of the stamps.

        Raises:
            TrajectoryError: The arm cannot follow it to its end.
        """
        self._begin(message, now, None)

    def pursue(self, goal: Mapping[str, Any], now: float = 0.0) -> None:
        """Take a goal of ``FollowJointTrajectory``.

        Args:
            goal: The goal, and its ``goal_id``.
            now: Present time in s on the clock of the stamps.

        Raises:
            TrajectoryError: The arm cannot follow it to its end. The goal has no answer yet.
        """
        self._begin(goal["trajectory"], now, goal)

    def cancel(self, goal: str) -> bool:
        """Cancel a goal if it is under way: the arm stops. Return whether it was.

        Args:
            goal: Id of the goal.
        """
        if self._goal != goal:
            return False
        self._end("aborted", "its client canceled it", status="canceled")
        self._target = None
        return True

    def drop(self, why: str, outcome: str = "aborted") -> None:
        """Drop the command: the arm stops.

        Args:
            why: Reason.
            outcome: Outcome of a trajectory under way: ``"aborted"`` or ``"preempted"``.
        """
        self._end(outcome, why)
        self._target = self._commanded_at = None

    def hold(self) -> NDArray[np.float32]:
        """Return the action that stops the arm at its present setpoint; the gripper keeps its commanded opening."""
        return np.append(self._backend.commanded, self.opening).astype(np.float32)

    def next_action(self) -> NDArray[np.float32]:
        """Return the action of the next step."""
        if self._commanded_at is not None and self._clock() - self._commanded_at > SILENCE_S:
            self._commanded_at = None
            assert self._target is not None  # noqa: S101 - narrows a type
            moving = np.abs(self.hold() - self._target)[:NUM_JOINTS].max() > ARRIVED
            if moving:  # after it has arrived no further commands are needed
                self._target = None
            self._report("commander_silent", stopped=bool(moving), seconds=SILENCE_S)
        if self.following is not None:
            assert self._target is not None  # noqa: S101 - narrows a type
            joints = self.following.next_target(np.asarray(self._backend.commanded, np.float64))
            if joints is not None:
                self._target[:NUM_JOINTS] = joints
        # hold() is called in each step, so that an arm that brakes does not return to an earlier setpoint.
        return self.hold() if self._target is None else self._target

    def judge(self, measured: Array, safety: Sequence[Mapping[str, Any]]) -> None:
        """End the trajectory if the arm has arrived or cannot arrive; called after each step.

        Args:
            measured: Measured joint angles in rad, shape (6,).
            safety: Interventions of the step.
        """
        if self.following is None:
            return
        result = self.following.judge(np.asarray(self._backend.commanded, np.float64), measured, safety)
        if result is None:
            return
        if result.code == ResultCode.SUCCESSFUL:
            self._end("done", "")
        else:
            self._end("aborted", result.why, result.code)
            self._target = None

    def feedback(self, seconds: float, measured: Array) -> dict[str, Any] | None:
        """Return the feedback of the goal under way, with its id; None where there is no goal.

        Args:
            seconds: Present time in s.
            measured: Measured joint angles in rad, shape (6,).
        """
        if self.following is None or self._goal is None:
            return None
        return {"goal_id": self._goal, **self.following.feedback(seconds, measured)}

    def _begin(self, message: Mapping[str, Any], now: float, goal: Mapping[str, Any] | None) -> None:
        begin = self.hold()  # an earlier command ends here
        plan = Trajectory(message, np.asarray(begin[:NUM_JOINTS], np.float64), now)
        tolerances, goal_id = Tolerances(), None
        if goal is not None:
            goal_id = str(goal["goal_id"])
            tolerances = read_tolerances(goal, [str(name) for name in message["joint_names"]])
            if tolerances.time is not None and plan.lateness() > tolerances.time:
                raise TrajectoryError(
                    f"The joints' largest speeds make it {plan.lateness():.3g} s late, and goal_time_tolerance is "
                    f"{tolerances.time:g} s: give the trajectory more time.",
                    ResultCode.GOAL_TOLERANCE_VIOLATED,
                )
            if goal_id == self._goal:
                raise TrajectoryError("this goal is under way already")
        self._end("preempted", f"trajectory {self._count + 1} replaced it")
        self._count += 1
        self.following, self._goal = Following(plan, self._period, tolerances), goal_id
        self._target, self._commanded_at = begin, None
        self._report(
            "trajectory", id=self._count, seconds=round(plan.duration, 3), starts_in=round(max(plan.delay, 0.0), 3),
            late=round(plan.lateness(), 3),
            **({} if goal is None else {"action": FOLLOW, "goal_id": goal_id}),
        )  # fmt: skip

    def _end(
        self, outcome: str, why: str, code: ResultCode = ResultCode.INVALID_GOAL, status: str | None = None
    ) -> None:
        """Report the end of the trajectory under way, if there is one."""
        if self.following is None:
            return
        goal, self.following, self._goal = self._goal, None, None
        self._report(f"trajectory_{outcome}", id=self._count, **({"why": why} if why else {}))
        if goal is not None:
            done = outcome == "done"
            self._answer(goal, status or ("succeed" if done else "abort"), ResultCode.SUCCESSFUL if done else code, why)
