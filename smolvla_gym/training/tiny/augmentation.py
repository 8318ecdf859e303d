"""Random changes of images that must not change the actions of a policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Limits of the random changes; each image is changed independently.

    Attributes:
        brightness: Largest shift of all values, as a fraction of the full range.
        contrast: Largest relative change of the distances from the mean of the image.
        colour: Largest relative change of each colour channel: warmer or colder light.
        shift: Largest shift in px in each direction; edges are repeated.
    """

    brightness: float = 0.1
    contrast: float = 0.1
    colour: float = 0.05
    shift: int = 0

    def apply(self, images: NDArray[np.uint8], random: np.random.Generator, device: str = "cpu") -> Tensor:
        """Return a batch of changed images.

        Args:
            images: Shape (B, H, W, 3), uint8.
            random: Source of the random changes.
            device: Device of the computation.

        Returns:
            Shape (B, H, W, 3), float32, 0..1, on the device.
        """
        import torch

        if self.shift:
            images = self._shifted(images, random)
        pixels = torch.from_numpy(images).to(device).float().div_(255)
        if not (self.brightness or self.contrast or self.colour):
            return pixels
        count = len(images)
        gain = 1 + random.uniform(-self.contrast, self.contrast, (count, 1, 1, 1))
        gain = gain * (1 + random.uniform(-self.colour, self.colour, (count, 1, 1, 3)))
        offset = random.uniform(-self.brightness, self.brightness, (count, 1, 1, 1))
        gains, offsets = (torch.from_numpy(part.astype(np.float32)).to(device) for part in (gain, offset))
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        # gain * (pixels - mean) + mean + offset, with the operations on small tensors first.
        return pixels.mul_(gains).add_(mean * (1 - gains) + offsets).clamp_(0, 1)

    def _shifted(self, images: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        count, height, width = images.shape[:3]
        move = random.integers(-self.shift, self.shift + 1, (2, count, 1))
        rows = np.clip(np.arange(height) + move[0], 0, height - 1)
        columns = np.clip(np.arange(width) + move[1], 0, width - 1)
        moved: NDArray[np.uint8] = images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return moved
