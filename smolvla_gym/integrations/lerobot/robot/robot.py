"""LeRobot's ``Robot`` of the arm."""

from __future__ import annotations

import abc
import sys
import weakref
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
from lerobot.robots.robot import Robot

from smolvla_gym.agent.images import env_image_size, resize_area
from smolvla_gym.envs.env_options import check_image_size
from smolvla_gym.errors import DeviceError
from smolvla_gym.integrations.lerobot.robot.config import PAROL6Config, PAROL6FollowerConfig, PAROL6SimConfig
from smolvla_gym.integrations.lerobot.robot.instruction import find_instruction
from smolvla_gym.integrations.lerobot.robot.loop import EnvLoop
from smolvla_gym.integrations.lerobot.robot.mounts import guard_mounts
from smolvla_gym.integrations.lerobot.robot.units import KEYS, LOWER, UPPER, from_lerobot, to_lerobot
from smolvla_gym.parol6 import Gripper, get_gripper
from smolvla_gym.sim.scene import check_cameras
from smolvla_gym.utils.option_values import check_names, check_number, check_switch

connected: weakref.WeakSet[PAROL6Robot] = weakref.WeakSet()
"""Connected arms of this process, of which a teleoperator reads the present pose."""


class PAROL6Robot(Robot, abc.ABC):
    """Base class of the real and the simulated arm."""

    config_class: type[PAROL6Config] = PAROL6Config
    name = "parol6"

    def __init__(self, config: PAROL6Config) -> None:
        """Check the configuration; nothing is opened.

        Args:
            config: Configuration of the arm.

        Raises:
            SmolVLAGymError: An option has a value that is not allowed.
        """
        self._loop: EnvLoop | None = None  # first: LeRobot reads it when it deletes a robot whose __init__ failed
        super().__init__(config)
        self.config = config
        self.cameras: dict[str, Any] = {}  # LeRobot's camera drivers are not used
        self._size = check_image_size(config.image_size)
        self._names = check_cameras(check_names(config.observed))
        check_switch("use_degrees", config.use_degrees)
        allowed = "seconds above 0 and up to 60"
        check_number("hold_after_s", config.hold_after_s, allowed, above=0.0, high=60.0)
        self.gripper: Gripper = get_gripper(config.gripper)
        self.instruction: str | None = find_instruction(config.instruction, sys.argv)

    @cached_property
    def observation_features(self) -> dict[str, Any]:
        """Names and types of the observation's components."""
        return {**dict.fromkeys(KEYS, float), **dict.fromkeys(self._names, (*self._size, 3))}

    @cached_property
    def action_features(self) -> dict[str, Any]:
        """Names and types of the action's components."""
        return dict.fromkeys(KEYS, float)

    @property
    def is_connected(self) -> bool:
        """Return whether the arm is connected."""
        return self._loop is not None and self._loop.running

    @property
    def is_calibrated(self) -> bool:
        """Always True: the arm finds its zero when it homes."""
        return True

    def calibrate(self) -> None:
        """Do nothing."""

    def configure(self) -> None:
        """Do nothing."""

    @property
    def loop(self) -> EnvLoop:
        """Control loop of the arm.

        Raises:
            DeviceError: The arm is not connected.
        """
        if self._loop is None:
            raise DeviceError(f"{self} is not connected: call connect() first.")
        return self._loop

    def connect(self, calibrate: bool = True) -> None:
        """Open the arm, which drives to its start pose.

        Args:
            calibrate: Ignored.

        Raises:
            DeviceError: The arm is connected already, or cannot be opened.
            SmolVLAGymError: The env refuses an option.
        """
        if self.is_connected:
            raise DeviceError(f"{self} is connected already.")
        loop = self._make_loop()
        loop.start()
        self._loop = loop
        connected.add(self)
        print(f"{self.name}: {loop.latest().instruction!r}", flush=True)

    def get_observation(self) -> dict[str, Any]:
        """Return joints, gripper and images at the end of the last control step.

        Raises:
            SmolVLAGymError: The arm is not connected, or a fault holds it.
        """
        observation = self.loop.latest().observation
        return {
            **to_lerobot(observation["agent_pos"], use_degrees=self.config.use_degrees),
            **{name: resize_area(image, self._size) for name, image in observation.get("pixels", {}).items()},
        }

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Set the target, to which the arm moves within its limits, and return at once.

        Args:
            action: A number for each of ``action_features``.

        Returns:
            The target within the soft limits.

        Raises:
            ActionError: A component is missing or not finite. The target before stays.
            SmolVLAGymError: The arm is not connected, or a fault holds it.
        """
        requested = from_lerobot(action, use_degrees=self.config.use_degrees)
        target = np.clip(requested, LOWER, UPPER)
        self.loop.command(target)
        return to_lerobot(target, use_degrees=self.config.use_degrees)

    def disconnect(self) -> None:
        """Stop and disable the arm, and free everything."""
        connected.discard(self)
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()

    @abc.abstractmethod
    def _make_loop(self) -> EnvLoop:
        """Return a control loop of a new env."""

    def _options(self) -> dict[str, Any]:
        config = self.config
        return {
            "task": config.task, "cameras": self._names, "image_size": env_image_size(self._size),
            "control_hz": float(config.fps), "gripper": config.gripper,
        }  # fmt: skip


class PAROL6Follower(PAROL6Robot):
    """The real arm, or its virtual twin."""

    config_class: type[PAROL6FollowerConfig] = PAROL6FollowerConfig
    name = "parol6_follower"

    def _make_loop(self) -> EnvLoop:
        from smolvla_gym.envs.make_real import TWIN, make_real_env

        config = cast(PAROL6FollowerConfig, self.config)
        options = {**self._options(), "port": config.port, "camera": config.camera, "speed_scale": config.speed_scale}
        if config.port == TWIN:
            options |= {"camera": TWIN, "twin_options": {"homed": True}}
        else:
            options["home"] = config.home  # once, if the arm does not know its joint angles

        return EnvLoop(
            partial(make_real_env, **options), instruction=self.instruction, hold_after=config.hold_after_s,
            prepare=partial(guard_mounts, config.mount_images) if config.mount_guard else None,
        )  # fmt: skip


class PAROL6Sim(PAROL6Robot):
    """The simulated arm, in real time."""

    config_class: type[PAROL6SimConfig] = PAROL6SimConfig
    name = "parol6_sim"

    def _make_loop(self) -> EnvLoop:
        from smolvla_gym.envs.make_sim import make_sim_env

        config = cast(PAROL6SimConfig, self.config)
        options = {**self._options(), "num_objects": config.num_objects, "randomization": config.randomization}

        return EnvLoop(
            partial(make_sim_env, **options), seed=config.seed, instruction=self.instruction,
            hold_after=config.hold_after_s, renew_after=config.renew_after_s,
        )  # fmt: skip
