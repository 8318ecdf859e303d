"""Crop of a real camera's image to the view and the size of the simulated camera.

No two cameras have the same intrinsics. A policy has learned where things lie by angle, so the window that is cut out
of a real image spans the same angles about the optical axis as the image of the simulated camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole model of a camera; whole pixel coordinates are pixel centres.

    Attributes:
        width: Width of the image in px.
        height: Height of the image in px.
        fx: Horizontal focal length in px.
        fy: Vertical focal length in px.
        ppx: Principal point from the left in px.
        ppy: Principal point from the top in px.
    """

    width: int
    height: int
    fx: float
    fy: float
    ppx: float
    ppy: float

    @classmethod
    def from_fovy(cls, fovy: float, width: int, height: int) -> Intrinsics:
        """Return a camera with square pixels whose principal point is the middle of its image.

        Args:
            fovy: Vertical field of view in degrees.
            width: Width of the image in px.
            height: Height of the image in px.
        """
        focal = height / 2 / math.tan(math.radians(fovy) / 2)
        return cls(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)

    def rotated(self, rotation: int) -> Intrinsics:
        """Return the model of images that are rotated by :func:`rotate`.

        Args:
            rotation: Rotation in degrees, clockwise: one of ``ROTATIONS``.
        """
        width, height, fx, fy, ppx, ppy = self.width, self.height, self.fx, self.fy, self.ppx, self.ppy
        if rotation == 180:
            return Intrinsics(width, height, fx, fy, width - 1 - ppx, height - 1 - ppy)
        if rotation == 90:
            return Intrinsics(height, width, fy, fx, height - 1 - ppy, ppx)
        return Intrinsics(height, width, fy, fx, ppy, width - 1 - ppx) if rotation == -90 else self

    def framed(self, size: tuple[int, int]) -> Intrinsics:
        """Return the model of the largest centred crop of an aspect ratio, resized.

        Args:
            size: Height and width in px.
        """
        height, width = size
        scale = max(height / self.height, width / self.width)
        left, top = (self.width - width / scale) / 2, (self.height - height / scale) / 2
        return Intrinsics(
            width, height, scale * self.fx, scale * self.fy, (self.ppx + 0.5 - left) * scale - 0.5,
            (self.ppy + 0.5 - top) * scale - 0.5,
        )  # fmt: skip


ROTATIONS: Final = (0, 90, 180, -90)
"""Rotations of an image in degrees, clockwise, as LeRobot has them."""


def rotate[T: np.generic](image: NDArray[T], rotation: int) -> NDArray[T]:
    """Return an image that is rotated, of colours or distances.

    Args:
        image: Image, shape (H, W, ...).
        rotation: Rotation in degrees, clockwise: one of ``ROTATIONS``.
    """
    turns = {0: 0, 90: 3, 180: 2, -90: 1}[rotation]  # np.rot90 turns against the clock
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


D405_COLOUR = Intrinsics(640, 480, 431.17, 429.98, 317.47, 237.27)
"""The wrist camera of the simulation: the colour stream of a D405."""

DEPTH_UNIT = 1e-4
"""Unit of depth of all frames in m, whatever the camera's own is."""


class Framing:
    """Crop of the view of a reference camera from the images of another one.

    Lens distortion is left in: on a D405 it moves the corners by about 2 %.

    Attributes:
        window: Left, top, right and bottom edge of the view in px from the image's top left corner; not whole, and
            beyond the image where the real camera sees less than the reference.
        missing: Share 0..1 of the view that lies outside the image. The image's edge is repeated there and depth
            reads 0, so that the rest stays where it belongs.
    """

    def __init__(
        self,
        intrinsics: Intrinsics,
        reference: Intrinsics,
        image_size: tuple[int, int],
        depth_range: tuple[float, float] = (0.0, math.inf),
    ) -> None:
        """Compute the window.

        Args:
            intrinsics: The camera that takes the images.
            reference: The camera whose view is cut out: the largest centred crop of its image of this aspect ratio.
            image_size: Height and width of the result in px.
            depth_range: Range of the reference in m; depth outside it reads 0, also where the camera measures it.
        """
        self._near, self._far = (round(min(edge, 65535 * DEPTH_UNIT) / DEPTH_UNIT) for edge in depth_range)
        self._height, self._width = image_size
        aspect = self._width / self._height
        crop_width = min(float(reference.width), aspect * reference.height)
        crop_height = min(float(reference.height), reference.width / aspect)
        left, right = _edges(
            reference.width, crop_width, (reference.fx, reference.ppx), (intrinsics.fx, intrinsics.ppx)
        )
        top, bottom = _edges(
            reference.height, crop_height, (reference.fy, reference.ppy), (intrinsics.fy, intrinsics.ppy)
        )
        self.window: tuple[float, float, float, float] = (left, top, right, bottom)

        width, height = intrinsics.width, intrinsics.height
        inside_x = max(min(right, width) - max(left, 0.0), 0.0)
        inside_y = max(min(bottom, height) - max(top, 0.0), 0.0)
        self.missing: float = 1.0 - inside_x * inside_y / ((right - left) * (bottom - top))

        pad_x = math.ceil(max(-left, 0.0)), math.ceil(max(right - width, 0.0))
        pad_y = math.ceil(max(-top, 0.0)), math.ceil(max(bottom - height, 0.0))
        self._padding = (pad_y, pad_x, (0, 0)) if any(pad_x + pad_y) else None
        self._box = (left + pad_x[0], top + pad_y[0], right + pad_x[0], bottom + pad_y[0])
        shrinks = right - left >= self._width and bottom - top >= self._height
        self._filter = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
        self._rows, self._row_outside = _nearest(top, bottom, self._height, height)
        self._columns, self._column_outside = _nearest(left, right, self._width, width)

    def colour(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the view of a colour image, shape (H, W, 3), in the wanted size, shape (H', W', 3)."""
        if self._padding is not None:
            pixels = np.pad(pixels, self._padding, mode="edge")
        image = Image.fromarray(pixels).resize((self._width, self._height), self._filter, box=self._box)
        return np.array(image)

    def depth(self, depth: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Return the view of a depth image in 0.1 mm, shape (H, W), in the wanted size, shape (H', W', 1)."""
        # A distance between that of a near and a far object is of neither: distances are picked, never averaged.
        view = depth[self._rows[:, None], self._columns]
        view[self._row_outside] = 0
        view[:, self._column_outside] = 0
        view[(view < self._near) | (view > self._far)] = 0
        return view[..., None]


def _edges(size: int, crop: float, reference: tuple[float, float], own: tuple[float, float]) -> tuple[float, float]:
    """Return the edges of a camera's window, in px from the image's, that lie at the angles of the reference's.

    Args:
        size: Length of the reference's image in px.
        crop: Length of its centred crop in px.
        reference: Its focal length and principal point in px.
        own: The camera's focal length and principal point in px.
    """
    near, far = ((edge - 0.5 - reference[1]) / reference[0] for edge in ((size - crop) / 2, (size + crop) / 2))
    # Pillow refuses a window that is 1e-14 px too large.
    return round(near * own[0] + own[1] + 0.5, 6), round(far * own[0] + own[1] + 0.5, 6)


def _nearest(start: float, stop: float, count: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the pixels nearest to ``count`` places in a window, and which places lie outside of the image."""
    index = np.floor(start + (np.arange(count) + 0.5) * (stop - start) / count).astype(np.intp)
    return np.clip(index, 0, size - 1), (index < 0) | (index >= size)
