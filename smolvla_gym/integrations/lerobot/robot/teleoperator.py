"""Teleoperators of LeRobot: keyboard, gamepad, and the scripted expert of the simulation."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from lerobot.teleoperators.teleoperator import Teleoperator

from smolvla_gym.errors import DeviceError
from smolvla_gym.integrations.lerobot.robot.config import PAROL6ExpertConfig, PAROL6GamepadConfig, PAROL6KeyboardConfig
from smolvla_gym.integrations.lerobot.robot.robot import PAROL6Robot, connected
from smolvla_gym.integrations.lerobot.robot.units import KEYS, to_lerobot


class PAROL6Teleoperator(Teleoperator):
    """Base class of the teleoperators, which read the state of the arm that is connected in the same process."""

    def __init__(self, config: Any) -> None:
        """Create a teleoperator; nothing is opened.

        Args:
            config: Its configuration.
        """
        self._connected = False
        super().__init__(config)

    @property
    def action_features(self) -> dict[str, Any]:
        """Names and types of the action's components."""
        return dict.fromkeys(KEYS, float)

    @property
    def feedback_features(self) -> dict[str, Any]:
        """Empty: there is no feedback."""
        return {}

    @property
    def is_connected(self) -> bool:
        """Return whether the teleoperator is connected."""
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        """Always True: there is nothing to calibrate."""
        return True

    def calibrate(self) -> None:
        """Do nothing."""

    def configure(self) -> None:
        """Do nothing."""

    def send_feedback(self, feedback: dict[str, Any]) -> None:
        """Do nothing."""

    def connect(self, calibrate: bool = True) -> None:
        """Connect the teleoperator."""
        self._connected = True

    def disconnect(self) -> None:
        """Disconnect the teleoperator."""
        self._connected = False

    @staticmethod
    def _robot() -> PAROL6Robot:
        """Return the connected arm.

        Raises:
            DeviceError: No arm is connected, or several are.
        """
        robots = list(connected)
        if len(robots) != 1:
            raise DeviceError(f"One PAROL6 has to be connected in this process, and {len(robots)} are.")
        return robots[0]


class PAROL6Expert(PAROL6Teleoperator):
    """The scripted expert."""

    config_class: type[PAROL6ExpertConfig] = PAROL6ExpertConfig
    name = "parol6_expert"

    def get_action(self) -> dict[str, Any]:
        """Return the expert's action in the present state."""
        robot = self._robot()
        return to_lerobot(robot.loop.expert(), use_degrees=robot.config.use_degrees)


class _Operator(PAROL6Teleoperator):
    """Operator at a keyboard or a gamepad."""

    device = ""

    def connect(self, calibrate: bool = True) -> None:
        """Open the window."""
        from smolvla_gym.teleoperation.window import OperatorWindow

        self._window = OperatorWindow(self.device)
        self._jog: Any = None
        self._scene = 0
        self._called_at = 0.0
        self._connected = True

    def disconnect(self) -> None:
        """Close the window."""
        if self._connected:
            self._window.close()
        self._connected = False

    def get_action(self) -> dict[str, Any]:
        """Return the operator's action."""
        from smolvla_gym.teleoperation.jog import ToolJog

        robot = self._robot()
        seen = robot.loop.latest()
        agent_pos = seen.observation["agent_pos"]
        if self._jog is None or seen.scene != self._scene:
            self._jog = ToolJog(robot.gripper, robot.config.fps)
            self._jog.reset(agent_pos)
            self._scene = seen.scene
        self._window.show(list(seen.observation.get("pixels", {}).values()), [seen.instruction])
        command = self._window.poll()
        if command.leave:
            raise KeyboardInterrupt
        # LeRobot's programs call this at rates of their own.
        now = time.monotonic()
        share = min(1.0, (now - self._called_at) * robot.config.fps)
        self._called_at = now
        command = replace(command, velocity=share * command.velocity, turn=share * command.turn)
        return to_lerobot(np.asarray(self._jog.step(command, agent_pos)), use_degrees=robot.config.use_degrees)


class PAROL6Keyboard(_Operator):
    """The keyboard."""

    config_class: type[PAROL6KeyboardConfig] = PAROL6KeyboardConfig
    name = "parol6_keyboard"
    device = "keyboard"


class PAROL6Gamepad(_Operator):
    """A gamepad."""

    config_class: type[PAROL6GamepadConfig] = PAROL6GamepadConfig
    name = "parol6_gamepad"
    device = "gamepad"
