"""Makes the PAROL6 arm known to LeRobot's programs; see ``smolvla_gym.integrations.lerobot.robot``."""

from smolvla_gym.integrations.lerobot.robot import *  # noqa: F403
