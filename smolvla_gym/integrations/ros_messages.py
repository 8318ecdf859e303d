"""ROS 2 messages: their definitions, and functions that build them as dictionaries."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.parol6 import Array

Message = dict[str, Any]

FIELDS: Final[Mapping[str, str]] = {
    "builtin_interfaces/Time": "int32 sec\nuint32 nanosec",
    "std_msgs/Header": "builtin_interfaces/Time stamp\nstring frame_id",
    "std_msgs/String": "string data",
    "std_msgs/Bool": "bool data",
    "std_msgs/Empty": "",
    "rosgraph_msgs/Clock": "builtin_interfaces/Time clock",
    "sensor_msgs/Image": "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\n"
    "uint8 is_bigendian\nuint32 step\nuint8[] data",
    "sensor_msgs/JointState": "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\n"
    "float64[] effort",
    "sensor_msgs/CompressedImage": "std_msgs/Header header\nstring format\nuint8[] data",
    "sensor_msgs/RegionOfInterest": "uint32 x_offset\nuint32 y_offset\nuint32 height\nuint32 width\nbool do_rectify",
    "sensor_msgs/CameraInfo": "std_msgs/Header header\nuint32 height\nuint32 width\nstring distortion_model\n"
    "float64[] d\nfloat64[9] k\nfloat64[9] r\nfloat64[12] p\nuint32 binning_x\nuint32 binning_y\n"
    "sensor_msgs/RegionOfInterest roi",
    "geometry_msgs/Vector3": "float64 x\nfloat64 y\nfloat64 z",
    "geometry_msgs/Quaternion": "float64 x\nfloat64 y\nfloat64 z\nfloat64 w",
    "geometry_msgs/Transform": "geometry_msgs/Vector3 translation\ngeometry_msgs/Quaternion rotation",
    "geometry_msgs/TransformStamped": "std_msgs/Header header\nstring child_frame_id\n"
    "geometry_msgs/Transform transform",
    "tf2_msgs/TFMessage": "geometry_msgs/TransformStamped[] transforms",
    "trajectory_msgs/JointTrajectoryPoint": "float64[] positions\nfloat64[] velocities\nfloat64[] accelerations\n"
    "float64[] effort\nbuiltin_interfaces/Duration time_from_start",
    "builtin_interfaces/Duration": "int32 sec\nuint32 nanosec",
    "trajectory_msgs/JointTrajectory": "std_msgs/Header header\nstring[] joint_names\n"
    "trajectory_msgs/JointTrajectoryPoint[] points",
}
"""Definitions of the messages: type and name of each field, as in the interface packages of ROS 2."""

_JPEG_QUALITY: Final = 90


class Field(NamedTuple):
    """Field of a message.

    Attributes:
        name: Its name.
        kind: Its type, or that of its entries.
        length: Number of entries, 0 for any number; None: the field has one value.
    """

    name: str
    kind: str
    length: int | None


@functools.cache
def fields(datatype: str) -> tuple[Field, ...]:
    """Return the fields of a message, such as of ``"sensor_msgs/JointState"``."""
    found = []
    for line in FIELDS[datatype].splitlines():
        kind, name = line.split()
        base, bracket, length = kind.partition("[")
        found.append(Field(name, base, int(length.removesuffix("]") or 0) if bracket else None))
    return tuple(found)


def definition(datatype: str) -> str:
    """Return the definition of a message with those of its parts, in the format of MCAP.

    Args:
        datatype: Type, such as ``"sensor_msgs/JointState"``.
    """
    parts = [datatype]
    for part in parts:  # the list grows meanwhile
        parts += dict.fromkeys(f.kind for f in fields(part) if f.kind in FIELDS and f.kind not in parts)
    texts = [FIELDS[datatype]] + [f"MSG: {part}\n{FIELDS[part]}" for part in parts[1:]]
    return f"\n{'=' * 80}\n".join(texts)


def header(seconds: float, frame: str = "") -> Message:
    """Return a header with a time in s."""
    nanoseconds = round(seconds * 1e9)
    return {"stamp": {"sec": nanoseconds // 10**9, "nanosec": nanoseconds % 10**9}, "frame_id": frame}


def joint_state(seconds: float, names: Sequence[str], positions: Iterable[float]) -> Message:
    """Return a ``sensor_msgs/JointState``: angles in rad and jaw travel in m."""
    return {
        "header": header(seconds), "name": list(names), "position": [float(p) for p in positions], "velocity": [],
        "effort": [],
    }  # fmt: skip


def trajectory_point(seconds: float, positions: Iterable[float]) -> Message:
    """Return a ``trajectory_msgs/JointTrajectoryPoint``: positions in rad at a time from the start in s."""
    return {
        "positions": [float(p) for p in positions], "velocities": [], "accelerations": [], "effort": [],
        "time_from_start": header(seconds)["stamp"],
    }  # fmt: skip


def image(seconds: float, frame: str, pixels: NDArray[np.uint8]) -> Message:
    """Return a ``sensor_msgs/Image`` of an image, uint8, shape (H, W, 3)."""
    height, width = pixels.shape[:2]
    return {
        "header": header(seconds, frame), "height": height, "width": width, "encoding": "rgb8", "is_bigendian": 0,
        "step": 3 * width, "data": pixels.tobytes(),
    }  # fmt: skip


def compressed_image(seconds: float, frame: str, pixels: NDArray[np.uint8]) -> Message:
    """Return a ``sensor_msgs/CompressedImage`` of an image, uint8, shape (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return {"header": header(seconds, frame), "format": "jpeg", "data": buffer.getvalue()}


def compressed_depth(seconds: float, frame: str, depth: NDArray[np.uint16]) -> Message:
    """Return a ``sensor_msgs/CompressedImage`` of depth in 0.1 mm, uint16, shape (H, W, 1), lossless."""
    buffer = io.BytesIO()
    Image.fromarray(depth[..., 0]).save(buffer, "PNG")
    return {"header": header(seconds, frame), "format": "png", "data": buffer.getvalue()}


def camera_info(seconds: float, frame: str, camera: Intrinsics) -> Message:
    """Return a ``sensor_msgs/CameraInfo`` of a camera without distortion."""
    fx, fy, cx, cy = camera.fx, camera.fy, camera.ppx, camera.ppy
    return {
        "header": header(seconds, frame), "height": camera.height, "width": camera.width,
        "distortion_model": "plumb_bob", "d": [0.0] * 5,
        "k": [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        "r": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        "p": [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
        "binning_x": 0, "binning_y": 0,
        "roi": {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False},
    }  # fmt: skip


def transform(seconds: float, parent: str, child: str, position: Array, rotation: Array) -> Message:
    """Return a ``geometry_msgs/TransformStamped``: position in m, shape (3,), and rotation, shape (3, 3)."""
    x, y, z, w = quaternion(rotation)
    return {
        "header": header(seconds, parent),
        "child_frame_id": child,
        "transform": {
            "translation": dict(zip("xyz", map(float, position), strict=True)),
            "rotation": {"x": x, "y": y, "z": z, "w": w},
        },
    }


def quaternion(rotation: Array) -> tuple[float, float, float, float]:
    """Return the quaternion x, y, z, w of a rotation matrix, shape (3, 3)."""
    import mujoco

    values = np.empty(4)
    mujoco.mju_mat2Quat(values, np.ascontiguousarray(rotation, np.float64).reshape(9))
    w, x, y, z = values.tolist()
    return x, y, z, w
