"""Calibration of the cameras and of the homing, with a printed ChArUco board.

The file format is in :mod:`smolvla_gym.parol6.calibration`, so that the simulation can load it.
"""

from smolvla_gym.parol6.calibration import (
    BoardSpec,
    Calibration,
    CameraCalibration,
    CameraIntrinsics,
    CameraPose,
    JointOffsets,
    load_calibration,
    parse_calibration,
)

__all__ = [
    "BoardSpec", "Calibration", "CameraCalibration", "CameraIntrinsics", "CameraPose", "JointOffsets",
    "load_calibration", "parse_calibration",
]  # fmt: skip
