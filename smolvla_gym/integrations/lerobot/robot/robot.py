"""The arm as LeRobot's ``Robot``."""

from __future__ import annotations

import abc
import sys
import weakref
from functools import cached_property
from typing import Any, cast

import numpy as np
from lerobot.robots.robot import Robot

from smolvla_gym.agent.images import env_image_size, resize_area
from smolvla_gym.envs.env_options import check_image_size
from smolvla_gym.envs.parol6_env import PAROL6Env
from smolvla_gym.errors import DeviceError
from smolvla_gym.integrations.lerobot.robot.config import PAROL6Config, PAROL6FollowerConfig, PAROL6SimConfig
from smolvla_gym.integrations.lerobot.robot.instruction import find_instruction
from smolvla_gym.integrations.lerobot.robot.loop import EnvLoop
from smolvla_gym.integrations.lerobot.robot.units import KEYS, LOWER, UPPER, from_lerobot, to_lerobot
from smolvla_gym.parol6 import get_gripper
from smolvla_gym.sim.scene import check_cameras
from smolvla_gym.utils.option_values import check_names, check_number, check_switch

connected: weakref.WeakSet[PAROL6Robot] = weakref.WeakSet()
"""The arms of this process that are connected: what drives by hand begins where the arm is."""


class PAROL6Robot(Robot, abc.ABC):
    """What the real and the simulated arm have in common."""

    config_class = PAROL6Config
    name = "parol6"

    def __init__(self, config: PAROL6Config) -> None:
        """Checks the configuration; nothing is opened.

        Args:
            config: Which arm.

        Raises:
            SmolVLAGymError: An option has a value that is not allowed.
        """
        self._loop: EnvLoop | None = None  # first: LeRobot asks for it where a robot that could not be made is deleted
        super().__init__(config)
        self.config = config
        self.cameras: dict[str, Any] = {}  # LeRobot's own drivers: there are none
        self._size = check_image_size(config.image_size)
        self._names = check_cameras(check_names(config.observed))
        check_switch("use_degrees", config.use_degrees)
        allowed = "seconds above 0 and up to 60"
        check_number("hold_after_s", config.hold_after_s, allowed, above=0.0, high=60.0)
        self.gripper = get_gripper(config.gripper)
        self.instruction = find_instruction(config.instruction, sys.argv)

    @cached_property
    def observation_features(self) -> dict[str, Any]:
        """Names and types of what is observed."""
        return {**dict.fromkeys(KEYS, float), **dict.fromkeys(self._names, (*self._size, 3))}

    @cached_property
    def action_features(self) -> dict[str, Any]:
        """Names and types of what is commanded."""
        return dict.fromkeys(KEYS, float)

    @property
    def is_connected(self) -> bool:
        """Whether the arm is there."""
        return self._loop is not None and self._loop.running

    @property
    def is_calibrated(self) -> bool:
        """Always: the arm finds its zero itself when it homes."""
        return True

    def calibrate(self) -> None:
        """Does nothing."""

    def configure(self) -> None:
        """Does nothing."""

    @property
    def loop(self) -> EnvLoop:
        """The arm in its thread.

        Raises:
            DeviceError: It is not connected.
        """
        if self._loop is None:
            raise DeviceError(f"{self} is not connected: call connect() first.")
        return self._loop

    def connect(self, calibrate: bool = True) -> None:
        """Opens the arm, which drives to its start pose.

        Args:
            calibrate: Ignored.

        Raises:
            DeviceError: It is connected already, or cannot be opened.
            SmolVLAGymError: What else the env refused.
        """
        if self.is_connected:
            raise DeviceError(f"{self} is connected already.")
        loop = self._make_loop()
        loop.start()
        self._loop = loop
        connected.add(self)
        print(f"{self.name}: {loop.latest().instruction!r}", flush=True)

    def get_observation(self) -> dict[str, Any]:
        """Returns the joints, the gripper and the pictures, as they were at the end of the last control step.

        Raises:
            SmolVLAGymError: The arm is not connected, or a fault holds it.
        """
        observation = self.loop.latest().observation
        return {
            **to_lerobot(observation["agent_pos"], use_degrees=self.config.use_degrees),
            **{name: resize_area(picture, self._size) for name, picture in observation.get("pixels", {}).items()},
        }

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Sets the target that the arm goes to within its limits, and returns at once.

        Args:
            action: A number for each of ``action_features``.

        Returns:
            The target within the soft limits.

        Raises:
            ActionError: A component is missing or not finite. The arm goes on to the target before.
            SmolVLAGymError: The arm is not connected, or a fault holds it.
        """
        wanted = from_lerobot(action, use_degrees=self.config.use_degrees)
        target = np.clip(wanted, LOWER, UPPER)
        self.loop.command(target)
        return to_lerobot(target, use_degrees=self.config.use_degrees)

    def disconnect(self) -> None:
        """Stops and disables the arm, and gives back everything."""
        connected.discard(self)
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()

    @abc.abstractmethod
    def _make_loop(self) -> EnvLoop:
        """Returns the loop around a new env."""

    def _options(self) -> dict[str, Any]:
        config = self.config
        return {
            "task": config.task, "cameras": self._names, "image_size": env_image_size(self._size),
            "control_hz": float(config.fps), "gripper": config.gripper,
        }  # fmt: skip


class PAROL6Follower(PAROL6Robot):
    """The real arm, or its virtual twin."""

    config_class = PAROL6FollowerConfig
    name = "parol6_follower"

    def _make_loop(self) -> EnvLoop:
        from smolvla_gym.envs.make_real import TWIN, make_real_env

        config = cast(PAROL6FollowerConfig, self.config)
        options = {**self._options(), "port": config.port, "camera": config.camera, "speed_scale": config.speed_scale}
        if config.port == TWIN:
            options |= {"camera": TWIN, "twin_options": {"homed": True}}
        else:
            options["home"] = config.home  # once, where the arm does not know its joint angles

        def make() -> PAROL6Env:
            return make_real_env(**options)

        return EnvLoop(make, instruction=self.instruction, hold_after=config.hold_after_s)


class PAROL6Sim(PAROL6Robot):
    """The simulated arm, in real time."""

    config_class = PAROL6SimConfig
    name = "parol6_sim"

    def _make_loop(self) -> EnvLoop:
        from smolvla_gym.envs.make_sim import make_sim_env

        config = cast(PAROL6SimConfig, self.config)
        options = {**self._options(), "num_objects": config.num_objects, "randomization": config.randomization}

        def make() -> PAROL6Env:
            return make_sim_env(**options)

        return EnvLoop(
            make, seed=config.seed, instruction=self.instruction, hold_after=config.hold_after_s,
            renew_after=config.renew_after_s,
        )  # fmt: skip
