"""Other ways to command the arm. Each turns its actions into the env's absolute joint targets."""

from __future__ import annotations

from typing import Any, override

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from smolvla_gym.envs.parol6_env import PAROL6Env
from smolvla_gym.errors import OptionError
from smolvla_gym.inverse_kinematics import solve
from smolvla_gym.parol6 import NUM_JOINTS
from smolvla_gym.safety import check_action

Action = NDArray[np.float32]


def _parol6(env: gym.Env[Any, Any]) -> PAROL6Env:
    inner = env.unwrapped
    if not isinstance(inner, PAROL6Env):
        raise OptionError("env", type(inner).__name__, "an env of this package")
    return inner


class DeltaJointAction(gym.ActionWrapper[Any, Action, Action], gym.utils.RecordConstructorArgs):
    """Actions are changes of the joint targets.

    Action: float32 (7,): six shares, -1..1, of ``max_delta`` to add to the joint angles that the arm was last told to
    hold, and the gripper's opening 0..1.
    """

    def __init__(self, env: gym.Env[Any, Any], max_delta: float = 0.05) -> None:
        """Wraps an env.

        Args:
            env: An env of this package.
            max_delta: Largest change of a joint in one step in rad, in (0, 0.5].

        Raises:
            OptionError: Another env, or a change that is not allowed.
        """
        gym.utils.RecordConstructorArgs.__init__(self, max_delta=max_delta)
        gym.ActionWrapper.__init__(self, env)
        if not 0.0 < max_delta <= 0.5:
            raise OptionError("max_delta", max_delta, "above 0 and at most 0.5 rad")
        self._inner, self._max_delta = _parol6(env), max_delta
        low, high = np.append(-np.ones(NUM_JOINTS), 0.0), np.ones(NUM_JOINTS + 1)
        self.action_space = spaces.Box(low.astype(np.float32), high.astype(np.float32))

    @override
    def action(self, action: Action) -> Action:
        shares = check_action(action)
        joints = self._inner.backend.commanded + self._max_delta * np.clip(shares[:NUM_JOINTS], -1.0, 1.0)
        return np.append(joints, shares[NUM_JOINTS]).astype(np.float32)


class ToolAction(gym.Wrapper[Any, Action, Any, Action], gym.utils.RecordConstructorArgs):
    """Actions are poses of the tool, fingers down (end-effector control).

    Action: float32 (5,): x, y, z of the tool centre point in m in the world, the yaw of the jaws' travel in rad, and
    the gripper's opening 0..1. Where the arm cannot reach, it holds, and ``info["safety"]`` has an event of the rule
    ``reach``.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Wraps an env.

        Args:
            env: An env of this package.

        Raises:
            OptionError: Another env.
        """
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._inner = _parol6(env)
        self.action_space = spaces.Box(
            np.array([-0.5, -0.5, 0.0, -np.pi, 0.0], np.float32), np.array([0.5, 0.5, 0.6, np.pi, 1.0], np.float32)
        )

    @override
    def step(self, action: Action) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Moves towards a pose of the tool, float32 (5,).

        Raises:
            ActionError: The action is malformed or not finite. Nothing moved.
        """
        x, y, z, yaw, opening = check_action(action, ("x", "y", "z", "yaw", "opening"))
        held = self._inner.backend.commanded
        joints = solve((x, y, z), yaw, self._inner.gripper, near_j6=float(held[5]))
        target = np.append(held if joints is None else joints, opening).astype(np.float32)
        observation, reward, terminated, truncated, info = self.env.step(target)
        if joints is None:
            event = {"rule": "reach", "joint": "tool", "requested": [float(x), float(y), float(z)], "allowed": None}
            info["safety"] = (*info["safety"], event)
        return observation, reward, terminated, truncated, info
