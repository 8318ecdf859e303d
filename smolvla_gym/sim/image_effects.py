"""Lens and sensor of a camera as a post-process of rendered images, for level 2 of the domain randomization."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_DISTORTION: Final = 0.03
"""Largest coefficient k1 of the lens: on a D405 the corners move by about 2 %."""

_CORNER: Final = 0.93
"""Distance of the corners of a 640x480 image of the D405 from its centre, in focal lengths."""

_BLURS: Final = 2
"""Most passes of the blur; each averages 2 x 2 px."""

_EXPOSURE: Final = 0.2
_WHITE_BALANCE: Final = 0.06
_GAMMA: Final = 0.12
"""Largest natural logarithms of the brightness, of a channel's gain, and of the exponent of the tone curve."""

_NOISE: Final = 4.0
"""Largest standard deviation of the noise of a white pixel in grey levels. It falls with the root of the light."""

_DARK_NOISE: Final = 0.15
"""Share of the noise that does not depend on the light."""

_FRACTION: Final = 6  # bits behind the point of the noise

# Red and blue, or green, of a pixel in 32 bits: two 16-bit sums at once.
_LANES: Final = np.uint32(0x00FF00FF)
_HALVES: Final = np.uint32(0xFEFEFEFE)


@dataclass(frozen=True)
class ImageEffects:
    """Effects of a lens and a sensor on the images of one camera in an episode.

    Attributes:
        distortion: Radial distortion k1, in focal lengths of the D405.
        blur: Passes of the blur.
        curves: Tone curve of each channel, uint8, shape (256, 3).
        noise: Standard deviation of the noise of a white pixel in grey levels.
        seed: Seed of the noise.
    """

    distortion: float
    blur: int
    curves: Pixels
    noise: float
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> ImageEffects:
        """Draw the effects of an episode."""
        gain = np.exp(rng.uniform(-_EXPOSURE, _EXPOSURE) + rng.uniform(-_WHITE_BALANCE, _WHITE_BALANCE, 3))
        gamma = np.exp(rng.uniform(-_GAMMA, _GAMMA))
        curves = 255.0 * np.clip(gain * (np.arange(256)[:, None] / 255.0) ** gamma, 0.0, 1.0)
        return cls(
            distortion=float(rng.uniform(-_DISTORTION, _DISTORTION)),
            blur=int(rng.integers(_BLURS + 1)),
            curves=np.rint(curves).astype(np.uint8),
            noise=float(rng.uniform(0.0, _NOISE)),
            seed=int(rng.integers(2**31)),
        )

    def apply(self, pixels: Pixels, moment: int) -> Pixels:
        """Return an image as this camera records it.

        Args:
            pixels: The rendered image, shape (H, W, 3).
            moment: Number of the image in the episode. The same one gets the same noise.
        """
        height, width = pixels.shape[:2]
        image = _packed(pixels)
        indices, weights = _taps(height, width, self.distortion)
        even, odd = np.zeros_like(image), np.zeros_like(image)
        for index, weight in zip(indices, weights, strict=True):
            tap = image.take(index)
            even += (tap & _LANES) * weight
            odd += ((tap >> 8) & _LANES) * weight
        image = np.reshape((even >> 8) & _LANES | odd & ~_LANES, (height, width))
        for step in range(self.blur):
            for axis in (0, 1):
                image = _mean(image, np.roll(image, 1 - 2 * step, axis))  # there and back, so that it stays in place
        channels = image.view(np.uint8).reshape(height, width, 4)
        recorded = np.empty_like(pixels)
        for channel in range(3):
            recorded[..., channel] = self.curves[:, channel].take(channels[..., channel])
        return self._noisy(recorded, moment)

    def _noisy(self, pixels: Pixels, moment: int) -> Pixels:
        bank = _bank(pixels.size)
        start = (self.seed + moment * 7919) % pixels.size
        share = np.sqrt(_DARK_NOISE**2 + np.arange(256) / 255.0)
        deviation = np.rint(self.noise * share * (1 << _FRACTION) / 16).astype(np.int16)
        noise = deviation[pixels] * bank[start : start + pixels.size].reshape(pixels.shape)
        noise >>= _FRACTION
        noise += pixels
        return np.clip(noise, 0, 255, out=noise).astype(np.uint8)


@cache
def _bank(size: int) -> NDArray[np.int16]:
    """Return normal noise of deviation 16, shape (2 * size,): each image gets another part, new one would take long."""
    samples = np.rint(16.0 * np.random.default_rng(0).standard_normal(2 * size, np.float32))
    bank: NDArray[np.int16] = np.clip(samples, -80, 80).astype(np.int16)
    return bank


def _packed(pixels: Pixels) -> NDArray[np.uint32]:
    """Return the pixels of an image in 32 bits each, shape (H * W,)."""
    padded = np.zeros((pixels.shape[0] * pixels.shape[1], 4), np.uint8)
    padded[:, :3] = pixels.reshape(-1, 3)
    return padded.view(np.uint32)[:, 0]


def _mean(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the mean of each byte of two arrays."""
    return (a & b) + (((a ^ b) & _HALVES) >> 1)


@lru_cache(16)
def _taps(height: int, width: int, distortion: float) -> tuple[NDArray[np.intp], NDArray[np.uint32]]:
    """Return for each pixel of the distorted image the four of the ideal one around its place.

    Returns:
        Their indices and their weights, which add up to 256, both of shape (4, H * W).
    """
    y, x = np.mgrid[:height, :width].reshape(2, -1) + 0.5
    # The sensor of the D405 has a corner at 400 px from the centre of 640x480.
    dx, dy = x - width / 2, y - height / 2
    stretch = 1.0 + distortion * (np.hypot(dx, dy) / (height / 480 * 400) * _CORNER) ** 2
    x = np.clip(dx * stretch + width / 2 - 0.5, 0.0, width - 1.001)
    y = np.clip(dy * stretch + height / 2 - 0.5, 0.0, height - 1.001)
    column, row = x.astype(np.intp), y.astype(np.intp)
    right, down = np.rint(16 * (x - column)), np.rint(16 * (y - row))
    index = row * width + column
    weights = [(16 - right) * (16 - down), right * (16 - down), (16 - right) * down, right * down]
    return np.array([index, index + 1, index + width, index + width + 1]), np.array(weights).astype(np.uint32)
