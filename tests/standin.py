"""A small env with the contract of PAROL6Sim-v0, for what is about rollouts and not about the arm."""

import os
import signal

import gymnasium as gym
import numpy as np


class StandIn(gym.Env):
    """Solved after ``solved_at`` steps and out of time after ``steps``; odd seeds are never solved."""

    def __init__(self, render_mode="rgb_array", steps=12, solved_at=8, fault_at=None, signal_at=None, **options):
        self.options = options
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": options.get("control_hz", 30)}
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Dict(
            pixels=gym.spaces.Dict(wrist=gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)),
            agent_pos=gym.spaces.Box(-7, 7, (7,), np.float32),
        )
        self.action_space = gym.spaces.Box(-1, 1, (7,), np.float32)
        self.task = options.get("task", "lift")
        self._steps, self._solved_at, self._fault_at, self._signal_at = steps, solved_at, fault_at, signal_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._seed, self._step = seed, 0
        return self._observation(), self._info()

    def step(self, action):
        assert self.action_space.contains(action)
        self._step += 1
        if self._step == self._signal_at:
            try:
                os.kill(os.getpid(), self.signals[0])
            finally:
                for number in self.signals[1:]:
                    os.kill(os.getpid(), number)
        info = self._info()
        if self._step == self._fault_at:
            info["fault"] = "ESTOP"
        truncated = self._step >= self._steps or info["fault"] is not None
        return self._observation(), 0.5, info["is_success"], truncated, info

    def render(self):
        return np.full((480, 640, 3), 60 + self._step, np.uint8)

    def expert_action(self):
        return np.full(7, 0.5, np.float32)

    signals = (signal.SIGINT,)

    def _observation(self):
        return {"pixels": {"wrist": np.full((64, 64, 3), 9, np.uint8)}, "agent_pos": np.zeros(7, np.float32)}

    def _info(self):
        solved = self._seed % 2 == 0 and self._step >= self._solved_at
        event = {"rule": "speed", "joint": "joint_1", "requested": 2.0, "allowed": 1.0}
        return {
            "instruction": "pick up the red cube",
            "is_success": solved,
            "safety": (event,) if self._step in (2, 3) else (),
            "fault": None,
        }
