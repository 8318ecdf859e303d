"""Robots and teleoperators of the arm for LeRobot.

Robots: ``parol6_follower`` (the real arm, or its virtual twin with ``--robot.port=twin``) and ``parol6_sim``.
Teleoperators: ``parol6_keyboard``, ``parol6_gamepad`` and ``parol6_expert``, the scripted expert of the simulation.

LeRobot finds them where the distribution ``lerobot_robot_parol6`` is installed, and otherwise by
``--robot.discover_packages_path=smolvla_gym.integrations.lerobot.robot``.
"""

from smolvla_gym.integrations.lerobot.robot.config import (
    PAROL6ExpertConfig,
    PAROL6FollowerConfig,
    PAROL6GamepadConfig,
    PAROL6KeyboardConfig,
    PAROL6SimConfig,
)
from smolvla_gym.integrations.lerobot.robot.robot import PAROL6Follower, PAROL6Sim
from smolvla_gym.integrations.lerobot.robot.teleoperator import PAROL6Expert, PAROL6Gamepad, PAROL6Keyboard

__all__ = [
    "PAROL6Expert",
    "PAROL6ExpertConfig",
    "PAROL6Follower",
    "PAROL6FollowerConfig",
    "PAROL6Gamepad",
    "PAROL6GamepadConfig",
    "PAROL6Keyboard",
    "PAROL6KeyboardConfig",
    "PAROL6Sim",
    "PAROL6SimConfig",
]
