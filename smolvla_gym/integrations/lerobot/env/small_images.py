"""Environments with images of a policy's own size that are rendered larger and averaged down."""

from __future__ import annotations

from typing import Any, Final, Unpack

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from smolvla_gym.agent.images import env_image_size, resize_area
from smolvla_gym.envs.env_keywords import RealKeywords, SimKeywords
from smolvla_gym.envs.env_options import check_image_size
from smolvla_gym.envs.time_limit import DEFAULT_STEPS

LEROBOT_SIM_ID: Final = "PAROL6LeRobotSim-v0"
LEROBOT_REAL_ID: Final = "PAROL6LeRobotReal-v0"

_LEROBOTS_OWN: Final = "lerobot_"
"""Prefix of reset options that LeRobot's own wrappers read, such as ``lerobot_new_rollout``."""


class SmallImages(gym.ObservationWrapper[dict[str, Any], Any, dict[str, Any]]):
    """Wrapper that resizes every image in the same way as the agent."""

    def __init__(self, env: gym.Env[dict[str, Any], Any], image_size: tuple[int, int]) -> None:
        """Wrap an env with ``"pixels"``, or one without.

        Args:
            env: The env.
            image_size: Height and width in px.
        """
        super().__init__(env)
        self._size = image_size
        self.metadata = {
            **env.metadata,
            "render_fps": round(env.metadata["render_fps"]),
        }  # LeRobot's videos need an integer
        space = env.observation_space
        assert isinstance(space, spaces.Dict)  # noqa: S101 - narrows a type
        parts = dict(space.spaces)
        if "pixels" in parts:
            cameras = parts["pixels"]
            assert isinstance(cameras, spaces.Dict)  # noqa: S101 - narrows a type
            parts["pixels"] = spaces.Dict({c: spaces.Box(0, 255, (*image_size, 3), np.uint8) for c in cameras})
        self.observation_space = spaces.Dict(parts)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Seed of the env.
            options: Options of the env. Those of LeRobot's own wrappers are left out.
        """
        own = {name: value for name, value in (options or {}).items() if not str(name).startswith(_LEROBOTS_OWN)}
        return super().reset(seed=seed, options=own)

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Return the observation with small images."""
        pixels = {name: resize_area(image, self._size) for name, image in observation.get("pixels", {}).items()}
        return {**observation, "pixels": pixels} if pixels else observation


def make_sim(image_size: tuple[int, int] = (256, 256), **options: Unpack[SimKeywords]) -> SmallImages:
    """Make the simulated environment; the options are those of ``PAROL6Sim-v0``."""
    from smolvla_gym.envs.make_sim import make_sim_env

    size = check_image_size(image_size)
    return SmallImages(make_sim_env(image_size=env_image_size(size), **options), size)


def make_real(image_size: tuple[int, int] = (256, 256), **options: Unpack[RealKeywords]) -> SmallImages:
    """Make the real environment; the options are those of ``PAROL6Real-v0``."""
    from smolvla_gym.envs.make_real import TWIN, make_real_env

    size = check_image_size(image_size)
    if options.get("port") == TWIN:
        # The twin is homed, and its scene has the instruction.
        options |= {"camera": TWIN, "home": None, "instruction": None, "twin_options": {"homed": True}}
    return SmallImages(make_real_env(image_size=env_image_size(size), **options), size)


for _id, _entry in ((LEROBOT_SIM_ID, "make_sim"), (LEROBOT_REAL_ID, "make_real")):
    if _id not in gym.registry:
        gym.register(
            id=_id,
            entry_point=f"{__name__}:{_entry}",
            max_episode_steps=DEFAULT_STEPS,
            disable_env_checker=True,
        )
