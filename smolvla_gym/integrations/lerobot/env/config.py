"""Configurations of the environments for LeRobot's command line."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

from smolvla_gym.envs.time_limit import MAX_EPISODE_S, steps_within
from smolvla_gym.errors import needs_extra
from smolvla_gym.integrations.lerobot.env.small_images import LEROBOT_REAL_ID, LEROBOT_SIM_ID
from smolvla_gym.parol6 import ACTION_NAMES
from smolvla_gym.tasks import check_registered

with needs_extra("The environment for LeRobot", "smolvla"):
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.envs.configs import EnvConfig


@EnvConfig.register_subclass("parol6")
@dataclass
class PAROL6EnvConfig(EnvConfig):
    """The simulated arm. Joints are in rad and openings 0 to 1, as in ``PAROL6Sim-v0`` and in its datasets.

    Attributes:
        task: Name of the task; ``smolvla-gym tasks`` lists them.
        fps: Control rate in Hz.
        episode_length: Steps after which an episode is given up; None: those of 15 s.
        cameras: Names of the observed cameras.
        image_size: Height and width of the images in px. Give the policy's own: images are rendered larger and averaged
            down, as ``smolvla-gym eval`` does, while LeRobot itself would drop pixels.
        gripper: Name of the mounted gripper.
        num_objects: Number of objects on the table, 2 or 3.
        randomization: Level of the domain randomization, 0 to 2.
        render_mode: Render mode, of which LeRobot makes its videos.
    """

    task: str | None = "lift"
    fps: int = 30
    episode_length: int | None = None
    cameras: list[str] = field(default_factory=lambda: ["wrist"])
    image_size: list[int] = field(default_factory=lambda: [256, 256])
    gripper: str = "ssg48"
    num_objects: int = 2
    randomization: int = 1
    render_mode: str = "rgb_array"

    def __post_init__(self) -> None:
        """Describe the environment to LeRobot."""
        check_registered(self.task)
        width = (len(ACTION_NAMES),)
        self.features: dict[str, PolicyFeature] = {
            "action": PolicyFeature(type=FeatureType.ACTION, shape=width),
            "agent_pos": PolicyFeature(type=FeatureType.STATE, shape=width),
        }
        self.features_map: dict[str, str] = {"action": "action", "agent_pos": "observation.state"}
        for camera in self.cameras:
            key = f"observation.images.{camera}"
            self.features[key] = PolicyFeature(type=FeatureType.VISUAL, shape=(*self.image_size, 3))
            self.features_map[key] = key

    @property
    def gym_id(self) -> str:
        """Id of the environment."""
        return LEROBOT_SIM_ID

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Options of ``gym.make``."""
        return {
            "task": self.task, "cameras": tuple(self.cameras), "image_size": tuple(self.image_size),
            "control_hz": float(self.fps), "gripper": self.gripper, "num_objects": self.num_objects,
            "randomization": self.randomization, "render_mode": self.render_mode,
            "max_episode_steps": self.episode_length or steps_within(MAX_EPISODE_S, self.fps),
        }  # fmt: skip


@EnvConfig.register_subclass("parol6_real")
@dataclass
class PAROL6RealEnvConfig(PAROL6EnvConfig):
    """The real arm, or its virtual twin with ``--env.port=twin``. There is one environment, whatever the batch size.

    The env of a real arm cannot detect success, so that LeRobot counts every episode there as failed; the twin's can.

    Attributes:
        port: Serial port of the arm; ``"twin"`` for the virtual one; None: it is searched on USB.
        camera: Serial number of each camera by name; None takes the only one there is.
        home: Whether to home an arm that does not know its joint angles. It moves by itself for half a minute to a
            minute then.
        speed_scale: Share of the speed limits that may be used.
        instruction: Instruction; None: that of the task's first template.
        realtime: False runs a twin in lockstep, as fast as it can.
    """

    port: str | None = None
    camera: dict[str, str] | None = None
    home: bool = False
    speed_scale: float = 0.3
    instruction: str | None = None
    realtime: bool = True

    @property
    def gym_id(self) -> str:
        """Id of the environment."""
        return LEROBOT_REAL_ID

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Options of ``gym.make``."""
        return {
            **super().gym_kwargs, "port": self.port, "camera": self.camera, "home": self.home,
            "speed_scale": self.speed_scale, "instruction": self.instruction, "realtime": self.realtime,
        }  # fmt: skip

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, gym.vector.VectorEnv[Any, Any, Any]]]:
        """Make the one environment, in this process."""
        if n_envs != 1:
            logging.getLogger(__name__).warning("There is one arm: one copy of the environment and not %d.", n_envs)
        envs: dict[str, dict[int, gym.vector.VectorEnv[Any, Any, Any]]] = super().create_envs(1, False)
        return envs
