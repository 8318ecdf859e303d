"""Store demonstrations in a NumPy archive (``.npz``), which is read without pickle and runs no code."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import DatasetError
from smolvla_gym.training.tiny.archive import check_archive
from smolvla_gym.training.tiny.frames import Frames

_IMAGES: Final = "images."

_DTYPES: Final[Mapping[str, tuple[str, int]]] = {
    "states": ("f", 2), "actions": ("f", 2), "instruction_ids": ("i", 1), "segments": ("i", 1),
    "image_frames": ("i", 1), "targets": ("f", 2), "referents": ("f", 2), "weights": ("f", 1),
    "commanded": ("f", 2), "committed": ("i", 1),
}  # fmt: skip
"""Kind and number of dimensions of the arrays."""

_REQUIRED: Final = ("states", "actions", "instruction_ids", "segments")


def save_frames(path: Path, frames: Frames) -> None:
    """Write demonstrations to a file; a crash leaves no file, or the previous one.

    Args:
        path: The file, with the suffix ``.npz``.
        frames: The demonstrations.

    Raises:
        OSError: The file cannot be written.
    """
    arrays: dict[str, Any] = {name: getattr(frames, name) for name in _DTYPES}
    arrays |= {_IMAGES + camera: images for camera, images in frames.images.items()}
    arrays["instructions"] = np.array(frames.instructions, dtype=np.str_)
    if frames.paraphrases is not None:
        # Many instructions have the same paraphrases: each group is stored once.
        groups = list(dict.fromkeys(tuple(group) for group in frames.paraphrases))
        number = {group: i for i, group in enumerate(groups)}
        arrays["group_ids"] = np.array([number[tuple(group)] for group in frames.paraphrases], np.int64)
        arrays["group_sizes"] = np.array([len(group) for group in groups], np.int64)
        arrays["group_members"] = np.concatenate([np.array(group, np.int64) for group in groups])
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)  # it may be a link to a file elsewhere
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: array for name, array in arrays.items() if array is not None})
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load_frames(path: Path) -> Frames:
    """Read demonstrations that :func:`save_frames` wrote.

    Args:
        path: The file; it may come from elsewhere.

    Raises:
        DatasetError: The file is missing or broken, or is not a file of demonstrations.
    """
    try:
        check_archive(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _frames(arrays)
    except (OSError, ValueError, KeyError, EOFError, MemoryError, OverflowError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{path} is not a file of demonstrations ({type(error).__name__}: {error}). Remove it, and record again."
        ) from error


def _frames(arrays: Mapping[str, NDArray[Any]]) -> Frames:
    """Check the types of the arrays and return the demonstrations; :class:`Frames` checks the shapes."""
    columns = {}
    for name, (kind, dimensions) in _DTYPES.items():
        if name in arrays or name in _REQUIRED:
            columns[name] = _checked(name, arrays[name], kind, dimensions)
    images = {
        name.removeprefix(_IMAGES): _checked(name, array, "u", 4)
        for name, array in arrays.items()
        if name.startswith(_IMAGES)
    }
    instructions = _checked("instructions", arrays["instructions"], "U", 1).tolist()
    return Frames(
        images=images, instructions=instructions, paraphrases=_paraphrases(arrays, len(instructions)), **columns
    )


def _checked(name: str, array: NDArray[Any], kind: str, dimensions: int) -> NDArray[Any]:
    if array.dtype.kind != kind or array.ndim != dimensions or (kind == "u" and array.dtype != np.uint8):
        raise ValueError(f"{name} has type {array.dtype} and {array.ndim} dimensions")
    return array


def _paraphrases(arrays: Mapping[str, NDArray[Any]], count: int) -> Sequence[Sequence[int]] | None:
    if "group_ids" not in arrays:
        return None
    ids, sizes, members = (_checked(n, arrays[n], "i", 1) for n in ("group_ids", "group_sizes", "group_members"))
    if len(sizes) == 0 or sizes.min() < 1 or sizes.sum() != len(members):
        raise ValueError("the sizes of the groups of paraphrases do not add up")
    for name, array, limit in (("group_ids", ids, len(sizes)), ("group_members", members, count)):
        if len(array) and not 0 <= array.min() <= array.max() < limit:
            raise ValueError(f"{name} has numbers outside 0 to {limit - 1}")
    groups = [group.tolist() for group in np.split(members, np.cumsum(sizes)[:-1])]
    return [groups[number] for number in ids.tolist()]
