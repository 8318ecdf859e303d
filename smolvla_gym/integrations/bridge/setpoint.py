"""Where somebody outside wants the arm to be: a stream of joint commands, a trajectory, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import ActionError
from smolvla_gym.integrations.bridge.following import ARRIVED, Following, read_tolerances
from smolvla_gym.integrations.bridge.joint_command import read_joint_command
from smolvla_gym.integrations.bridge.topics import FOLLOW
from smolvla_gym.integrations.bridge.trajectory import MAX_AHEAD_S, ResultCode, Trajectory, TrajectoryError, seconds_of
from smolvla_gym.parol6 import NUM_JOINTS, Array

SILENCE_S: Final = 0.5
"""A stream of ``/joint_commands`` that pauses for longer is a commander that is gone: the arm stops where it is."""

MAX_COMMAND_AGE_S: Final = 2.0
"""Age in s above which a ``/joint_commands`` with a stamp is refused."""

Tell = Callable[..., None]


class Setpoint:
    """Makes the env's next action of what was commanded last, and reports how each trajectory ends."""

    def __init__(
        self, env: gym.Env[Any, Any], tell: Tell, answer: Tell, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begins with nothing: the arm stays.

        Args:
            env: A ``PAROL6Env``.
            tell: Called with an event's kind and its details.
            answer: Called with the id of a goal, its status (``"succeed"``, ``"abort"`` or ``"canceled"``), the
                ``ResultCode`` and the reason, when the trajectory of an action ends.
            clock: Counts seconds.
        """
        bare: Any = env.unwrapped
        self._backend, self._space, self._tell, self._answer = bare.backend, env.action_space, tell, answer
        self._period, self._stroke, self._clock = 1.0 / float(bare.control_hz), float(bare.gripper.stroke), clock
        self._target: NDArray[np.float32] | None = None  # None: the arm stops, and stays
        self._commanded_at: float | None = None
        self._following: Following | None = None
        self._goal: str | None = None  # of the trajectory under way, where an action brought it
        self._count = 0
        self.opening = 1.0
        """Of the gripper, as it was commanded last: what it holds keeps the jaws apart."""

    @property
    def mode(self) -> str:
        """``"trajectory"``, ``"commands"`` or ``"idle"``."""
        if self._following is not None:
            return "trajectory"
        return "idle" if self._commanded_at is None else "commands"

    def command(self, message: Mapping[str, Any], now: float = 0.0) -> None:
        """Takes a ``sensor_msgs/JointState``; joints that it does not name go on as they were told.

        One that names the gripper alone leaves a trajectory be: arm and gripper are two controllers in ROS.

        Args:
            message: The command.
            now: Present time in s of the clock that stamps count in.

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
        """Takes a ``trajectory_msgs/JointTrajectory``.

        Args:
            message: The trajectory.
            now: Present time in s of the clock that stamps count in.

        Raises:
            TrajectoryError: The arm cannot follow it to its end.
        """
        begin = self.hold()  # wherever an earlier command would have led
        self._begin(Following(self._plan(message, begin, now), self._period), begin, None)

    def pursue(self, goal: Mapping[str, Any], now: float = 0.0) -> None:
        """Takes a goal of ``FollowJointTrajectory``.

        Args:
            goal: The goal, and its ``goal_id``.
            now: Present time in s of the clock that stamps count in.

        Raises:
            TrajectoryError: The arm cannot follow it to its end. The goal was not answered yet.
        """
        begin, message = self.hold(), goal["trajectory"]
        plan = self._plan(message, begin, now)
        tolerances = read_tolerances(goal, [str(name) for name in message["joint_names"]])
        if tolerances.time is not None and plan.lateness() > tolerances.time:
            raise TrajectoryError(
                f"The joints' largest speeds make it {plan.lateness():.3g} s late, and goal_time_tolerance is "
                f"{tolerances.time:g} s: give the trajectory more time.",
                ResultCode.GOAL_TOLERANCE_VIOLATED,
            )
        self._begin(Following(plan, self._period, tolerances), begin, str(goal["goal_id"]))

    def cancel(self, goal: str) -> bool:
        """Stops the arm where a goal is under way; returns whether it was.

        Args:
            goal: Id of the goal.
        """
        if self._goal != goal:
            return False
        self._end("aborted", "its client canceled it", status="canceled")
        self._target = None
        return True

    def drop(self, why: str, outcome: str = "aborted") -> None:
        """Forgets what was commanded: the arm stops where it is.

        Args:
            why: The reason.
            outcome: What becomes of a trajectory: ``"aborted"`` or ``"preempted"``.
        """
        self._end(outcome, why)
        self._target = self._commanded_at = None

    def hold(self) -> NDArray[np.float32]:
        """Returns the action that stops the arm where it was sent to; the jaws keep what they hold."""
        return np.append(self._backend.commanded, self.opening).astype(np.float32)

    def next_action(self) -> NDArray[np.float32]:
        """Returns the action of the next step."""
        if self._commanded_at is not None and self._clock() - self._commanded_at > SILENCE_S:
            self._commanded_at = None
            assert self._target is not None  # noqa: S101 - narrows a type
            moving = np.abs(self.hold() - self._target)[:NUM_JOINTS].max() > ARRIVED
            if moving:  # one that has arrived may be silent
                self._target = None
            self._tell("commander_silent", stopped=bool(moving), seconds=SILENCE_S)
        if self._following is not None:
            assert self._target is not None  # noqa: S101 - narrows a type
            joints = self._following.next_target(np.asarray(self._backend.commanded, np.float64))
            if joints is not None:
                self._target[:NUM_JOINTS] = joints
        # Without a target it is asked anew in each step, so that an arm that brakes does not come back.
        return self.hold() if self._target is None else self._target

    def judge(self, measured: Array, safety: Sequence[Mapping[str, Any]]) -> None:
        """Ends the trajectory where the arm arrived, or cannot; called after each step.

        Args:
            measured: Where the arm is, in rad, shape (6,).
            safety: What the safety gate changed.
        """
        if self._following is None:
            return
        result = self._following.judge(np.asarray(self._backend.commanded, np.float64), measured, safety)
        if result is None:
            return
        if result.code == ResultCode.SUCCESSFUL:
            self._end("done", "")
        else:
            self._end("aborted", result.why, result.code)
            self._target = None

    def feedback(self, seconds: float, measured: Array) -> dict[str, Any] | None:
        """Returns the feedback of the goal under way, with its id, or None where there is none.

        Args:
            seconds: Present time in s.
            measured: Where the arm is, in rad, shape (6,).
        """
        if self._following is None or self._goal is None:
            return None
        return {"goal_id": self._goal, **self._following.feedback(seconds, measured)}

    def _plan(self, message: Mapping[str, Any], begin: NDArray[np.float32], now: float) -> Trajectory:
        return Trajectory(message, np.asarray(begin[:NUM_JOINTS], np.float64), now)

    def _begin(self, following: Following, begin: NDArray[np.float32], goal: str | None) -> None:
        if goal is not None and goal == self._goal:
            raise TrajectoryError("this goal is under way already")
        self._end("preempted", f"trajectory {self._count + 1} replaced it")
        self._count += 1
        self._following, self._goal = following, goal
        self._target, self._commanded_at = begin, None
        plan = following.plan
        self._tell(
            "trajectory", id=self._count, seconds=round(plan.duration, 3), starts_in=round(max(plan.delay, 0.0), 3),
            late=round(plan.lateness(), 3),
            **({} if goal is None else {"action": FOLLOW, "goal_id": goal}),
        )  # fmt: skip

    def _end(
        self, outcome: str, why: str, code: ResultCode = ResultCode.INVALID_GOAL, status: str | None = None
    ) -> None:
        """Reports the end of the trajectory under way, if there is one."""
        if self._following is None:
            return
        goal, self._following, self._goal = self._goal, None, None
        self._tell(f"trajectory_{outcome}", id=self._count, **({"why": why} if why else {}))
        if goal is not None:
            done = outcome == "done"
            self._answer(goal, status or ("succeed" if done else "abort"), ResultCode.SUCCESSFUL if done else code, why)
