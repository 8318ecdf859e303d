"""Camera frames in memory that two processes map."""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Final

import numpy as np
from numpy.typing import NDArray

_MEMORY: Final = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 - tempfile makes the name
"""Where a file is memory and never written to a disk."""


class SharedFrame:
    """A colour image and its distances, in memory that two processes map.

    Attributes:
        pixels: uint8, shape (H, W, 3).
        distance: In m, float32, shape (H, W).
    """

    def __init__(self, size: tuple[int, int], descriptor: int) -> None:
        """Map the memory.

        Args:
            size: Height and width in px.
            descriptor: What :func:`make_frame_memory` returned.
        """
        count = size[0] * size[1]
        memory = mmap.mmap(descriptor, _frame_bytes(size))
        self.pixels: NDArray[np.uint8] = np.frombuffer(memory, np.uint8, 3 * count).reshape(*size, 3)
        self.distance: NDArray[np.float32] = np.frombuffer(memory, np.float32, count, offset=3 * count).reshape(size)


def make_frame_memory(size: tuple[int, int]) -> int:
    """Return the descriptor of memory for a shared frame; it lives as long as a process has it open or mapped.

    Args:
        size: Height and width in px.
    """
    with tempfile.TemporaryFile(dir=_MEMORY) as file:
        file.truncate(_frame_bytes(size))
        return os.dup(file.fileno())


def _frame_bytes(size: tuple[int, int]) -> int:
    return 7 * size[0] * size[1]
