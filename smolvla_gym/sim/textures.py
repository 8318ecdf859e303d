"""Procedural textures of the table, which level 2 of the domain randomization chooses from.

All are computed here from a fixed seed. They are grey or nearly so and their brightest pixels are white: the material's
colour tints them. They repeat without a seam.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.parol6 import Array

TEXTURE_SIZE: Final = 256
"""Edge of a texture in px."""

TILE: Final = 0.40
"""Edge in m of the part of the table that a texture covers before it repeats."""

_GRID = np.arange(TEXTURE_SIZE) / TEXTURE_SIZE


def _noise(rng: np.random.Generator, x_scale: float, y_scale: float) -> Array:
    """Return smooth periodic noise, shape (size, size), of standard deviation 1.

    Args:
        rng: Random generator.
        x_scale: Correlation length along x as a share of the tile.
        y_scale: Correlation length along y.
    """
    frequency = np.fft.fftfreq(TEXTURE_SIZE, 1.0 / TEXTURE_SIZE)
    damping = np.exp(-0.5 * np.pi * ((frequency[None] * x_scale) ** 2 + (frequency[:, None] * y_scale) ** 2))
    smooth = np.fft.ifft2(np.fft.fft2(rng.standard_normal((TEXTURE_SIZE, TEXTURE_SIZE))) * damping).real
    smooth -= smooth.mean()
    return np.asarray(smooth / smooth.std())


def _mottled(rng: np.random.Generator) -> Array:
    return 0.6 * _noise(rng, 0.15, 0.15) + 0.3 * _noise(rng, 0.03, 0.03)


def _speckled(rng: np.random.Generator) -> Array:
    grains = _noise(rng, 0.012, 0.012)
    return np.asarray(0.3 * _noise(rng, 0.1, 0.1) - 2.0 * (grains > 1.6) + 1.0 * (grains < -1.9))


def _wood(rng: np.random.Generator) -> Array:
    # Growth rings, cut lengthwise: stripes along x, bent a little, with fine fibres.
    bend = 0.25 * _noise(rng, 0.5, 0.25)
    rings = np.sin(2.0 * np.pi * (5.0 * _GRID[:, None] + bend))
    return np.asarray(0.7 * rings + 0.35 * _noise(rng, 0.3, 0.008))


def _boards(rng: np.random.Generator) -> Array:
    # Four boards of different shades with dark joints between them.
    board = (4 * _GRID).astype(int)
    joint = np.abs(4 * _GRID - np.round(4 * _GRID)) < 0.03
    shade = rng.uniform(-0.8, 0.8, 4)[board] - 1.6 * joint
    return np.asarray(shade[:, None] + 0.5 * _noise(rng, 0.4, 0.012))


def _checker(rng: np.random.Generator) -> Array:
    cell = (8 * _GRID).astype(int)
    return np.asarray(1.0 - 2.0 * ((cell[:, None] + cell[None]) % 2) + 0.15 * _noise(rng, 0.02, 0.02))


def _cloth(rng: np.random.Generator) -> Array:
    # Threads cross: where one lies on top the other is dark. Folds vary the shade over a hand's width.
    threads = 2.0 * np.pi * 40.0 * _GRID
    weave = np.sin(threads)[:, None] * np.sin(threads)[None]
    return np.asarray(0.6 * weave + 0.6 * _noise(rng, 0.2, 0.3) + 0.25 * _noise(rng, 0.01, 0.01))


def _stripes(rng: np.random.Generator) -> Array:
    return np.asarray(np.sign(np.sin(2.0 * np.pi * 6.0 * _GRID))[None] + 0.2 * _noise(rng, 0.02, 0.02))


_PATTERNS: Final = {
    "mottled": (_mottled, 0.10), "speckled": (_speckled, 0.12), "wood": (_wood, 0.12), "boards": (_boards, 0.12),
    "checker": (_checker, 0.14), "cloth": (_cloth, 0.10), "stripes": (_stripes, 0.10),
}  # fmt: skip

TEXTURES: Final = tuple(_PATTERNS)
"""Names of the textures."""


@cache
def texture(name: str) -> NDArray[np.uint8]:
    """Return a texture as RGB, uint8, shape (256, 256, 3); it is the same in each process."""
    pattern, contrast = _PATTERNS[name]
    rng = np.random.default_rng(TEXTURES.index(name))
    grey = pattern(rng) * contrast
    tint = rng.uniform(-0.03, 0.03, 3)  # the dark parts have another hue than the bright ones
    color = np.clip(grey, -0.35, 0.25)[..., None] * (1.0 + 4.0 * tint)
    pixels: NDArray[np.uint8] = np.rint(255.0 * np.clip(1.0 + color - color.max(), 0.0, 1.0)).astype(np.uint8)
    pixels.setflags(write=False)
    return pixels


@cache
def mean_brightness(name: str) -> float:
    """Return the mean of a texture, 0..1."""
    return float(texture(name).mean() / 255.0)


def add_textures(spec: mujoco.MjSpec, material: str) -> None:
    """Add a copy of a material for each texture, called ``<material>_<texture>``.

    MuJoCo uploads textures when it makes an OpenGL context, and keeps with them which material has which: an episode
    gives the table another material rather than the material another texture.
    """
    plain = spec.material(material)
    for name in TEXTURES:
        pixels = texture(name)
        added = spec.add_texture(
            name=f"{material}_{name}", type=mujoco.mjtTexture.mjTEXTURE_2D, width=TEXTURE_SIZE, height=TEXTURE_SIZE,
            nchannel=3,
        )  # fmt: skip
        added.data = pixels.tobytes()
        copy = spec.add_material(
            name=f"{material}_{name}", rgba=plain.rgba, specular=plain.specular, shininess=plain.shininess,
            reflectance=plain.reflectance,
        )  # fmt: skip
        copy.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = added.name
