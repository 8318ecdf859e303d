"""Cameras of the real arm or the twin, whose images get the view and size of the simulation's cameras."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Final

from smolvla_gym.drivers.cameras.camera import Camera
from smolvla_gym.drivers.cameras.framing import D405_COLOUR, Framing, Intrinsics
from smolvla_gym.drivers.cameras.realsense import RealSenseCamera
from smolvla_gym.envs.env_options import EnvOptions
from smolvla_gym.envs.real_options import RealOptions
from smolvla_gym.sim.scene import DEPTH_RANGES, SCENE_FOVY

REFERENCES: Final = {"wrist": D405_COLOUR, "scene": Intrinsics.from_fovy(SCENE_FOVY, 640, 480)}
"""Intrinsics of the simulation's cameras; these views are cut out of the images of the real ones."""


def start_cameras(
    undo: ExitStack, serials: Mapping[str, str | None], options: EnvOptions, arm: RealOptions, **connection: Any
) -> dict[str, Camera]:
    """Start the cameras of an environment; their threads frame the images.

    Args:
        undo: Takes the call that closes each of them.
        serials: Serial number of each camera by the name of the view that it gives; None for the only one connected.
        options: Options of the environment.
        arm: Options of the arm.
        **connection: The arguments ``context_factory`` and ``clock`` of ``RealSenseCamera``.

    Raises:
        DeviceError: A camera cannot be started.
    """
    cameras: dict[str, Camera] = {}
    for name, serial in serials.items():
        camera = cameras[name] = RealSenseCamera(serial, arm.camera, **connection)
        undo.callback(camera.close)
        camera.start()
        camera.framing = Framing(camera.intrinsics, REFERENCES[name], options.image_size, DEPTH_RANGES[name])
    return cameras
