"""Corners of a board that is small in the image, found by comparing the image with the board itself.

The usual refinement looks for two edges that cross in a window. Where a square has less than about 45 px, the edges of
the markers lie in that window too, and move the corner by up to 0.5 px, the same in every image. Here the pattern
around each corner is drawn as the camera should see it, markers included, and moved until it fits.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.calibration.board import board_corners, board_image, load_cv2
from smolvla_gym.parol6 import Array
from smolvla_gym.parol6.calibration import BoardSpec

SMALL_SQUARE_PX: Final = 45.0
"""Edge of a square in px below which corners are refined here."""

_ROUNDS: Final = 3
_SUPERSAMPLING: Final = 4
_MARGIN_SQUARES: Final = 0.5
_BLUR_PX: Final = 0.6
_NEIGHBOURS: Final = 9
_MIN_GAIN: Final = 0.15
_MIN_EXPLAINED: Final = 0.7
"""Share of the variance around a corner that the board has to explain; something hides the others."""

_MAX_MOVE_PX: Final = 1.5


class TemplateRefinement:
    """Refinement of the corners of one board."""

    def __init__(self, spec: BoardSpec, pixels_per_square: int = 64) -> None:
        """Draw the board.

        Args:
            spec: The board.
            pixels_per_square: Resolution of the drawing.
        """
        self._cv2: Any = load_cv2()
        self._corners = board_corners(spec)[:, :2] / spec.square_m  # in squares
        margin = _MARGIN_SQUARES * spec.square_m
        self._template = board_image(spec, pixels_per_square, (margin, margin)).astype(np.float32)
        scale = 1.0 / pixels_per_square
        self._from_template = np.array(
            [[scale, 0.0, 0.5 * scale - _MARGIN_SQUARES], [0.0, scale, 0.5 * scale - _MARGIN_SQUARES], [0.0, 0.0, 1.0]]
        )

    def refine(self, grey: NDArray[np.uint8], ids: NDArray[np.intp], pixels: Array) -> tuple[NDArray[np.bool_], Array]:
        """Return which corners fit, shape (n,), and the places of all in px, shape (n, 2).

        Args:
            grey: The image, shape (H, W).
            ids: Number of each corner, shape (n,).
            pixels: Its approximate place in px, shape (n, 2).
        """
        refined, fits = pixels.copy(), np.ones(len(ids), dtype=bool)
        for _ in range(_ROUNDS):
            start = refined.copy()
            for i, number in enumerate(ids.tolist()):
                move = self._move(grey, ids, start, i, number)
                fits[i] = move is not None and bool(np.linalg.norm(start[i] + move - pixels[i]) < _MAX_MOVE_PX)
                if fits[i]:
                    refined[i] = start[i] + move
        return fits, refined

    def _move(self, grey: NDArray[np.uint8], ids: NDArray[np.intp], pixels: Array, i: int, number: int) -> Array | None:
        """Return by how much the pattern around a corner has to move to fit, in px, shape (2,); None: it does not."""
        cv2 = self._cv2
        near = np.argsort(np.linalg.norm(self._corners[ids] - self._corners[number], axis=1))[:_NEIGHBOURS]
        homography, _ = cv2.findHomography(self._corners[ids[near]], pixels[near])
        if homography is None:
            return None
        here = homography @ np.append(self._corners[number], 1.0)
        beside = homography @ np.append(self._corners[number] + [0.5, 0.0], 1.0)
        radius = int(np.clip(np.linalg.norm(beside[:2] / beside[2] - here[:2] / here[2]), 5, 12))
        u, v = np.rint(pixels[i]).astype(int).tolist()
        if not (radius <= u < grey.shape[1] - radius and radius <= v < grey.shape[0] - radius):
            return None
        shift = np.eye(3)
        shift[:2, 2] = pixels[i] - here[:2] / here[2]
        s = _SUPERSAMPLING
        fine = np.array([[s, 0.0, s * (radius + 0.5 - u) - 0.5], [0.0, s, s * (radius + 0.5 - v) - 0.5], [0, 0, 1.0]])
        size = 2 * radius + 1
        drawn = cv2.warpPerspective(
            self._template, fine @ shift @ homography @ self._from_template, (s * size, s * size),
            flags=cv2.INTER_LINEAR, borderValue=255,
        )  # fmt: skip
        drawn = cv2.GaussianBlur(cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA), (0, 0), _BLUR_PX)
        seen = grey[v - radius : v + radius + 1, u - radius : u + radius + 1].astype(np.float64)
        down, right = np.gradient(drawn.astype(np.float64))
        inner = np.s_[1:-1, 1:-1]
        columns = [part[inner].ravel() for part in (drawn.astype(np.float64), np.ones_like(seen), -right, -down)]
        wanted = seen[inner].ravel()
        (gain, *_, by_right, by_down), left, *_ = np.linalg.lstsq(np.column_stack(columns), wanted, rcond=None)
        explained = 1.0 - float(np.sum(left)) / max(float(np.sum((wanted - wanted.mean()) ** 2)), 1.0)
        return None if gain < _MIN_GAIN or explained < _MIN_EXPLAINED else np.array([by_right, by_down]) / gain
