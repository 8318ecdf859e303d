"""Makes the PAROL6 arm known to LeRobot's programs; see ``smolvla_gym.plugins.lerobot_robot``."""

from smolvla_gym.plugins.lerobot_robot import *  # noqa: F403
