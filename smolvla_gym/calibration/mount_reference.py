"""Image of a camera that is kept to find out later whether the camera has moved, and its files.

Beside ``calibration.json`` each camera has ``mount_<camera>.png``, the image, ``mount_<camera>_mask.png``, white where
it shows the mark, and ``mount_<camera>.json``, which says when, by which camera and in which pose it was taken.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smolvla_gym.calibration.image_shift import Mask, Pixels
from smolvla_gym.calibration.mount_mask import Mark
from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.errors import CalibrationError
from smolvla_gym.parol6 import GRIPPERS, NUM_JOINTS, Array
from smolvla_gym.utils import schema
from smolvla_gym.utils.json_file import save_json, whole_file
from smolvla_gym.utils.untrusted import read_file, read_json_object, reading_as

FORMAT: Final = "smolvla_gym mount reference"
VERSION: Final = 1

_MAX_JSON_BYTES: Final = 64 << 10
_MAX_IMAGE_BYTES: Final = 64 << 20
_MAX_EDGE: Final = 8192  # px

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ADVICE: Final = "Keep the image of the camera again with `smolvla-gym mount-guard keep`, or remove the file."


@dataclass(frozen=True, eq=False)
class MountReference:
    """Image of a camera in its mount.

    Attributes:
        camera: Name of the camera.
        serial: Its serial number.
        created: Date and time of the image, ISO 8601 with a time zone.
        gripper: Name of the gripper that was mounted.
        joints: Reported joint angles of the arm in rad, shape (6,).
        opening: Opening of the gripper, 0..1.
        view: Pinhole model of the image.
        mark: What the camera sees in the same place as long as its mount holds: ``"gripper"`` or ``"base"``.
        distance: Distance of the mark from the camera in m.
        image: The whole image, without a crop, shape (H, W, 3).
        mask: True where it shows the mark, shape (H, W).
    """

    camera: str
    serial: str
    created: str
    gripper: str
    joints: Array
    opening: float
    view: Intrinsics
    mark: Mark
    distance: float
    image: Pixels
    mask: Mask

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the files; earlier ones of the same camera are replaced.

        Raises:
            CalibrationError: The camera has a name that no file can have.
            RecordingError: A file could not be written.
        """
        image, mask, head = _paths(Path(folder), self.camera)
        view = self.view
        content = {
            "format": FORMAT, "version": VERSION, "camera": self.camera, "serial": self.serial,
            "created": self.created, "gripper": self.gripper, "joints_rad": self.joints.tolist(),
            "opening": float(self.opening), "width": view.width, "height": view.height, "fx": view.fx, "fy": view.fy,
            "ppx": view.ppx, "ppy": view.ppy, "mark": self.mark, "mark_distance_m": float(self.distance),
            "image_sha256": _save_png(image, self.image),
        }  # fmt: skip
        # The mask has no digest: it may be drawn anew where the model does not fit the real gripper.
        _save_png(mask, np.where(self.mask, np.uint8(255), np.uint8(0)))
        save_json(head, content, "image of the mount guard")


def load_reference(folder: str | os.PathLike[str], camera: str) -> MountReference | None:
    """Read the image of a camera, which is untrusted; None where none is kept.

    Args:
        folder: The folder of the files.
        camera: Name of the camera.

    Raises:
        CalibrationError: A file is missing or broken, or belongs to another camera or image.
    """
    image_path, mask_path, path = _paths(Path(folder), camera)
    if not os.path.lexists(path):
        return None
    with reading_as(CalibrationError, path, _ADVICE, f"{path} is a link to nothing. {_ADVICE}"):
        fields = schema.check_fields(read_json_object(path, _MAX_JSON_BYTES), _FILE, tuple(_FILE))
        if fields["camera"] != camera:
            raise ValueError(f"it is of the camera {fields['camera']!r}")
    size = fields["width"], fields["height"]
    image = _load_png(image_path, "RGB", size, fields["image_sha256"])
    mask = _load_png(mask_path, "L", size)
    view = Intrinsics(*size, *(fields[name] for name in ("fx", "fy", "ppx", "ppy")))
    joints = np.array(fields["joints_rad"])
    joints.setflags(write=False)
    return MountReference(
        camera, fields["serial"], fields["created"], fields["gripper"], joints, fields["opening"], view,
        fields["mark"], fields["mark_distance_m"], image, mask > 127,
    )  # fmt: skip


def _paths(folder: Path, camera: str) -> tuple[Path, Path, Path]:
    """Return the files of the image, of the mask, and of the rest.

    Raises:
        CalibrationError: The camera has a name that no file can have.
    """
    if _NAME.fullmatch(camera) is None:
        raise CalibrationError(f"The mount guard knows cameras named by letters, digits, - and _, not {camera!r:.80}.")
    return folder / f"mount_{camera}.png", folder / f"mount_{camera}_mask.png", folder / f"mount_{camera}.json"


def _save_png(path: Path, pixels: NDArray[np.uint8]) -> str:
    """Write an image and return the digest of its file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    content = buffer.getvalue()
    with whole_file(path, "image of the mount guard") as part:
        part.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _load_png(path: Path, mode: str, size: tuple[int, int], digest: str | None = None) -> NDArray[np.uint8]:
    with reading_as(CalibrationError, path, _ADVICE, f"{path} is missing. {_ADVICE}"):
        content = read_file(path, _MAX_IMAGE_BYTES)
        if digest is not None and hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("it is not the image that its JSON file belongs to")
        try:
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                if image.size != size:  # before anything is decoded
                    raise ValueError(f"it has {image.width}x{image.height} px instead of {size[0]}x{size[1]}")
                return np.array(image.convert(mode))
        except (SyntaxError, OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"it is no whole PNG image ({error})") from error


def _plain(limit: int) -> schema.Check:
    """Create a check for texts that are printed as they are, so without control characters."""

    def check(value: Any) -> str:
        found: str = schema.text(limit)(value)
        if not found.isprintable():
            raise schema.ExpectedError("a text without control characters")
        return found

    return check


def _date(value: Any) -> str:
    moment: str = _plain(40)(value)
    try:
        if datetime.fromisoformat(moment).tzinfo is not None:
            return moment
    except ValueError:
        pass
    raise schema.ExpectedError("a date and time of ISO 8601 with a time zone")


_FILE: Final[Mapping[str, schema.Check]] = {
    "format": schema.one_of(FORMAT), "version": schema.one_of(VERSION), "camera": schema.text(64),
    "serial": _plain(64), "created": _date, "gripper": schema.one_of(*GRIPPERS),
    "joints_rad": schema.list_of(schema.number(-10.0, 10.0), NUM_JOINTS, NUM_JOINTS),
    "opening": schema.number(-0.1, 1.1), "width": schema.whole(16, _MAX_EDGE), "height": schema.whole(16, _MAX_EDGE),
    "fx": schema.number(1.0, 1e5), "fy": schema.number(1.0, 1e5), "ppx": schema.number(-1e5, 1e5),
    "ppy": schema.number(-1e5, 1e5), "mark": schema.one_of("gripper", "base"),
    "mark_distance_m": schema.number(0.001, 100.0), "image_sha256": schema.text(64),
}  # fmt: skip
