"""Rendered views of the arm over a board: what the cameras of a calibration would see."""

from __future__ import annotations

import io
from typing import Any, Final

import mujoco
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from smolvla_gym.calibration.board import board_image, board_middle
from smolvla_gym.calibration.geometry import MUJOCO_CAMERA, make_pose, tool_poses
from smolvla_gym.parol6 import JOINT_NAMES, NUM_JOINTS, Array, Gripper
from smolvla_gym.parol6.calibration import BoardSpec, CameraIntrinsics
from smolvla_gym.sim.extras import Extras
from smolvla_gym.sim.plate import Plate
from smolvla_gym.sim.rendering import QUALITIES, OffscreenRenderer
from smolvla_gym.sim.scene import CUBE, GRIPPER_PREFIX, build_model

PAPER_MARGIN_M: Final = (0.0225, 0.015)
"""White margin in m beside and above the default board: together an A4 sheet."""

NOMINAL_POSITION: Final = (0.24, 0.0, 0.002)
"""Where the middle of the board is asked to lie, in m: in front of the arm, on a plate of 2 mm."""


def board_plate(
    spec: BoardSpec, position: tuple[float, float, float] = NOMINAL_POSITION, yaw: float = 0.0,
    pixels_per_square: int = 112,
) -> Plate:  # fmt: skip
    """Return a plate with a board for a simulated table."""
    margin = PAPER_MARGIN_M
    image = board_image(spec, pixels_per_square, margin)
    png = io.BytesIO()
    PILImage.fromarray(image).save(png, "PNG")
    edge = spec.square_m / pixels_per_square
    size = (image.shape[1] * edge, image.shape[0] * edge)
    return Plate(png.getvalue(), size, position, yaw)


def board_pose(spec: BoardSpec, plate: Plate) -> Array:
    """Return the pose of the board on a plate in the world, in OpenCV's convention (z into the board), (4, 4)."""
    rotation = plate.rotation @ MUJOCO_CAMERA
    return make_pose(rotation, np.array(plate.position) - rotation @ board_middle(spec))


class VirtualViews:
    """The arm over a board, rendered with the intrinsics of the real cameras.

    Attributes:
        model: The scene.
    """

    def __init__(self, gripper: Gripper, plate: Plate | None, *, quality: str = "balanced") -> None:
        """Build the scene.

        Args:
            gripper: The gripper that is mounted.
            plate: The board; None: there is none.
            quality: Rendering quality.
        """
        self._gripper = gripper
        self.model: Any = build_model(gripper, CUBE, goal=False, timestep=0.002, extras=Extras(plate=plate))
        self._data = mujoco.MjData(self.model)
        self._arm = [self.model.joint(name).qposadr[0] for name in JOINT_NAMES]
        self._jaws = [self.model.joint(GRIPPER_PREFIX + name).qposadr[0] for name in ("jaw_left", "jaw_right")]
        self._quality = QUALITIES[quality]
        self._renderers: dict[tuple[int, int], OffscreenRenderer] = {}

    def camera_pose(self, name: str) -> Array:
        """Return the pose of a camera in its parent's frame (wrist: tool, scene: base), shape (4, 4)."""
        self._place(np.zeros(NUM_JOINTS), 1.0)
        camera = self._data.camera(name)
        pose = make_pose(camera.xmat.reshape(3, 3) @ MUJOCO_CAMERA, camera.xpos)
        if name != "wrist":
            return pose
        tool = tool_poses(np.zeros(NUM_JOINTS), self._gripper)
        return np.asarray(np.linalg.inv(tool) @ pose)

    def render(
        self, name: str, joints: Array, intrinsics: CameraIntrinsics, opening: float = 1.0, scale: int = 1
    ) -> NDArray[np.uint8]:
        """Render a view without lens distortion, shape (scale * height, scale * width, 3).

        Args:
            name: ``"wrist"`` or ``"scene"``.
            joints: True joint angles in rad, shape (6,).
            intrinsics: Model of the image.
            opening: Opening of the gripper, 0..1.
            scale: Resolution, as a multiple of the camera's.
        """
        self._place(joints, opening)
        size = (scale * intrinsics.height, scale * intrinsics.width)
        renderer = self._renderers.get(size)
        if renderer is None:
            renderer = self._renderers[size] = OffscreenRenderer(self.model, self._quality, size)
        i = intrinsics
        frustum = (
            -(i.ppx + 0.5) / i.fx, (i.width - 0.5 - i.ppx) / i.fx, -(i.height - 0.5 - i.ppy) / i.fy,
            (i.ppy + 0.5) / i.fy,
        )  # fmt: skip
        return renderer.render(self._data, name, size, frustum=frustum)[0]

    def _place(self, joints: Array, opening: float) -> None:
        self._data.qpos[self._arm] = joints
        self._data.qpos[self._jaws] = opening * self._gripper.stroke
        mujoco.mj_kinematics(self.model, self._data)
        mujoco.mj_camlight(self.model, self._data)

    def close(self) -> None:
        """Free the OpenGL contexts; doing it twice does no harm."""
        for renderer in self._renderers.values():
            renderer.close()
