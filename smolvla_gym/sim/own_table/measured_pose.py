"""Measured camera poses of a ``calibration.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from smolvla_gym.errors import OptionError
from smolvla_gym.sim.own_table.description import CameraPose
from smolvla_gym.utils import schema
from smolvla_gym.utils.untrusted import printable, read_json_object

_FORMAT: Final = "smolvla_gym calibration"
_MAX_BYTES: Final = 256 << 10
_PARENTS: Final = {"wrist": "tool", "scene": "base"}

_POSE: Final = {
    "parent": schema.one_of("tool", "base"),
    "position": schema.list_of(schema.number(-5.0, 5.0), 3, 3),
    "quaternion": schema.list_of(schema.number(-1.001, 1.001), 4, 4),
}


def read_measured_pose(where: str, path: Path, camera: str) -> CameraPose:
    """Return the pose of a camera in a calibration file.

    Args:
        where: The key that names the file, for errors.
        path: The file.
        camera: Name of the camera.

    Raises:
        OptionError: The file is missing or broken, or lacks the pose.
    """
    try:
        content = read_json_object(path, _MAX_BYTES)
        if content.get("format") != _FORMAT:
            raise ValueError("it is no calibration")
        cameras = content.get("cameras")
        entry = cameras.get(camera) if isinstance(cameras, dict) else None
        if not isinstance(entry, dict) or entry.get("pose") is None:
            raise ValueError(f"it has no pose of the camera {camera}")
        pose = schema.check_fields(entry["pose"], _POSE, tuple(_POSE), others=True)
        quaternion = np.array(pose["quaternion"])
        if pose["parent"] != _PARENTS[camera] or abs(np.linalg.norm(quaternion) - 1.0) > 0.01:
            raise ValueError(f"the pose of the camera {camera} has another frame, or no rotation")
    except (OSError, ValueError) as error:
        allowed = f"a calibration.json with the camera {camera} ({printable(error, 120)})"
        raise OptionError(where, str(path), allowed) from error
    # OpenCV's cameras look along z with y down, MuJoCo's along -z with y up: half a turn about x.
    w, x, y, z = (quaternion / np.linalg.norm(quaternion)).tolist()
    turned = (-x, w, z, -y)
    return CameraPose(pose["position"], turned, parent="tool" if camera == "wrist" else "mount")
