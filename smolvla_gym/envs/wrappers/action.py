"""Action wrappers: changes of joint targets, and poses of the tool, become absolute joint targets."""

from __future__ import annotations

from typing import Any, Final, override

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from smolvla_gym.envs.parol6_env import PAROL6Env
from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER, MAX_ACCELERATION, MAX_JERK, NUM_JOINTS, Array
from smolvla_gym.parol6.inverse_kinematics import change_bound, follow, solve, turn_between
from smolvla_gym.safety import Intervention, check_action
from smolvla_gym.safety.report import STOPPING_RULES
from smolvla_gym.utils.option_values import check_number

Action = NDArray[np.float32]

_STOP_MARGIN: Final = 1.3
"""Distance allowed for a stop, as a multiple of the braking distance: after an overshoot the arm would come back."""

_LEAD: Final = 0.5
"""Largest distance in rad of a joint target from the commanded motion: half a second of J1 at full speed."""


def _parol6(env: gym.Env[Any, Any]) -> PAROL6Env:
    """Return the environment below other wrappers, none of which may change its actions."""
    inner = env.unwrapped
    if not isinstance(inner, PAROL6Env):
        raise OptionError("env", type(inner).__name__, "an env of this package")
    if env.action_space != inner.action_space:
        allowed = "one that takes absolute joint targets: of the wrappers that change actions this one comes first"
        raise OptionError("env", str(env), allowed)
    return inner


def _interrupted(info: dict[str, Any]) -> bool:
    """Return whether the arm no longer goes to its last target: an obstacle, the watchdog or a fault stopped it."""
    return info["fault"] is not None or any(each["rule"] in STOPPING_RULES for each in info["safety"])


class DeltaJointAction(gym.ActionWrapper[Any, Action, Action], gym.utils.RecordConstructorArgs):
    """Actions are changes of the joint targets.

    Action: float32 (7,): six shares, -1..1, of ``max_delta`` to add to the joint targets, and the gripper's opening
    0..1. Changes add up, also while the arm lags behind its targets: ten changes of 0.01 rad move a target by 0.1 rad.

    Targets stay within the soft limits and no farther than 0.5 rad, or two changes of ``max_delta`` if that is more,
    ahead of the commanded motion, so that an arm that cannot keep up stops soon after the last change.
    ``info["shaping"]["lead"]`` has the number of targets that were cut off there. After ``reset``, a fault, or a stop
    by the safety gate or the watchdog, changes are added to where the arm is then commanded to be.
    """

    def __init__(self, env: gym.Env[Any, Any], max_delta: float = 0.05) -> None:
        """Wrap an environment.

        Args:
            env: An environment of this package.
            max_delta: Largest change of a joint in one step in rad, in (0, 0.5].

        Raises:
            OptionError: Another environment, one below a wrapper that changes actions, or a ``max_delta`` that is not
                allowed.
        """
        gym.utils.RecordConstructorArgs.__init__(self, max_delta=max_delta)
        gym.ActionWrapper.__init__(self, env)
        max_delta = check_number(
            "max_delta", max_delta, "a number above 0 and at most 0.5, in rad", above=0.0, high=0.5
        )
        self._inner, self._max_delta = _parol6(env), max_delta
        self._lead = max(_LEAD, 2.0 * max_delta)
        self._targets: Array | None = None
        low, high = np.append(-np.ones(NUM_JOINTS), 0.0), np.ones(NUM_JOINTS + 1)
        self.action_space = spaces.Box(low.astype(np.float32), high.astype(np.float32))

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; see the env. Changes are added to its start pose."""
        result = self.env.reset(seed=seed, options=options)
        self._targets = None  # only now: after a refused reset the episode goes on
        return result

    @override
    def step(self, action: Action) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Move the joint targets, float32 (7,).

        Raises:
            ActionError: The action is malformed or not finite. Nothing moved.
        """
        requested = self._requested(action)
        target = self._within_lead(requested)
        observation, reward, terminated, truncated, info = self.env.step(target.astype(np.float32))
        self._targets = None if _interrupted(info) else np.clip(target[:NUM_JOINTS], JOINT_LOWER, JOINT_UPPER)
        if cut := int(np.count_nonzero(requested != target)):
            info["shaping"] = {**info["shaping"], "lead": cut}
        return observation, reward, terminated, truncated, info

    @override
    def action(self, action: Action) -> Action:
        """Return the env's action for a change of the joint targets; nothing moves."""
        return self._within_lead(self._requested(action)).astype(np.float32)

    def _requested(self, action: Action) -> Array:
        shares = check_action(action)
        targets = self._inner.backend.commanded if self._targets is None else self._targets
        return np.append(targets + self._max_delta * np.clip(shares[:NUM_JOINTS], -1.0, 1.0), shares[NUM_JOINTS])

    def _within_lead(self, requested: Array) -> Array:
        commanded = self._inner.backend.commanded
        joints = np.clip(requested[:NUM_JOINTS], commanded - self._lead, commanded + self._lead)
        return np.append(joints, requested[NUM_JOINTS])


class ToolAction(gym.Wrapper[Any, Action, Any, Action], gym.utils.RecordConstructorArgs):
    """Actions are poses of the tool, fingers down (end-effector control).

    Action: float32 (5,): x, y, z of the tool centre point in m in the world, the yaw of the jaws' travel in rad, and
    the gripper's opening 0..1. The arm holds where it cannot reach, and ``info["safety"]`` has an
    intervention of the rule ``reach``.

    A step never takes the arm to another branch (another solution of the inverse kinematics): at the end of J6's range
    it holds instead of turning the jaws back by half a turn. To get there, turn the yaw back step by step, or command
    another yaw at once.

    Attributes:
        targets: Joint targets in rad of the last step, shape (6,); None after a reset or a stop.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Wrap an environment.

        Args:
            env: An environment of this package.

        Raises:
            OptionError: Another environment, or one below a wrapper that changes actions.
        """
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._inner = _parol6(env)
        self._forget()
        self.action_space = spaces.Box(
            np.array([-0.5, -0.5, 0.0, -np.pi, 0.0], np.float32), np.array([0.5, 0.5, 0.6, np.pi, 1.0], np.float32)
        )

    def _forget(self) -> None:
        self.targets: Array | None = None  # joint targets in rad of the last step
        self._request: tuple[Array, float] | None = None  # position in m and yaw in rad of the last action
        self._before: Array | None = None  # joint angles in rad that were commanded a step ago
        self._holding = self._at_end = False

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; see the env."""
        result = self.env.reset(seed=seed, options=options)
        self._forget()  # only now: after a refused reset the episode goes on
        return result

    @override
    def step(self, action: Action) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Move towards a pose of the tool, float32 (5,).

        Raises:
            ActionError: The action is malformed or not finite. Nothing moved.
        """
        x, y, z, yaw, opening = check_action(action, ("x", "y", "z", "yaw", "opening"))
        targets = self.targets = self._inner.backend.commanded if self.targets is None else self.targets
        position = np.array([x, y, z])
        joints = self._follow(targets, position, float(yaw))
        if joints is not None:
            self.targets = joints
        elif not self._holding:
            self.targets = self._stop(targets)
        self._holding, self._request = joints is None, (position, float(yaw))
        target = np.append(self.targets, opening).astype(np.float32)
        self._before = self._inner.backend.commanded
        observation, reward, terminated, truncated, info = self.env.step(target)
        if _interrupted(info):
            self.targets = None
        if joints is None:
            pose = f"({x:.3f}, {y:.3f}, {z:.3f}) m, yaw {yaw:.2f} rad"
            why = f"no joint angles near the present ones reach the tool pose {pose}: the arm holds"
            held: Intervention = {"rule": "reach", "where": pose, "why": why}
            info["safety"] = (*info["safety"], held)
        return observation, reward, terminated, truncated, info

    def _stop(self, targets: Array) -> Array:
        """Return the joint angles in rad, shape (6,), at which the arm can stop on its way to joint targets."""
        here = self._inner.backend.commanded
        before = here if self._before is None else self._before
        speed = (here - before) * self._inner.control_hz
        way = 0.5 * speed * (np.abs(speed) / MAX_ACCELERATION + MAX_ACCELERATION / MAX_JERK)
        return np.clip(here + _STOP_MARGIN * way, np.minimum(here, targets), np.maximum(here, targets))

    def _follow(self, targets: Array, position: Array, yaw: float) -> Array | None:
        gripper = self._inner.gripper
        joints = follow(targets, position, yaw, gripper)
        if joints is not None and self._at_end and self._request is not None:
            # At the end of J6's range the arm goes on once the commanded yaw comes back, or jumps. While the yaw goes
            # on turning it reaches angles that J6 could get to backwards; the arm does not take those.
            moved, turned = np.linalg.norm(position - self._request[0]), turn_between(self._request[1], yaw)
            if np.abs(joints - targets).max() > change_bound(float(moved), turned):
                return None
        self._at_end = joints is None and (
            self._at_end or solve(position, yaw, gripper, near_j6=float(targets[5])) is not None
        )
        return joints
