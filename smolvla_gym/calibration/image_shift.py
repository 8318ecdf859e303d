"""Shift of a mark between two images, aligned by the least squares of its edges.

Light, exposure and white balance change from day to day. The images are therefore compared after the local mean was
subtracted and the local contrast divided out, and pixels that still differ, as at the edge of a shadow, lose their
weight. On rendered images this is ten times finer than the same fit to corners that are followed by optical flow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import CalibrationError

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
_Plane = NDArray[np.float32]

WIDTH: Final = 640
"""Width in px of the images for which the sizes below are meant; larger ones are averaged down."""

_BLUR: Final = 1.0  # px
_WINDOW: Final = 4.0  # px, in which mean and contrast are local
_CONTRAST: Final = 6.0
"""Local contrast in grey levels below which there is more noise than image."""

_MARGIN: Final = 6
"""Width in px of the seam around the mark that takes part: its outline is most of what shows a shift."""

_REACH: Final = 40
"""Margin in px around the mark that is read of the other image."""

_LEVELS: Final = 3
_CLEARLY: Final = 0.1
"""Gain in correlation that a coarse shift needs over none, so that noise does not set the start of the fit."""

_ITERATIONS: Final = 15
_CONVERGED: Final = 0.005  # px
_MIN_PIXELS: Final = 200

_NOISE_FLOOR: Final = 0.05
_TUKEY: Final = 5.0
"""Deviations beyond which a pixel has no weight."""


@dataclass(frozen=True)
class ImageShift:
    """Shift of a mark between two images.

    Attributes:
        rms: Root mean square of the shift of the mark's pixels in px.
        right: Their mean shift to the right in px.
        down: Their mean shift downwards in px.
        roll: Turn about the mark's centre in deg, clockwise in the image.
        zoom: Relative growth.
        match: Correlation of both images after the shift, 1 for the same image, about 0 for another one.
    """

    rms: float
    right: float
    down: float
    roll: float
    zoom: float
    match: float


def measure_shift(reference: Pixels, now: Pixels, mask: Mask) -> ImageShift:
    """Return how a mark has shifted from one image to another.

    Args:
        reference: The earlier image, shape (H, W, 3).
        now: The later image of the same size.
        mask: True where the earlier image shows the mark, shape (H, W).

    Raises:
        CalibrationError: The images differ in size, or the mask has too few pixels.
    """
    if reference.shape != now.shape or reference.shape[:2] != mask.shape:
        sizes = " and ".join(f"{shape[1]}x{shape[0]}" for shape in (reference.shape, now.shape, mask.shape))
        raise CalibrationError(f"Images and mask have different sizes: {sizes} px.")
    scale = max(1, round(mask.shape[1] / WIDTH))
    mark = _shrunk(mask.astype(np.float32), scale) > 0.5
    if np.count_nonzero(mark) < _MIN_PIXELS:
        raise CalibrationError(f"The mask has {np.count_nonzero(mask)} pixels (at least {_MIN_PIXELS * scale**2}).")
    rows, columns = (slice(*edges) for edges in _box(mark))
    planes = [_normalised(_shrunk(_grey(image), scale)[rows, columns]) for image in (reference, now)]
    mark = mark[rows, columns]
    return _summary(*_align(planes[0], planes[1], mark), mark, scale)


def _box(mark: Mask) -> list[tuple[int, int]]:
    """Return first and last row, then first and last column, of the part of the image that is needed."""
    edges = []
    for axis, size in ((1, mark.shape[0]), (0, mark.shape[1])):
        found = np.flatnonzero(mark.any(axis=axis))
        edges.append((max(int(found[0]) - _REACH, 0), min(int(found[-1]) + _REACH + 1, size)))
    return edges


def _grey(image: Pixels) -> _Plane:
    grey: _Plane = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return grey


def _shrunk(plane: _Plane, scale: int) -> _Plane:
    """Return the mean of each square of ``scale`` x ``scale`` px."""
    height, width = plane.shape[0] // scale, plane.shape[1] // scale
    cut = plane[: height * scale, : width * scale]
    shrunk: _Plane = cut.reshape(height, scale, width, scale).mean(axis=(1, 3), dtype=np.float32)
    return shrunk


def _blurred(plane: _Plane, sigma: float) -> _Plane:
    reach = math.ceil(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        padded = np.pad(plane, [(reach, reach) if i == axis else (0, 0) for i in (0, 1)], mode="edge")
        size = plane.shape[axis]
        parts = (padded[i : i + size] if axis == 0 else padded[:, i : i + size] for i in range(len(kernel)))
        blurred = np.zeros_like(plane)
        for weight, part in zip(kernel, parts, strict=True):
            blurred += weight * part
        plane = blurred
    return plane


def _normalised(plane: _Plane) -> _Plane:
    """Return an image without its local mean, divided by its local contrast."""
    plane = _blurred(plane, _BLUR)
    mean = _blurred(plane, _WINDOW)
    variance = np.maximum(_blurred(plane * plane, _WINDOW) - mean * mean, 0.0)
    normalised: _Plane = (plane - mean) / np.sqrt(variance + _CONTRAST**2)
    return normalised


def _align(reference: _Plane, now: _Plane, mark: Mask) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Find the similarity that maps the mark of one image to the other.

    Returns:
        Growth, turn in rad and shift in px, shape (4,); the mark's centre, x and y; the correlation.
    """
    seam = _blurred(mark.astype(np.float32), _MARGIN / 2) > 0.02
    rows, columns = np.nonzero(mark)
    centre = np.array([columns.mean(), rows.mean()])
    pyramid = [(reference, now, seam.astype(np.float32))]
    for _ in range(_LEVELS - 1):
        pyramid.append(tuple(_shrunk(plane, 2) for plane in pyramid[-1]))  # type: ignore[arg-type]
    motion: NDArray[np.float64] = np.append(np.zeros(2), _coarse_shift(*pyramid[-1], 2 ** (_LEVELS - 1)))
    match = 0.0
    for level in reversed(range(_LEVELS)):
        motion, match = _refine(motion, *pyramid[level], 2**level, centre)
        if not np.isfinite(motion).all():
            return np.zeros(4), centre, 0.0
    return motion, centre, match


def _coarse_shift(reference: _Plane, now: _Plane, seam: _Plane, scale: int) -> NDArray[np.float64]:
    """Return the shift in px of the full image, x and y, at which two small images correlate best.

    The fit alone finds shifts of a few px.
    """
    reach = _REACH // scale
    shape = [size + reach for size in reference.shape]
    spectrum = np.fft.rfft2(now, shape)
    weighted = np.fft.rfft2(reference * seam, shape)
    together = np.fft.irfft2(weighted.conj() * spectrum, shape)
    energy = np.fft.irfft2(np.fft.rfft2(seam, shape).conj() * np.fft.rfft2(now * now, shape), shape)
    own = float((reference * reference * seam).sum())
    score = together / np.sqrt(np.maximum(energy * own, 1e-6))
    steps = np.arange(-reach, reach + 1)
    near = score[np.ix_(steps, steps)]  # negative shifts are at the end of an axis
    down, right = np.unravel_index(int(near.argmax()), near.shape)
    if near[down, right] < score[0, 0] + _CLEARLY:
        return np.zeros(2)
    return scale * np.array([steps[right], steps[down]], dtype=np.float64)


def _refine(
    motion: NDArray[np.float64],
    reference: _Plane,
    now: _Plane,
    seam: _Plane,
    scale: int,
    centre: NDArray[np.float64],
) -> tuple[NDArray[np.float64], float]:
    """Improve the motion at one level of the pyramid; return it and the correlation."""
    rows, columns = np.nonzero(seam > 0.5)
    expected = reference[rows, columns]
    down, right = (gradient[rows, columns] / scale for gradient in np.gradient(reference))
    x, y = ((index + 0.5) * scale - 0.5 - middle for index, middle in zip((columns, rows), centre, strict=True))
    # Change of a pixel with growth, turn and shift, which are those of the full image.
    slopes = np.stack([right * x + down * y, down * x - right * y, right, down], axis=-1)
    extent = np.array([np.hypot(x, y).max(initial=1.0)] * 2 + [1.0, 1.0])
    for _ in range(_ITERATIONS):
        found, inside = _sampled(now, *_moved(motion, x, y), centre, scale)
        error = found - expected
        limit = _TUKEY * (1.4826 * float(np.median(np.abs(error))) + _NOISE_FLOOR)
        weights = np.where(inside, np.clip(1.0 - (error / limit) ** 2, 0.0, None) ** 2, 0.0)
        weighted = slopes * weights[:, None]
        normal = weighted.T @ slopes
        try:
            change = np.linalg.solve(normal + np.diag(1e-6 * np.diag(normal) + 1e-9), weighted.T @ error)
        except np.linalg.LinAlgError:
            return np.full(4, np.nan), 0.0
        motion = motion - change
        if np.abs(change * extent).max() < _CONVERGED:
            break
    found, inside = _sampled(now, *_moved(motion, x, y), centre, scale)
    norm = float(np.sqrt((found**2).sum() * (expected**2).sum()))
    match = float((found * expected)[inside].sum()) / norm if norm > 0.0 else 0.0
    return motion, match


def _moved(
    motion: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where points about the mark's centre are after a motion."""
    growth, turn, right, down = motion
    return x + growth * x - turn * y + right, y + turn * x + growth * y + down


def _sampled(
    plane: _Plane, x: NDArray[np.float64], y: NDArray[np.float64], centre: NDArray[np.float64], scale: int
) -> tuple[_Plane, Mask]:
    """Return the values of a plane at points about the mark's centre, and which of them lie inside the image."""
    height, width = plane.shape
    x, y = ((at + middle + 0.5) / scale - 0.5 for at, middle in zip((x, y), centre, strict=True))
    inside = (x >= 0.0) & (y >= 0.0) & (x <= width - 1) & (y <= height - 1)
    x, y = np.clip(x, 0.0, width - 1.001), np.clip(y, 0.0, height - 1.001)
    column, row = x.astype(np.intp), y.astype(np.intp)
    part_x, part_y = (x - column).astype(np.float32), (y - row).astype(np.float32)
    flat, index = plane.ravel(), row * width + column
    above = flat[index] * (1 - part_x) + flat[index + 1] * part_x
    below = flat[index + width] * (1 - part_x) + flat[index + width + 1] * part_x
    return above * (1 - part_y) + below * part_y, inside


def _summary(
    motion: NDArray[np.float64], centre: NDArray[np.float64], match: float, mark: Mask, scale: int
) -> ImageShift:
    rows, columns = np.nonzero(mark)
    x, y = columns - centre[0], rows - centre[1]
    there_x, there_y = _moved(motion, x, y)
    rms = float(np.sqrt(((there_x - x) ** 2 + (there_y - y) ** 2).mean()))
    growth, turn, right, down = motion.tolist()
    return ImageShift(scale * rms, scale * right, scale * down, math.degrees(turn), growth, match)
