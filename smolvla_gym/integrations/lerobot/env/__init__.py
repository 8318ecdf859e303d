"""Environments of the arm for LeRobot: ``lerobot-eval --env.type=parol6`` and ``parol6_real``.

LeRobot finds them where the distribution ``lerobot_env_parol6`` is installed, and otherwise by
``--env.discover_packages_path=smolvla_gym.integrations.lerobot.env``.
"""

from smolvla_gym.integrations.lerobot.env.config import PAROL6EnvConfig, PAROL6RealEnvConfig

__all__ = ["PAROL6EnvConfig", "PAROL6RealEnvConfig"]
