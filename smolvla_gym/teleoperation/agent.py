"""Demonstrator for teleoperation: an operator drives the arm from a window."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.protocol import Action, Demonstrator, EpisodeOver, Observation
from smolvla_gym.teleoperation.jog import Command, ToolJog
from smolvla_gym.teleoperation.window import OperatorWindow

_POLL_S: Final = 0.01
"""Seconds between two polls of the window while the simulation waits."""


class TeleoperationAgent(Demonstrator):
    """Turns the operator's commands into actions, and shows the cameras' images in the window.

    The recording of an episode begins with the operator's first command. In the simulation and on the twin the task
    decides about the success; on a real arm the operator does. Images are kept in memory until an episode is over, so
    an episode that gets too long is recorded no further and the arm stops: the operator keeps the episode or not.
    """

    def __init__(self, window: OperatorWindow, device: str, *, longest: float) -> None:
        """Take the operator's window.

        Args:
            window: Window of the operator.
            device: Name of the device, which the dataset notes beside each episode.
            longest: Longest time in s that is recorded of an episode.
        """
        self.name = device
        self._window, self._longest = window, longest
        self._instruction, self._frames, self._due = "", 0, 0.0
        self._waiting, self._arrived = True, False
        self._images: list[NDArray[np.uint8]] = []

    def attach(self, env: gym.Env[Any, Any]) -> None:
        """Take the env's gripper and clock."""
        bare: Any = env.unwrapped
        self._bare = bare
        self._period = 1.0 / bare.control_hz
        self._most = max(2, round(self._longest * bare.control_hz))
        self._paced = not env.metadata.get("realtime", False)  # simulated time waits for the operator
        self._jog = ToolJog(bare.gripper, bare.control_hz)

    def prepare(self) -> None:
        """Wait for the operator's permission where the arm moves by itself to its start pose.

        Raises:
            KeyboardInterrupt: The operator leaves.
        """
        if self._paced:
            return
        self._window.forget()
        while True:
            self._window.show(self._images, ["Enter: the arm drives to its start pose by itself. Clear its way."])
            if self._poll().keep:
                return
            time.sleep(2 * _POLL_S)

    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Begin an episode, which waits for the operator's first command."""
        self.label, self.verdict = None, None
        self._instruction, self._frames = instruction, 0
        self._waiting, self._arrived = True, False
        self._window.forget()

    def act(self, observation: Observation) -> Action:
        """Return the operator's action, shape (7,).

        Before the operator's first command simulated time waits here; in real time the arm holds in steps that are not
        recorded.

        Raises:
            EpisodeOver: The operator ends the episode.
            KeyboardInterrupt: The operator leaves.
        """
        if not self._arrived:
            self._arrived = True
            self._jog.reset(observation["agent_pos"])
            self._due = time.monotonic()
        command = self._first_command(observation) if self._waiting else self._poll()
        if self._waiting:
            return self._jog.step(command, observation["agent_pos"])
        if command.keep or command.discard:
            self.verdict = command.keep
            raise EpisodeOver
        full = self._frames >= self._most
        self._frames += not full
        seconds = f"{self._frames * self._period:5.1f} s"
        self._show(observation, f"{seconds} are the most: Enter keeps them" if full else f"recording  {seconds}")
        if self._paced:
            self._due = max(self._due + self._period, time.monotonic())
            time.sleep(max(0.0, self._due - time.monotonic()))
        action = self._jog.step(Command() if full else command, observation["agent_pos"])
        self.label = None if full else action
        return action

    def _first_command(self, observation: Observation) -> Command:
        """Return the first command that moves the arm; in real time one that holds it until then.

        Raises:
            EpisodeOver: The operator discards the episode before it has begun.
        """
        while True:
            self._show(observation, "ready")
            command = self._poll()
            if command.discard:
                raise EpisodeOver
            if command.velocity.any() or command.turn or command.toggle_gripper:
                self._waiting = False
                return replace(command, keep=False)
            if not self._paced:
                return Command()
            time.sleep(_POLL_S)

    def _poll(self) -> Command:
        command = self._window.poll()
        if command.leave:
            raise KeyboardInterrupt
        return command

    def _show(self, observation: Observation, state: str) -> None:
        pixels = observation.get("pixels", {})
        names = sorted(pixels, key=lambda name: ("scene", "wrist").index(name) if name in ("scene", "wrist") else 2)
        self._images = [pixels[name] for name in names] or [self._bare.render()]
        self._window.show(self._images, [f"{self._instruction}    {state}"])
