"""A person who demonstrates."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.teleoperation.jog import Command, ToolJog
from smolvla_gym.teleoperation.window import OperatorWindow


class TeleopSource:
    """Asks a window what to do, and shows there what the cameras see.

    The recording of an episode begins with the first thing that the operator does. In the simulation and on the twin
    the task decides when it is solved; on a real arm nobody does but the operator. Pictures are kept in memory until an
    episode is over, so one that gets too long is recorded and driven no further: the operator keeps it or not.

    Attributes:
        name: The device.
        verdict: Whether the operator wants to keep the episode; None: that is up to the task.
    """

    def __init__(self, env: gym.Env[Any, Any], window: OperatorWindow, device: str, *, longest: float) -> None:
        """Takes over an env.

        Args:
            env: Where.
            window: The operator's.
            device: What is noted beside each episode.
            longest: How long an episode may get in s.
        """
        bare: Any = env.unwrapped
        self.name = device
        self.verdict: bool | None = None
        self._window = window
        self._period = 1.0 / bare.control_hz
        self._most = max(2, round(longest * bare.control_hz))
        self._paced = not env.metadata.get("realtime", False)  # simulated time waits for the operator's
        self._jog = ToolJog(bare.gripper, bare.control_hz)
        self._instruction, self._frames, self._due = "", 0, 0.0
        self._pending: Command | None = None
        self._last: list[NDArray[np.uint8]] = []
        self._bare = bare

    def prepare(self) -> None:
        """On an arm that moves by itself to where an episode begins, waits until the operator lets it."""
        if self._paced:
            return
        self._window.forget()
        while True:
            self._window.show(self._last, ["Enter: the arm drives to its start pose by itself. Clear its way."])
            command = self._window.poll()
            if command.leave:
                raise KeyboardInterrupt
            if command.keep:
                return
            time.sleep(0.02)

    def begin(
        self, env: gym.Env[Any, Any], observation: dict[str, Any], instruction: str, seed: int
    ) -> dict[str, Any] | None:
        """Waits for the operator; None: there is nothing more to come."""
        self.verdict, self._instruction, self._frames = None, instruction, 0
        self._window.forget()
        self._jog.reset(observation["agent_pos"])
        self._due = time.monotonic()
        while True:
            self._show(observation, "ready")
            command = self._window.poll()
            if command.leave:
                raise KeyboardInterrupt
            if command.discard:
                return None
            if command.velocity.any() or command.turn or command.toggle_gripper:
                self._pending = command
                return observation
            if self._paced:
                time.sleep(0.01)
            else:
                hold = self._jog.step(command, observation["agent_pos"])
                observation, *_ = env.step(hold)  # a real arm wants to be told that somebody is there

    def act(self, observation: dict[str, Any]) -> tuple[NDArray[np.float32] | None, NDArray[np.float32]] | None:
        """Returns the operator's action twice, to record and to execute; None once the operator ends the episode."""
        command, self._pending = self._pending, None
        if command is None:
            command = self._window.poll()
        if command.leave:
            raise KeyboardInterrupt
        if command.keep or command.discard:
            self.verdict = command.keep
            return None
        full = self._frames >= self._most
        self._frames += not full
        seconds = f"{self._frames * self._period:5.1f} s"
        self._show(observation, f"{seconds} are the most: Enter keeps them" if full else f"recording  {seconds}")
        if self._paced:
            self._due = max(self._due + self._period, time.monotonic())
            time.sleep(max(0.0, self._due - time.monotonic()))
        action = self._jog.step(Command() if full else command, observation["agent_pos"])
        return None if full else action, action

    def _show(self, observation: dict[str, Any], doing: str) -> None:
        pixels = observation.get("pixels", {})
        first = ["scene", "wrist"] if "scene" in pixels else ["wrist"]
        self._last = [pixels[name] for name in first if name in pixels] or [self._bare.render()]
        self._window.show(self._last, [f"{self._instruction}    {doing}"])
