"""Folder of a calibration that is under way: planned poses, images and the joint angles at which they were taken.

A session that was interrupted goes on where it ended.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from smolvla_gym.errors import CalibrationError
from smolvla_gym.parol6 import GRIPPERS, NUM_JOINTS, Array
from smolvla_gym.parol6.calibration import BoardSpec, CameraIntrinsics, check_board, check_camera
from smolvla_gym.utils.json_file import save_json, whole_file
from smolvla_gym.utils.schema import check_fields, list_of, mapping_of, number, object_of, one_of, text, whole
from smolvla_gym.utils.untrusted import read_json_object, reading_as

SESSION_FILE: Final = "session.json"
MAX_POSES: Final = 100
_FORMAT: Final = "smolvla_gym calibration session 1"
_ADVICE: Final = "Give another folder with --out."


@dataclass(frozen=True)
class SessionCamera:
    """Camera of a session.

    Attributes:
        serial: Serial number.
        intrinsics: Model of its images.
    """

    serial: str
    intrinsics: CameraIntrinsics


@dataclass
class Session:
    """Calibration that is under way.

    Attributes:
        folder: Its folder.
        gripper: Name of the gripper that is mounted.
        board: The board.
        cameras: The cameras by name.
        poses: Planned joint angles in rad, shape (n, 6); none before planning.
        taken: Reported joint angles in rad, shape (6,), of each pose whose images were taken, by its number.
    """

    folder: Path
    gripper: str
    board: BoardSpec
    cameras: dict[str, SessionCamera]
    poses: Array = field(default_factory=lambda: np.empty((0, NUM_JOINTS)))
    taken: dict[int, Array] = field(default_factory=dict)

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], gripper: str, board: BoardSpec, cameras: dict[str, SessionCamera]
    ) -> Session:
        """Open the session of a folder, or begin one there.

        Its images count with other intrinsics of the same camera too, such as ones that were measured meanwhile.

        Raises:
            CalibrationError: The folder has a session of another arm, board or camera, or a broken one.
        """
        begun = cls(Path(folder), gripper, board, cameras)
        try:
            found = cls.load(folder)
        except FileNotFoundError:
            return begun
        for what, one, two in (
            ("gripper", found.gripper, gripper),
            ("board", found.board, board),
            ("camera", _devices(found.cameras), _devices(cameras)),
        ):
            if one != two:
                raise CalibrationError(f"{folder} has a session with another {what}: it cannot go on. {_ADVICE}")
        found.cameras = cameras
        return found

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Session:
        """Read the session of a folder.

        Raises:
            FileNotFoundError: The folder has none.
            CalibrationError: It is broken.
        """
        path = Path(folder) / SESSION_FILE
        with reading_as(CalibrationError, path, _ADVICE):
            content = check_fields(read_json_object(path), _FIELDS, tuple(_FIELDS))
            poses = np.array(content["poses"], dtype=np.float64).reshape(-1, NUM_JOINTS)
            taken = {one["pose"]: np.array(one["joints"]) for one in content["taken"]}
            if taken and max(taken) >= len(poses):
                raise ValueError("an image is of a pose that was not planned")
            return cls(Path(folder), content["gripper"], content["board"], content["cameras"], poses, taken)

    def save(self) -> None:
        """Write the session.

        Raises:
            RecordingError: It could not be written.
        """
        taken = [{"pose": number, "joints": joints.tolist()} for number, joints in sorted(self.taken.items())]
        content = {
            "format": _FORMAT, "gripper": self.gripper, "board": asdict(self.board),
            "cameras": {name: asdict(camera) | {"pose": None} for name, camera in self.cameras.items()},
            "poses": self.poses.tolist(), "taken": taken,
        }  # fmt: skip
        save_json(self.folder / SESSION_FILE, content, "calibration session")

    def plan(self, poses: Array) -> None:
        """Keep planned poses, shape (n, 6), and forget the images of others."""
        self.poses, self.taken = poses, {}
        self.save()

    def forget_images(self) -> None:
        """Forget the images, such as those before another homing, which has another error."""
        self.taken = {}
        self.save()

    @property
    def open_poses(self) -> list[int]:
        """Return the numbers of the poses without images."""
        return [number for number in range(len(self.poses)) if number not in self.taken]

    def add(self, number: int, joints: Array, images: dict[str, NDArray[np.uint8]]) -> None:
        """Keep the images of a pose.

        Args:
            number: Number of the pose.
            joints: Reported joint angles in rad, shape (6,).
            images: Image of each camera by name, shape (H, W, 3).
        """
        for name, pixels in images.items():
            save_image(self.image_path(name, number), pixels)
        self.taken[number] = joints
        self.save()

    def image_path(self, camera: str, number: int) -> Path:
        """Return the file of an image."""
        return self.folder / f"{camera}_{number:02d}.png"

    def image(self, camera: str, number: int) -> NDArray[np.uint8]:
        """Read an image, shape (H, W, 3).

        Raises:
            CalibrationError: It is missing, broken or of another size.
        """
        view = self.cameras[camera].intrinsics
        return read_image(self.image_path(camera, number), (view.height, view.width))


def _devices(cameras: dict[str, SessionCamera]) -> dict[str, tuple[str, int, int]]:
    """Return serial number and resolution of each camera by name."""
    return {name: (c.serial, c.intrinsics.width, c.intrinsics.height) for name, c in cameras.items()}


def save_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write an image as PNG, completely or not at all."""
    with whole_file(path, "image") as part:
        PILImage.fromarray(pixels).save(part, "PNG")


def read_image(path: Path, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read an image, PNG or JPEG, which is untrusted, shape (H, W, 3).

    Args:
        path: The file.
        size: Height and width that it must have in px; None: any of up to 50 megapixels.

    Raises:
        CalibrationError: It is missing, broken or of another size.
    """
    with reading_as(CalibrationError, path, "Take it again.", f"There is no image {path}."):
        try:
            with PILImage.open(path, formats=("PNG", "JPEG")) as image:
                if size is not None and image.size != size[::-1]:
                    raise ValueError(f"it has {image.size[0]}x{image.size[1]} px in place of {size[1]}x{size[0]}")
                if image.size[0] * image.size[1] > 50e6:
                    raise ValueError("it has more than 50 megapixels")
                return np.asarray(image.convert("RGB"), dtype=np.uint8)
        except (SyntaxError, PILImage.DecompressionBombError) as error:
            raise ValueError(str(error)) from error


def _check_session_camera(value: Any) -> SessionCamera:
    camera = check_camera(value)
    return SessionCamera(camera.serial, camera.intrinsics)


_JOINTS: Final = list_of(number(-10.0, 10.0), NUM_JOINTS, NUM_JOINTS)
_TAKEN: Final = {"pose": whole(0, MAX_POSES - 1), "joints": _JOINTS}
_FIELDS: Final = {
    "format": one_of(_FORMAT), "gripper": one_of(*GRIPPERS), "board": check_board,
    "cameras": mapping_of(text(32), _check_session_camera, 16), "poses": list_of(_JOINTS, 0, MAX_POSES),
    "taken": list_of(object_of(_TAKEN, tuple(_TAKEN)), 0, MAX_POSES),
}  # fmt: skip
