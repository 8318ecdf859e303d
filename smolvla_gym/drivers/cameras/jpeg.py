"""JPEG images of cameras: encoding, and decoding of bytes that are not trusted."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_JPEG_BYTES: Final = 8 << 20
"""Largest image in bytes that is accepted; one of 640x480 has about 60 kB."""

MAX_PIXELS: Final = 3840 * 2160
"""Largest number of pixels that is accepted."""

_QUALITY: Final = 90


def decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a JPEG image, RGB, uint8, shape (H, W, 3).

    Raises:
        ValueError: The data is no JPEG image, is broken off or too large.
    """
    if len(data) > MAX_JPEG_BYTES:
        raise ValueError(f"an image has {len(data)} bytes (limit {MAX_JPEG_BYTES})")
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"an image has {width}x{height} pixels (limit {MAX_PIXELS})")
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"an image is no complete JPEG ({type(error).__name__})") from error


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Return the JPEG image of RGB pixels, uint8, shape (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
