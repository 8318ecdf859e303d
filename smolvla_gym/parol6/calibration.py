"""Calibration of an arm: where its cameras are, what homing missed, and the file that keeps this.

A calibration is measured by ``smolvla-gym calibrate``. Simulation, twin, real arm, datasets and checkpoints load the
same ``calibration.json``, compare it and keep its digest.

Frames: ``base`` is the world frame, at the bottom of the base, x forward, z up. ``tool`` is that of
:func:`smolvla_gym.parol6.forward_kinematics`. A camera's frame is OpenCV's: x right, y down, z along the optical axis.
The pose of a camera maps points in its own frame to its parent's.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from smolvla_gym.errors import CalibrationError
from smolvla_gym.parol6.arm import GRIPPERS, NUM_JOINTS, Array
from smolvla_gym.utils.json_file import save_json
from smolvla_gym.utils.schema import (
    Check,
    ExpectedError,
    check_fields,
    list_of,
    mapping_of,
    number,
    object_of,
    one_of,
    optional,
    text,
    whole,
)
from smolvla_gym.utils.untrusted import read_json_object, reading_as

FILE_NAME: Final = "calibration.json"
FORMAT: Final = "smolvla_gym calibration"
VERSION: Final = 1
MAX_BYTES: Final = 256 << 10
"""Largest file that is read, in bytes. A calibration of two cameras has about 3 kB."""

UNITS: Final = {"length": "m", "angle": "rad", "image": "px"}
"""Units of all values of the file."""

CONVENTIONS: Final = {
    "base": "x forward, z up, origin at the bottom of the base",
    "tool": "tool frame of the denavit-hartenberg parameters, z along the tool axis",
    "camera": "opencv: x right, y down, z along the optical axis; whole pixel coordinates are pixel centres",
    "pose": "maps points of the camera's frame to the parent's; quaternion w, x, y, z",
}
"""Conventions of the file, which it repeats for its readers."""

PARENTS: Final = {"wrist": "tool", "scene": "base"}
"""The frame to which the pose of each camera refers."""

_ADVICE: Final = "Measure it again with `smolvla-gym calibrate`, or give another file."
_MOVED_M, _TURNED_RAD = 1e-3, math.radians(0.2)


@dataclass(frozen=True)
class BoardSpec:
    """ChArUco board.

    Attributes:
        columns: Number of squares along the long edge.
        rows: Number of squares along the short edge; odd, as OpenCV changed the pattern of others.
        square_m: Edge of a square in m, as measured on the print.
        marker_m: Edge of a marker in m.
        dictionary: OpenCV's name of the dictionary of the markers.
    """

    columns: int = 7
    rows: int = 5
    square_m: float = 0.036
    marker_m: float = 0.027
    dictionary: str = "DICT_5X5_50"


@dataclass(frozen=True)
class CameraIntrinsics:
    """Pinhole model of a camera with the lens distortion of Brown and Conrady.

    Attributes:
        width: Width of the image in px.
        height: Height of the image in px.
        fx: Horizontal focal length in px.
        fy: Vertical focal length in px.
        ppx: Principal point from the left in px.
        ppy: Principal point from the top in px.
        distortion: OpenCV's k1, k2, p1, p2 and k3.
        source: ``"factory"``: the camera reported it; ``"measured"``: by images of a board.
        rms_px: Reprojection error of the images in px, root mean square; None for those of the factory.
    """

    width: int
    height: int
    fx: float
    fy: float
    ppx: float
    ppy: float
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    source: Literal["factory", "measured"] = "factory"
    rms_px: float | None = None

    @property
    def matrix(self) -> Array:
        """Camera matrix in px, shape (3, 3)."""
        return np.array([[self.fx, 0.0, self.ppx], [0.0, self.fy, self.ppy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class CameraPose:
    """Pose of a camera with its uncertainty.

    Attributes:
        parent: ``"tool"`` or ``"base"``.
        position: Origin of the camera's frame in the parent's in m.
        quaternion: Orientation, w, x, y, z, of length 1.
        position_interval_m: Half width of the 95 % interval of the position in m, along x, y and z of the parent.
        rotation_interval_rad: The same of a rotation about the parent's axes in rad.
        rms_px: Reprojection error in px, root mean square.
        images: Number of images that the pose was found from.
    """

    parent: Literal["tool", "base"]
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]
    position_interval_m: tuple[float, float, float]
    rotation_interval_rad: tuple[float, float, float]
    rms_px: float
    images: int

    @property
    def matrix(self) -> Array:
        """Homogeneous transform from the camera's frame to the parent's, shape (4, 4), lengths in m."""
        w, x, y, z = self.quaternion
        out = np.eye(4)
        out[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
        out[:3, 3] = self.position
        return out


@dataclass(frozen=True)
class CameraCalibration:
    """Calibration of one camera.

    Attributes:
        serial: Serial number of the camera; ``"simulation"`` for rendered images.
        intrinsics: Model of its images.
        pose: Its pose; None before that was measured.
    """

    serial: str
    intrinsics: CameraIntrinsics
    pose: CameraPose | None = None


@dataclass(frozen=True)
class JointOffsets:
    """Errors of homing: true minus reported joint angles.

    The offset of J1 is one with the yaw of the board, that of J6 one with the roll of the camera: both are 0 here.

    Attributes:
        offsets_rad: Offset of each joint in rad, shape (6,).
        interval_rad: Half width of the 95 % interval of each in rad; 0 for joints that were not measured.
    """

    offsets_rad: tuple[float, ...] = (0.0,) * NUM_JOINTS
    interval_rad: tuple[float, ...] = (0.0,) * NUM_JOINTS


@dataclass(frozen=True)
class Calibration:
    """Calibration of an arm and its cameras.

    Attributes:
        gripper: Name of the gripper that was mounted.
        created: Date and time of the last measurement, ISO 8601 with a time zone.
        board: The board that was used.
        cameras: Calibration of each camera by name.
        joint_offsets: What homing had missed when the wrist camera was measured; None before that. A later homing
            misses something else.
    """

    gripper: str
    created: str
    board: BoardSpec = field(default_factory=BoardSpec)
    cameras: Mapping[str, CameraCalibration] = field(default_factory=dict)
    joint_offsets: JointOffsets | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the file."""
        head = {"format": FORMAT, "version": VERSION, "units": dict(UNITS), "conventions": dict(CONVENTIONS)}
        return head | asdict(self)

    @property
    def digest(self) -> str:
        """Digest of the content, 16 hexadecimal digits: the same for the same calibration, whatever the file's form."""
        content = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``calibration.json``, completely or not at all.

        Raises:
            RecordingError: The file could not be written.
        """
        save_json(path, self.to_dict(), "calibration")

    def differences(self, other: Calibration) -> list[str]:
        """Return how another calibration differs, one sentence for each difference; none if both mean the same.

        Poses differ from 1 mm or 0.2 deg on, or where that is larger, beyond the sum of their intervals.
        """
        found = []
        if self.gripper != other.gripper:
            found.append(f"the gripper is {self.gripper} in one and {other.gripper} in the other")
        for name in sorted({*self.cameras, *other.cameras}):
            one, two = self.cameras.get(name), other.cameras.get(name)
            if one is None or two is None:
                found.append(f"only one has the camera {name}")
                continue
            if one.serial != two.serial:
                found.append(f"the camera {name} is {one.serial} in one and {two.serial} in the other")
            found += _intrinsics_differ(name, one.intrinsics, two.intrinsics)
            if one.pose is not None and two.pose is not None:
                found += _poses_differ(name, one.pose, two.pose)
            elif one.pose is not two.pose:
                found.append(f"only one has the pose of the camera {name}")
        return found


def load_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read ``calibration.json``, which is untrusted.

    Raises:
        CalibrationError: The file is missing or broken, or a value is not allowed.
    """
    path = Path(path)
    missing = f"There is no calibration {path}. Measure one with `smolvla-gym calibrate`."
    with reading_as(CalibrationError, path, _ADVICE, missing):
        return parse_calibration(read_json_object(path, MAX_BYTES))


def parse_calibration(content: object) -> Calibration:
    """Return the calibration of a JSON object.

    Raises:
        ValueError: It is not the content of a calibration of this version.
    """
    fields = check_fields(content, _FILE, tuple(_FILE))
    return Calibration(
        fields["gripper"], fields["created"], fields["board"], fields["cameras"], fields["joint_offsets"]
    )


def _intrinsics_differ(name: str, one: CameraIntrinsics, two: CameraIntrinsics) -> list[str]:
    if (one.width, one.height) != (two.width, two.height):
        sizes = f"{one.width}x{one.height} px in one and {two.width}x{two.height} px in the other"
        return [f"images of the camera {name} have {sizes}"]
    values = [np.array([i.fx, i.fy, i.ppx, i.ppy]) for i in (one, two)]
    moved = float(np.abs(values[0] - values[1]).max())
    limit = 0.005 * one.width
    return [f"the intrinsics of the camera {name} differ by {moved:.1f} px"] if moved > limit else []


def _poses_differ(name: str, one: CameraPose, two: CameraPose) -> list[str]:
    if one.parent != two.parent:
        return [f"the pose of the camera {name} refers to the {one.parent} in one and the {two.parent} in the other"]
    between = np.linalg.inv(one.matrix) @ two.matrix
    moved = float(np.linalg.norm(np.subtract(one.position, two.position)))
    turned = math.acos(min(max((float(np.trace(between[:3, :3])) - 1.0) / 2.0, -1.0), 1.0))
    sure_m = math.hypot(*one.position_interval_m, *two.position_interval_m)
    sure_rad = math.hypot(*one.rotation_interval_rad, *two.rotation_interval_rad)
    if moved <= max(_MOVED_M, sure_m) and turned <= max(_TURNED_RAD, sure_rad):
        return []
    return [f"the camera {name} is {1e3 * moved:.1f} mm and {math.degrees(turned):.2f} deg away"]


# -- schema --------------------------------------------------------------------------------------------------------


def _date(value: Any) -> str:
    moment = text(40)(value)
    try:
        if datetime.fromisoformat(moment).tzinfo is not None:
            return str(moment)
    except ValueError:
        pass
    raise ExpectedError("a date and time of ISO 8601 with a time zone")


def _quaternion(value: Any) -> tuple[float, ...]:
    parts: tuple[float, ...] = list_of(number(-1.0, 1.0), 4, 4)(value)
    if abs(math.hypot(*parts) - 1.0) > 1e-6:
        raise ExpectedError("a quaternion w, x, y, z of length 1")
    return parts


def _made(kind: type[Any], fields: Mapping[str, Check]) -> Check:
    inner = object_of(fields, tuple(fields))
    return lambda value: kind(**inner(value))


def check_board(value: Any) -> BoardSpec:
    """Check for a board, as a field of :mod:`smolvla_gym.utils.schema`."""
    board: BoardSpec = _made(BoardSpec, _BOARD)(value)
    if board.rows % 2 == 0 or not board.marker_m < board.square_m:
        raise ExpectedError("an odd number of rows, and markers smaller than the squares")
    return board


def check_camera(value: Any) -> CameraCalibration:
    """Check for a camera, as a field of :mod:`smolvla_gym.utils.schema`."""
    camera: CameraCalibration = _made(CameraCalibration, _CAMERA)(value)
    return camera


def _cameras(value: Any) -> dict[str, CameraCalibration]:
    cameras: dict[str, CameraCalibration] = mapping_of(one_of(*PARENTS), check_camera, 16)(value)
    for name, camera in cameras.items():
        if camera.pose is not None and camera.pose.parent != PARENTS[name]:
            raise ExpectedError(f"a pose of the camera {name} in the frame {PARENTS[name]}")
    return cameras


def _exactly(expected: Mapping[str, str]) -> Check:
    return object_of({name: one_of(value) for name, value in expected.items()}, tuple(expected))


_LENGTH: Final = list_of(number(-10.0, 10.0), 3, 3)
_BOARD: Final = {
    "columns": whole(3, 50), "rows": whole(3, 50), "square_m": number(0.002, 1.0), "marker_m": number(0.001, 1.0),
    "dictionary": one_of("DICT_4X4_50", "DICT_5X5_50", "DICT_6X6_50"),
}  # fmt: skip
_INTRINSICS: Final = {
    "width": whole(16, 16384), "height": whole(16, 16384), "fx": number(1.0, 1e5), "fy": number(1.0, 1e5),
    "ppx": number(-1e5, 1e5), "ppy": number(-1e5, 1e5), "distortion": list_of(number(-100.0, 100.0), 5, 5),
    "source": one_of("factory", "measured"), "rms_px": optional(number(0.0, 1e4)),
}  # fmt: skip
_POSE: Final = {
    "parent": one_of("tool", "base"), "position": _LENGTH, "quaternion": _quaternion,
    "position_interval_m": list_of(number(0.0, 10.0), 3, 3),
    "rotation_interval_rad": list_of(number(0.0, 10.0), 3, 3),
    "rms_px": number(0.0, 1e4), "images": whole(1, 10000),
}  # fmt: skip
_CAMERA: Final = {
    "serial": text(64), "intrinsics": _made(CameraIntrinsics, _INTRINSICS),
    "pose": optional(_made(CameraPose, _POSE)),
}  # fmt: skip
_OFFSETS: Final = {
    "offsets_rad": list_of(number(-0.5, 0.5), NUM_JOINTS, NUM_JOINTS),
    "interval_rad": list_of(number(0.0, 10.0), NUM_JOINTS, NUM_JOINTS),
}
_FILE: Final[Mapping[str, Check]] = {
    "format": one_of(FORMAT), "version": one_of(VERSION), "units": _exactly(UNITS),
    "conventions": _exactly(CONVENTIONS), "gripper": one_of(*GRIPPERS), "created": _date, "board": check_board,
    "cameras": _cameras, "joint_offsets": optional(_made(JointOffsets, _OFFSETS)),
}  # fmt: skip
