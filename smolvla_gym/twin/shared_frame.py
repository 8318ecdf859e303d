"""Pictures in memory that two processes see."""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Final

import numpy as np

from smolvla_gym.sim.rendering import Image

_MEMORY: Final = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 - tempfile makes the name
"""Where a file is memory and never written to a disk."""


class SharedFrame:
    """A picture and its distances.

    Attributes:
        pixels: uint8, shape (H, W, 3).
        distance: In m, float32, shape (H, W).
    """

    def __init__(self, size: tuple[int, int], descriptor: int) -> None:
        """Maps it.

        Args:
            size: Height and width in px.
            descriptor: What :func:`make_memory` returned.
        """
        count = size[0] * size[1]
        memory = mmap.mmap(descriptor, _bytes(size))
        self.pixels: Image = np.frombuffer(memory, np.uint8, 3 * count).reshape(*size, 3)
        self.distance = np.frombuffer(memory, np.float32, count, offset=3 * count).reshape(size)


def make_memory(size: tuple[int, int]) -> int:
    """Returns the descriptor of memory for a shared frame; it lives as long as anybody has it open or mapped.

    Args:
        size: Height and width in px.
    """
    with tempfile.TemporaryFile(dir=_MEMORY) as file:
        file.truncate(_bytes(size))
        return os.dup(file.fileno())


def _bytes(size: tuple[int, int]) -> int:
    return 7 * size[0] * size[1]
