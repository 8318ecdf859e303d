"""Makes the PAROL6 arm known to LeRobot's programs; see ``smolvla_gym.plugins.lerobot_env``."""

from smolvla_gym.plugins.lerobot_env import *  # noqa: F403
