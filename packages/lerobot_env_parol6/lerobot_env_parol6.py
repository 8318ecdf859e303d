"""Makes the PAROL6 arm known to LeRobot's programs; see ``smolvla_gym.integrations.lerobot.env``."""

from smolvla_gym.integrations.lerobot.env import *  # noqa: F403
