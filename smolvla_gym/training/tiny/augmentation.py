"""Small changes of pictures that a policy should not care about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far pictures are changed, each picture on its own.

    Attributes:
        brightness: Largest shift of all values, as a fraction of the full range.
        contrast: Largest relative change of the distances from the picture's mean.
        colour: Largest relative change of each colour channel: light that is warmer or colder.
        shift: Largest shift in pixels, either way; edges are repeated.
    """

    brightness: float = 0.1
    contrast: float = 0.1
    colour: float = 0.05
    shift: int = 0

    def apply(self, images: NDArray[np.uint8], random: np.random.Generator, device: str = "cpu") -> Tensor:
        """Changes a batch of pictures.

        Args:
            images: Shape (B, H, W, 3), uint8.
            random: Where the changes come from.
            device: Where to compute.

        Returns:
            Shape (B, H, W, 3), float32, 0..1, on the device.
        """
        import torch

        if self.shift:
            images = self._moved(images, random)
        pixels = torch.from_numpy(images).to(device).float().div_(255)
        if not (self.brightness or self.contrast or self.colour):
            return pixels
        count = len(images)
        gain = 1 + random.uniform(-self.contrast, self.contrast, (count, 1, 1, 1))
        gain = gain * (1 + random.uniform(-self.colour, self.colour, (count, 1, 1, 3)))
        offset = random.uniform(-self.brightness, self.brightness, (count, 1, 1, 1))
        gains, offsets = (torch.from_numpy(part.astype(np.float32)).to(device) for part in (gain, offset))
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        # gain * (pixels - mean) + mean + offset, with the small tensors put together first.
        return pixels.mul_(gains).add_(mean * (1 - gains) + offsets).clamp_(0, 1)

    def _moved(self, images: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        count, height, width = images.shape[:3]
        move = random.integers(-self.shift, self.shift + 1, (2, count, 1))
        rows = np.clip(np.arange(height) + move[0], 0, height - 1)
        columns = np.clip(np.arange(width) + move[1], 0, width - 1)
        moved: NDArray[np.uint8] = images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return moved
