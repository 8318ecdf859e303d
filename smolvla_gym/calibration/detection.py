"""Detection of the board's corners in an image, and its pose from one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.calibration.board import board_corners, load_cv2, make_board
from smolvla_gym.calibration.geometry import make_pose
from smolvla_gym.calibration.refinement import SMALL_SQUARE_PX, TemplateRefinement
from smolvla_gym.parol6 import Array
from smolvla_gym.parol6.calibration import BoardSpec, CameraIntrinsics

MIN_CORNERS: Final = 8
"""Fewest corners of an image that is used."""

# Larger windows reach the edges of the fingers, which move a corner by 1 to 3 px.
_WINDOW: Final = (3, 3)


@dataclass(frozen=True, eq=False)
class Corners:
    """Corners of the board in an image.

    Attributes:
        ids: Number of each corner on the board, shape (n,).
        pixels: Its place in px; whole coordinates are pixel centres; shape (n, 2).
    """

    ids: NDArray[np.intp]
    pixels: Array

    def __len__(self) -> int:
        return len(self.ids)


class BoardDetector:
    """Detector of one board."""

    def __init__(self, spec: BoardSpec) -> None:
        """Prepare the detector.

        Raises:
            MissingExtraError: The packages of the extra ``calibration`` are not installed.
        """
        self._cv2: Any = load_cv2()
        self.spec: BoardSpec = spec
        self.points: Array = board_corners(spec)
        self._detector = self._cv2.aruco.CharucoDetector(make_board(spec))
        self._small = TemplateRefinement(spec)
        self._stop = (self._cv2.TERM_CRITERIA_EPS + self._cv2.TERM_CRITERIA_COUNT, 40, 1e-4)

    def detect(self, image: NDArray[np.uint8]) -> Corners | None:
        """Find the corners.

        Args:
            image: Colour, shape (H, W, 3), or grey, shape (H, W).

        Returns:
            The corners; None where there are fewer than ``MIN_CORNERS``.
        """
        grey = self._cv2.cvtColor(image, self._cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
        corners, ids, _, _ = self._detector.detectBoard(grey)
        if ids is None or len(ids) < MIN_CORNERS:
            return None
        # Up to 4.13 OpenCV's ChArUco corners lie half a pixel right of and below where the rest of OpenCV has them. The
        # refinement starts half a pixel off at most, with and without that, and ends at the corner itself.
        start = np.ascontiguousarray(corners.reshape(-1, 1, 2) - np.float32(0.25))
        refined = self._cv2.cornerSubPix(grey, start, _WINDOW, (-1, -1), self._stop).reshape(-1, 2)
        numbers, pixels = np.ravel(ids).astype(np.intp), refined.astype(np.float64)
        if self._square_px(numbers, pixels) < SMALL_SQUARE_PX:
            coarse = corners.reshape(-1, 2).astype(np.float64) - 0.25
            fits, pixels = self._small.refine(grey, numbers, coarse)
            numbers, pixels = numbers[fits], pixels[fits]
            if len(numbers) < MIN_CORNERS:
                return None
        return Corners(numbers, pixels)

    def _square_px(self, ids: NDArray[np.intp], pixels: Array) -> float:
        """Return the edge of a square in px: the smaller one of the board's two directions."""
        points = np.column_stack([self.points[ids][:, :2] / self.spec.square_m, np.ones(len(ids))])
        if np.linalg.matrix_rank(points) < points.shape[1]:
            return np.inf
        return float(np.linalg.norm(np.linalg.lstsq(points, pixels, rcond=None)[0][:2], axis=1).min())

    def pose(self, corners: Corners, intrinsics: CameraIntrinsics) -> Array:
        """Return the pose of the board in the camera's frame, shape (4, 4), from one image."""
        cv2, points = self._cv2, self.points[corners.ids]
        distortion = np.array(intrinsics.distortion)
        _, turns, places, errors = cv2.solvePnPGeneric(
            points, corners.pixels, intrinsics.matrix, distortion, flags=cv2.SOLVEPNP_IPPE
        )
        best = int(np.argmin(np.ravel(errors)))
        turn, place = cv2.solvePnPRefineLM(
            points, corners.pixels, intrinsics.matrix, distortion, turns[best], places[best]
        )
        return make_pose(cv2.Rodrigues(turn)[0], np.ravel(place))
