"""Where a camera sees its mark, drawn by the model: the gripper for a camera on the arm, the base for any other one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from smolvla_gym.calibration.image_shift import Mask, Pixels
from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.errors import CalibrationError
from smolvla_gym.parol6 import Array, Gripper, forward_kinematics
from smolvla_gym.parol6.calibration import CameraPose
from smolvla_gym.sim.rendering import QUALITIES, OffscreenRenderer
from smolvla_gym.sim.scene import CAMERAS, CUBE, GRIPPER_PREFIX
from smolvla_gym.sim.world import World

WRIST: Final = "wrist"
Mark = Literal["gripper", "base"]
"""What a camera sees in the same place as long as its mount holds."""

_BODIES: Final[dict[Mark, tuple[str, ...]]] = {
    "gripper": tuple(GRIPPER_PREFIX + part for part in ("gripper", "jaw_left", "jaw_right")),
    "base": ("base",),
}

_VISIBLE: Final = 12
"""Difference in grey levels of a pixel between a white and a black mark."""

_MIN_SHARE: Final = 0.002
"""Smallest share of the image that a mark has to take."""

_FLIP: Final = np.diag([1.0, -1.0, -1.0])  # OpenCV's camera frame and MuJoCo's


@dataclass(frozen=True, eq=False)
class DrawnMark:
    """Mark of a camera, as the model draws it.

    Attributes:
        mark: What it is.
        mask: True where it is visible, shape (H, W).
        distance: Its median distance along the optical axis in m.
        image: The whole image as the model draws it, shape (H, W, 3).
    """

    mark: Mark
    mask: Mask
    distance: float
    image: Pixels


def draw_mark(
    camera: str, view: Intrinsics, gripper: Gripper, joints: Array, opening: float, pose: CameraPose | None = None
) -> DrawnMark:
    """Draw where a camera sees its mark.

    Args:
        camera: Name of the camera.
        view: Pinhole model of its images.
        gripper: The gripper that is mounted.
        joints: Joint angles in rad, shape (6,).
        opening: Opening of the gripper, 0..1.
        pose: Measured pose of the camera; None: that of the model.

    Raises:
        CalibrationError: The camera does not see its mark, or its pose is not known.
        RenderingError: No OpenGL context could be made.
    """
    if pose is None and camera not in CAMERAS:
        raise CalibrationError(f"The pose of the camera {camera!r} is not known: calibrate it first.")
    mark: Mark = "gripper" if (camera == WRIST if pose is None else pose.parent == "tool") else "base"
    size = view.height, view.width
    world = World(
        gripper, CUBE, goal=False, control_hz=30.0, cameras=(), image_size=size, depth=False, quality=QUALITIES["fast"]
    )
    renderer = OffscreenRenderer(world.model, QUALITIES["fast"], size)
    try:
        world.reset(joints, opening)
        world.settle()
        name = camera if camera in CAMERAS else CAMERAS[-1]
        if pose is not None:
            _place_camera(world, name, pose, joints)
        geoms = [
            geom for geom in range(world.model.ngeom)
            if world.model.body(world.model.geom_bodyid[geom]).name in _BODIES[mark]
        ]  # fmt: skip
        plain, _ = renderer.render(world.data, name, size, frustum=_frustum(view))
        world.model.geom_matid[geoms] = -1
        images = []
        for color in ([1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]):
            world.model.geom_rgba[geoms] = color
            image, distance = renderer.render(world.data, name, size, depth=True, frustum=_frustum(view))
            images.append(image.astype(np.int16))
    finally:
        renderer.close()
        world.close()
    mask: Mask = np.abs(images[0] - images[1]).max(axis=2) > _VISIBLE
    if mask.mean() < _MIN_SHARE:
        raise CalibrationError(
            f"The camera {camera!r} does not see the {mark} of the arm, by which the mount guard finds out whether it "
            f"has moved: {mask.mean():.1%} of its image (at least {_MIN_SHARE:.1%})."
        )
    assert distance is not None  # noqa: S101 - narrows a type
    return DrawnMark(mark, mask, float(np.median(distance[mask])), plain)


def _place_camera(world: World, name: str, pose: CameraPose, joints: Array) -> None:
    """Put a camera of the model at a measured pose."""
    camera: Any = world.data.camera(name)
    parent = forward_kinematics(joints, world.gripper) if pose.parent == "tool" else np.eye(4)
    matrix = parent @ pose.matrix
    camera.xpos[:] = matrix[:3, 3]
    camera.xmat[:] = (matrix[:3, :3] @ _FLIP).ravel()


def _frustum(view: Intrinsics) -> tuple[float, float, float, float]:
    """Return the edges of a view at unit distance: left, right, bottom and top."""
    left, right = -(view.ppx + 0.5) / view.fx, (view.width - 0.5 - view.ppx) / view.fx
    bottom, top = -(view.height - 0.5 - view.ppy) / view.fy, (view.ppy + 0.5) / view.fy
    return left, right, bottom, top
