"""Intrinsics of a camera from images of the board, such as those of a webcam, which reports none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.calibration.board import load_cv2
from smolvla_gym.calibration.detection import BoardDetector, Corners
from smolvla_gym.errors import CalibrationError
from smolvla_gym.parol6.calibration import CameraIntrinsics

MIN_VIEWS: Final = 8
"""Fewest images that show the board."""

_MIN_CORNERS: Final = 10
_SURE: Final = 1.96


@dataclass(frozen=True, eq=False)
class Lens:
    """Result of a calibration of a lens.

    Attributes:
        intrinsics: Model of the camera.
        focal_interval_px: Half width of the 95 % interval of fx and fy in px.
        centre_interval_px: The same of the principal point.
        images: Number of images that were used.
        errors_px: Reprojection error of each image in px, root mean square.
        coverage: Share 0..1 of the image's 8 x 6 fields in which corners were seen.
    """

    intrinsics: CameraIntrinsics
    focal_interval_px: tuple[float, float]
    centre_interval_px: tuple[float, float]
    images: int
    errors_px: tuple[float, ...]
    coverage: float


def calibrate_lens(images: Sequence[NDArray[np.uint8]], detector: BoardDetector) -> Lens:
    """Find the intrinsics of a camera, with the distortion k1, k2, p1 and p2.

    Args:
        images: Images of the board from many sides, of one size, shape (H, W, 3) each.
        detector: Detector of the board.

    Raises:
        CalibrationError: Too few images show the board, or they differ in size.
    """
    if len({image.shape for image in images}) > 1:
        raise CalibrationError("The images have several sizes: take all of them with one resolution.")
    views = [found for image in images if (found := detector.detect(image)) is not None and len(found) >= _MIN_CORNERS]
    if len(views) < MIN_VIEWS:
        raise CalibrationError(
            f"{len(views)} of {len(images)} images show the board, at least {MIN_VIEWS} are needed: take them from "
            "several sides, tilted by 20 to 40 deg, some of them with the board in the corners of the image."
        )
    cv2 = load_cv2()
    height, width = images[0].shape[:2]
    rms, matrix, distortion, _, _, spread, _, errors = cv2.calibrateCameraExtended(
        [detector.points[view.ids].astype(np.float32) for view in views],
        [view.pixels.astype(np.float32) for view in views],
        (width, height), None, None, flags=cv2.CALIB_FIX_K3,
    )  # fmt: skip
    if not np.isfinite(matrix).all() or not 0.2 * width < matrix[0, 0] < 20.0 * width:
        raise CalibrationError("The images do not determine the lens: tilt the board more, in several directions.")
    k1, k2, p1, p2, k3 = np.ravel(distortion)[:5].tolist()
    intrinsics = CameraIntrinsics(
        width, height, float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2]),
        (k1, k2, p1, p2, k3), "measured", float(rms),
    )  # fmt: skip
    fx, fy, cx, cy = (_SURE * np.ravel(spread)[:4]).tolist()
    return Lens(
        intrinsics, (fx, fy), (cx, cy), len(views), tuple(np.ravel(errors).tolist()), _coverage(views, intrinsics)
    )


def _coverage(views: Sequence[Corners], intrinsics: CameraIntrinsics) -> float:
    pixels = np.concatenate([view.pixels for view in views])
    fields = np.floor(pixels / [intrinsics.width / 8, intrinsics.height / 6]).astype(int)
    return len(set(map(tuple, fields.tolist()))) / 48
