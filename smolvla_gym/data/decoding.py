"""Images of a recorded dataset, decoded once and cropped and resized for a policy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.images import resize_area
from smolvla_gym.data.info import IMAGES
from smolvla_gym.data.reader import Recording
from smolvla_gym.data.video import read_frames
from smolvla_gym.errors import DatasetError
from smolvla_gym.utils.json_file import whole_file
from smolvla_gym.utils.untrusted import printable

_PROGRESS_FRAMES: Final = 100
"""Decoded frames between two reports of progress."""


def decode_images(
    recording: Recording,
    cameras: Sequence[str],
    size: tuple[int, int],
    cache: Path,
    progress: Callable[[int], None] = lambda frames: None,
) -> dict[str, NDArray[np.uint8]]:
    """Decode the images of some cameras, or load them from the cache of an earlier call.

    Args:
        recording: The dataset.
        cameras: Names of the cameras.
        size: Height and width in px of the returned images.
        cache: Folder of the cache files; it may be removed at any time.
        progress: Called with the number of decoded frames, from time to time.

    Returns:
        For each camera the images of all frames, uint8, shape (N, H, W, 3).

    Raises:
        DatasetError: A video is missing or broken.
    """
    images = {}
    for number, camera in enumerate(cameras):
        path = cache / f"{camera}_{size[0]}x{size[1]}_{recording.digest}.npy"
        decoded = load_cached(path, (len(recording), *size, 3))
        if decoded is None:
            decoded = _decode(recording, camera, size, number * len(recording), progress)
            with whole_file(path, "cache of images") as part, part.open("wb") as file:
                np.save(file, decoded)
        images[camera] = decoded
        progress((number + 1) * len(recording))
    return images


def load_cached(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Return the images in a cache file; None where the file is missing, broken or has another shape.

    Args:
        path: The file.
        shape: The expected shape, (N, H, W, 3).
    """
    if not path.is_file():
        return None
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)  # allocates no memory yet
    except (OSError, ValueError, EOFError):
        return None
    return np.array(images) if images.dtype == np.uint8 and images.shape == shape else None


def _decode(
    recording: Recording, camera: str, size: tuple[int, int], before: int, progress: Callable[[int], None]
) -> NDArray[np.uint8]:
    """Decode the images of one camera; ``before`` is the number of frames of the cameras before it."""
    import av

    images = np.empty((len(recording), *size, 3), np.uint8)
    count = 0
    feature = f"{IMAGES}{camera}"
    ends = np.cumsum(recording.lengths)
    wanted: dict[Path, dict[int, int]] = {}  # for each file the row of each frame
    for episode, end in zip(recording.files, ends.tolist(), strict=True):
        first = round(episode.starts[feature] * recording.fps)
        rows = range(end - episode.length, end)
        wanted.setdefault(episode.videos[feature], {}).update(zip(itertools.count(first), rows, strict=False))
    for file, rows_of in wanted.items():
        try:
            for number, frame in enumerate(read_frames(file)):
                row = rows_of.get(number)
                if row is None:
                    continue
                images[row] = resize_area(_crop(frame, size), size)
                count += 1
                if count % _PROGRESS_FRAMES == 0:
                    progress(before + count)
        except (OSError, ValueError, av.FFmpegError) as error:
            raise DatasetError(
                f"{file} cannot be decoded ({printable(error)}). Take another copy of the dataset."
            ) from error
    if count != len(recording):
        raise DatasetError(
            f"The videos of {camera} in {recording.root} have {count} frames, and {len(recording)} are expected. "
            "Take another copy of the dataset."
        )
    return images


def _crop(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the largest centred part of an image that has the aspect ratio of ``size``."""
    height, width = image.shape[:2]
    aspect = size[1] / size[0]
    wide, high = min(width, round(aspect * height)), min(height, round(width / aspect))
    top, left = (height - high) // 2, (width - wide) // 2
    return np.ascontiguousarray(image[top : top + high, left : left + wide])
