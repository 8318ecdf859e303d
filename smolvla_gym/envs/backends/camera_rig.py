"""Cameras of the real arm or the twin, whose images get the view and size of the simulation's cameras."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Final

from smolvla_gym.drivers.cameras.camera import Camera
from smolvla_gym.drivers.cameras.configs import CameraConfig
from smolvla_gym.drivers.cameras.framing import D405_COLOUR, Framing, Intrinsics
from smolvla_gym.drivers.cameras.make_camera import make_camera
from smolvla_gym.drivers.cameras.realsense import RealSenseCamera
from smolvla_gym.envs.env_options import EnvOptions
from smolvla_gym.envs.real_options import RealOptions
from smolvla_gym.sim.scene import DEPTH_RANGES, SCENE_FOVY

REFERENCES: Final = {"wrist": D405_COLOUR, "scene": Intrinsics.from_fovy(SCENE_FOVY, 640, 480)}
"""Intrinsics of the simulation's cameras; these views are cut out of the images of the real ones."""


def start_cameras(
    undo: ExitStack,
    cameras: Mapping[str, str | CameraConfig | None],
    options: EnvOptions,
    arm: RealOptions,
    **connection: Any,
) -> dict[str, Camera]:
    """Start the cameras of an environment; their threads frame the images.

    A camera with the name of a view of the simulation, whose intrinsics are known, gives that view. Another one gives
    the largest centred crop of its image.

    Args:
        undo: Takes the call that closes each of them.
        cameras: By name the serial number of a RealSense camera, None for the only one connected, or a configuration.
        options: Options of the environment.
        arm: Options of the arm.
        **connection: The arguments ``context_factory`` and ``clock`` of ``RealSenseCamera``.

    Raises:
        DeviceError: A camera cannot be started.
        OptionError: A camera gives other images than its configuration says.
    """
    started: dict[str, Camera] = {}
    for name, described in cameras.items():
        camera: Camera
        if described is None or isinstance(described, str):
            camera = RealSenseCamera(described, arm.camera, **connection)
        else:
            camera = make_camera(described, depth=options.depth)
        started[name] = camera
        undo.callback(camera.close)
        camera.start()
        reference = REFERENCES.get(name, camera.intrinsics) if camera.calibrated else camera.intrinsics
        depth_range = DEPTH_RANGES.get(name, (0.0, math.inf))
        camera.framing = Framing(camera.intrinsics, reference, options.image_size, depth_range)
    return started
