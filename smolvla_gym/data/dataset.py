"""A LeRobot dataset that grows episode by episode and that no crash can spoil.

Each episode is a transaction. Before it is written the folder ``meta`` is copied; LeRobot then writes new files and
changes only those in ``meta``. Whoever finds the copy knows that the writing was cut off, puts it back, and removes the
files that it does not know.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.spec import ACTION, IMAGES, ROBOT_TYPE, STATE, DatasetSpec
from smolvla_gym.errors import DatasetError, MissingExtraError
from smolvla_gym.parol6 import ACTION_NAMES

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

_META: Final = "meta"
_COPY: Final = ".meta_before"
_PART: Final = ".part"
_OURS: Final = "parol6.json"
"""In ``meta``: what LeRobot does not keep, such as the seeds."""

_LEAST_FREE: Final = 200e6
"""Bytes that stay free on the disk."""

_STAGING: Final = 3.0
"""Bytes a pixel: pictures are files on the disk until their video is made."""

_CODEC: Final = {"vcodec": "h264", "crf": 18}
"""H.264 decodes fast everywhere; at crf 18 one does not see that it was compressed."""

_REPOSITORY: Final = "local/parol6"


@dataclass
class Episode:
    """A finished episode.

    Attributes:
        instruction: What to do, in words.
        seed: Seed of the env.
        source: What steered.
        pictures: For each camera its pictures, each uint8 (H, W, 3).
        states: ``agent_pos`` of each frame, each shape (7,).
        actions: The action that followed each, each shape (7,).
    """

    instruction: str
    seed: int
    source: str
    pictures: dict[str, list[NDArray[np.uint8]]]
    states: list[NDArray[np.float32]] = field(default_factory=list)
    actions: list[NDArray[np.float32]] = field(default_factory=list)

    @classmethod
    def begin(cls, instruction: str, seed: int, source: str, cameras: tuple[str, ...]) -> Episode:
        """Returns one without frames."""
        return cls(instruction, seed, source, {camera: [] for camera in cameras})

    def note(self, observation: dict[str, Any], action: NDArray[np.float32]) -> None:
        """Adds a frame; copies what the env may overwrite."""
        for camera, pictures in self.pictures.items():
            pictures.append(np.array(observation["pixels"][camera], dtype=np.uint8))
        self.states.append(np.array(observation["agent_pos"], dtype=np.float32))
        self.actions.append(np.array(action, dtype=np.float32))

    def __len__(self) -> int:
        """Returns the number of frames."""
        return len(self.states)


class Dataset:
    """A LeRobot dataset v3 of this arm in a folder.

    Attributes:
        root: The folder.
        spec: What its frames are.
        repaired: What was found and removed when it was opened; None: nothing.
    """

    def __init__(self, root: Path, spec: DatasetSpec) -> None:
        """Opens the folder, or prepares for making it with the first episode.

        Args:
            root: The folder.
            spec: What the frames are going to be.

        Raises:
            DatasetError: There is something else in the folder, or a dataset whose frames are others.
            MissingExtraError: lerobot is not installed.
        """
        _import_quietly()
        self.root, self.spec = Path(root), spec
        self.repaired = repair(self.root)
        self._seen: dict[str, Any] = {"gripper": spec.gripper, "episodes": [], "next_seed": None, "left_out": 0}
        self._total = 0
        if self.root.exists():
            self._read()

    def _read(self) -> None:
        info = read_info(self.root)
        path = self.root / _META / _OURS
        seen = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        differences = self.spec.differences(info, seen.get("gripper"))
        if differences:
            raise DatasetError(
                f"The dataset in {self.root} cannot be continued: {'; '.join(differences)}. "
                "Take another folder, or options that agree with it."
            )
        self._seen |= seen
        self._total = int(info["total_episodes"])

    def __len__(self) -> int:
        """Returns the number of episodes."""
        return self._total

    @property
    def left_out(self) -> int:
        """How many episodes failed and were not kept."""
        return int(self._seen["left_out"])

    @property
    def next_seed(self) -> int | None:
        """The seed after the last one that was tried, kept or not; None: there is none."""
        value = self._seen["next_seed"]
        return None if value is None else int(value)

    @property
    def episodes(self) -> list[dict[str, Any]]:
        """Seed and source of each episode."""
        return list(self._seen["episodes"])

    def check_disk(self, frames: int) -> None:
        """Makes sure that an episode fits on the disk.

        Args:
            frames: How long it may be.

        Raises:
            DatasetError: It might not.
        """
        height, width = self.spec.image_size
        needed = frames * len(self.spec.cameras) * height * width * _STAGING + _LEAST_FREE
        folder = next(parent for parent in (self.root, *self.root.absolute().parents) if parent.exists())
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise DatasetError(
                f"The disk of {self.root} has {free / 1e6:.0f} MB free, and the next episode may need "
                f"{needed / 1e6:.0f} MB while it is written. Everything recorded until now is complete."
            )

    def leave_out(self, seed: int) -> None:
        """Counts an episode that failed."""
        self._seen["left_out"] += 1
        self._seen["next_seed"] = seed + 1

    def add(self, episode: Episode) -> None:
        """Writes an episode; once this returns no crash can take it back.

        Ctrl-C is heeded afterwards.

        Raises:
            DatasetError: It is empty, or holds numbers that are not finite, or pictures of another size.
        """
        self._check(episode)
        seen = {
            **self._seen,
            "next_seed": episode.seed + 1,
            "episodes": [*self._seen["episodes"], {"seed": episode.seed, "source": episode.source}],
        }
        with _signals_later(), _lock(self.root):
            if self.root.exists():
                with _transaction(self.root):
                    self._write(episode, self.root, seen, first=False)
            else:
                part = _first_part(self.root)
                shutil.rmtree(part, ignore_errors=True)
                part.parent.mkdir(parents=True, exist_ok=True)
                self._write(episode, part, seen, first=True)
                part.rename(self.root)
            self._seen, self._total = seen, self._total + 1

    def _check(self, episode: Episode) -> None:
        if not len(episode):
            raise DatasetError("An episode without frames cannot be kept.")
        for name, rows in (("state", episode.states), ("action", episode.actions)):
            values = np.stack(rows)
            if values.shape != (len(episode), len(ACTION_NAMES)):
                raise DatasetError(f"The {name} of an episode has shape {values.shape}, not (frames, 7).")
            if not np.isfinite(values).all():
                frame, part = np.argwhere(~np.isfinite(values))[0]
                raise DatasetError(f"The {name} of frame {frame} is {values[frame, part]} in {ACTION_NAMES[part]}.")
        for camera in self.spec.cameras:
            sizes = {picture.shape for picture in episode.pictures[camera]}
            if sizes != {(*self.spec.image_size, 3)}:
                raise DatasetError(f"The pictures of {camera} are {sorted(sizes)}, not {(*self.spec.image_size, 3)}.")

    def _write(self, episode: Episode, root: Path, seen: dict[str, Any], *, first: bool) -> None:
        import datasets
        from lerobot.configs.video import RGBEncoderConfig
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        # Left to choose its decoder, LeRobot prints a page where torchcodec finds no FFmpeg.
        options: dict[str, Any] = {"rgb_encoder": RGBEncoderConfig(**_CODEC), "video_backend": "pyav"}
        if first:
            dataset = LeRobotDataset.create(
                _REPOSITORY, self.spec.fps, self.spec.features(), root, ROBOT_TYPE, **options
            )
        else:
            dataset = LeRobotDataset.resume(_REPOSITORY, root, **options)
        datasets.disable_progress_bars()  # LeRobot switches them on
        try:
            for i in range(len(episode)):
                pictures = {f"{IMAGES}{camera}": episode.pictures[camera][i] for camera in self.spec.cameras}
                # LeRobot takes the task out of the dictionary and keeps the arrays.
                dataset.add_frame(
                    {STATE: episode.states[i], ACTION: episode.actions[i], "task": episode.instruction, **pictures}
                )
            # In parallel it would fork, and a fork of a process that draws or computes in threads hangs.
            dataset.save_episode(parallel_encoding=False)
        finally:
            # Also after an error: it would be done when the garbage is collected, into files that were repaired since.
            try:
                dataset.finalize()
            finally:
                dataset.meta.finalize()
        shutil.rmtree(root / "images", ignore_errors=True)  # the pictures are in the video
        (root / _META / _OURS).write_text(json.dumps(seen, indent=1) + "\n", encoding="utf-8")


def _import_quietly() -> None:
    """Imports LeRobot's datasets without what they and their libraries print about themselves."""
    try:
        import av
        import lerobot.datasets.lerobot_dataset  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("A dataset", "train", error) from error
    av.logging.set_libav_level(av.logging.ERROR)


def read_info(root: Path) -> dict[str, Any]:
    """Returns ``meta/info.json`` of a dataset.

    Raises:
        DatasetError: There is no dataset in the folder.
    """
    try:
        info: dict[str, Any] = json.loads((root / _META / "info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        trouble = "is missing" if isinstance(error, OSError) else "is broken"
        raise DatasetError(
            f"There is no LeRobot dataset in {root}: meta/info.json {trouble}. Take the folder of a dataset, or one "
            "that does not exist yet."
        ) from error
    return info


def repair(root: Path) -> str | None:
    """Makes a dataset whole again whose writing was cut off.

    Args:
        root: Its folder; it need not exist.

    Returns:
        What was lost, in words; None: nothing.

    Raises:
        DatasetError: Another program is writing an episode at this moment.
    """
    if not _is_cut_off(root):
        return None
    with _lock(root):
        return _repair(root)


def _is_cut_off(root: Path) -> bool:
    """Tells whether an episode is being written, or was when the program was killed."""
    first = _first_part(root).is_dir() and not root.exists()
    return first or (root / _COPY).is_dir() or (root / (_COPY + _PART)).is_dir()


def _repair(root: Path) -> str | None:
    part = _first_part(root)
    if part.is_dir() and not root.exists():
        shutil.rmtree(part)
        return "its first episode, which was being written when the program was killed"
    copy = root / _COPY
    shutil.rmtree(root / (_COPY + _PART), ignore_errors=True)
    if not copy.is_dir():
        return None
    _remove_unknown(root, copy)  # first: once the copy is back, nobody would look for them again
    shutil.rmtree(root / _META, ignore_errors=True)
    copy.rename(root / _META)
    return "the last episode, which was being written when the program was killed"


@contextlib.contextmanager
def _transaction(root: Path) -> Iterator[None]:
    part, copy = root / (_COPY + _PART), root / _COPY
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(root / _META, part)
    part.rename(copy)
    try:
        yield
    except BaseException:
        _repair(root)
        raise
    copy.rename(part)  # from here on the new state is the one that counts
    shutil.rmtree(part)


@contextlib.contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Keeps other programs from writing, and from taking what is being written for what a crash has left.

    The system lets go of it when the program ends in whatever way.

    Raises:
        DatasetError: Another program has it.
    """
    if fcntl is None:
        yield
        return
    path = root.with_name(f".{root.name}.parol6.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DatasetError(
                f"An episode is being written to {root} at this moment. Try again when that is done."
            ) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _first_part(root: Path) -> Path:
    """Returns where the first episode is written; a name that nobody else's folder has, since it is removed."""
    return root.with_name(f".{root.name}.parol6{_PART}")


def _remove_unknown(root: Path, meta: Path) -> None:
    """Removes files that no episode in ``meta`` refers to."""
    import pyarrow.parquet as pq

    info, known = json.loads((meta / "info.json").read_text(encoding="utf-8")), set()
    for file in (meta / "episodes").rglob("*.parquet"):
        table = pq.read_table(file)
        indices = table.select([n for n in table.column_names if n.endswith(("/chunk_index", "/file_index"))])
        for row in indices.to_pylist():
            for place in {name.rsplit("/", 1)[0] for name in row} - {"meta/episodes"}:
                at = {name: row[f"{place}/{name}"] for name in ("chunk_index", "file_index")}
                key = place.removeprefix("videos/")
                path = info["data_path"] if place == "data" else info["video_path"]
                known.add(root / path.format(video_key=key, **at))
    for folder in ("data", "videos"):
        for file in (root / folder).rglob("*.*"):
            if file.is_file() and file not in known:
                file.unlink()
    for entry in root.iterdir():
        if entry.is_dir() and (entry.name == "images" or entry.name.startswith("tmp")):
            shutil.rmtree(entry)


@contextlib.contextmanager
def _signals_later() -> Iterator[None]:
    """Keeps SIGINT and SIGTERM until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        came.append(number)

    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, keep) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came[:1]:
            signal.raise_signal(late)
