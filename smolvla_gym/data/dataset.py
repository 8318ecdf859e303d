"""A LeRobot dataset that grows episode by episode and that no crash can spoil.

Each episode is a transaction. Before it is written the folder ``meta`` is copied; LeRobot then writes new files and
changes only those in ``meta``. Whoever finds the copy knows that the writing was cut off, puts it back, and removes the
files that it does not know. What one step relies on is written through to the disk before it, for a power loss.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.files import copy_meta, read_episodes, sync, sync_tree
from smolvla_gym.data.spec import ACTION, IMAGES, ROBOT_TYPE, STATE, DatasetSpec
from smolvla_gym.errors import DatasetError, MissingExtraError
from smolvla_gym.parol6 import ACTION_NAMES
from smolvla_gym.training.stats import MIN_STD

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

_META: Final = "meta"
_COPY: Final = ".meta_before"
_PART: Final = ".part"
_OURS: Final = "parol6.json"
"""In ``meta``: what LeRobot does not keep, such as the seeds."""

_STATS: Final = "stats.json"

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
        scene: The env's options that decide what a seed means; they are noted beside each new episode.
        repaired: What was found and removed when it was opened; None: nothing.
    """

    def __init__(self, root: Path, spec: DatasetSpec, scene: Mapping[str, Any] | None = None) -> None:
        """Opens the folder, or prepares for making it with the first episode.

        Args:
            root: The folder.
            spec: What the frames are going to be.
            scene: Options of the env such as ``task``, ``num_objects`` and ``randomization``, as JSON has them; without
                them a replay cannot tell whether it is in the same scenes. None: none are noted.

        Raises:
            DatasetError: There is something else in the folder, or a dataset whose frames are others, or a broken one.
            MissingExtraError: lerobot is not installed.
        """
        _import_quietly()
        self.root, self.spec, self.scene = Path(root), spec, dict(scene or {})
        self.repaired = repair(self.root)
        self._seen, self._total = self._read()

    def _read(self) -> tuple[dict[str, Any], int]:
        """Returns what is in ``meta/parol6.json``, and the number of episodes."""
        nothing: dict[str, Any] = {
            "gripper": self.spec.gripper, "episodes": [], "next_seed": None, "left_out": 0, "solved_alone": 0,
            "left_out_seeds": [],
        }  # fmt: skip
        if not self.root.exists():
            return nothing, 0
        info, seen = read_info(self.root), read_ours(self.root)
        differences = self.spec.differences(info, seen.get("gripper"))
        if differences:
            raise DatasetError(
                f"The dataset in {self.root} cannot be continued: {'; '.join(differences)}. "
                "Take another folder, or options that agree with it."
            )
        return nothing | seen, int(info["total_episodes"])

    def __len__(self) -> int:
        """Returns the number of episodes."""
        return self._total

    @property
    def left_out(self) -> int:
        """How many episodes failed and were not kept."""
        return int(self._seen["left_out"])

    @property
    def solved_alone(self) -> int:
        """How many episodes were not kept because a policy solved them before the expert took over."""
        return int(self._seen["solved_alone"])

    @property
    def tried(self) -> set[int]:
        """Seeds of all episodes that were tried, kept or not."""
        return {episode["seed"] for episode in self.episodes} | set(self._seen["left_out_seeds"])

    @property
    def next_seed(self) -> int | None:
        """The seed after the last one that was tried, kept or not; None: there is none."""
        value = self._seen["next_seed"]
        return None if value is None else int(value)

    @property
    def episodes(self) -> list[dict[str, Any]]:
        """Seed, source and scene of each episode."""
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

    def leave_out(self, seed: int, *, solved_alone: bool = False) -> None:
        """Counts an episode that is not kept; a dataset that is there remembers its seed.

        Args:
            seed: Its seed.
            solved_alone: It did not fail: a policy solved it before the expert took over.

        Raises:
            DatasetError: Another program records into the folder.
        """
        count = "solved_alone" if solved_alone else "left_out"
        seen = {
            **self._seen,
            "next_seed": seed + 1,
            count: self._seen[count] + 1,
            "left_out_seeds": [*self._seen["left_out_seeds"], seed],
        }
        if self._total:
            with _signals_later(), _lock(self.root):
                self._refuse_if_changed()
                _write_ours(self.root, seen)
        self._seen = seen

    def add(self, episode: Episode) -> None:
        """Writes an episode; once this returns neither a crash nor a power loss can take it back.

        Ctrl-C is heeded afterwards.

        Raises:
            DatasetError: It is empty, or holds numbers that are not finite, or pictures of another size; or another
                program records into the folder.
        """
        self._check(episode)
        noted = {"seed": episode.seed, "source": episode.source, **self.scene}
        episodes = [*self._seen["episodes"], noted]
        seen = {**self._seen, **_in_common(episodes), "next_seed": episode.seed + 1, "episodes": episodes}
        with _signals_later(), _lock(self.root):
            self._refuse_if_changed()
            if self.root.exists():
                with _transaction(self.root):
                    self._write(episode, self.root, seen, first=False)
            else:
                part = _first_part(self.root)
                shutil.rmtree(part, ignore_errors=True)
                part.parent.mkdir(parents=True, exist_ok=True)
                self._write(episode, part, seen, first=True)
                sync_tree(part)
                part.rename(self.root)
                sync(self.root.parent)
            self._seen, self._total = seen, self._total + 1

    def _refuse_if_changed(self) -> None:
        """Makes sure, under the lock, that the dataset is as this left it: two recorders would repeat their seeds."""
        if self.root.exists():
            _repair(self.root)
        seen, total = self._read()
        if total != self._total or (total and seen != self._seen):
            raise DatasetError(
                f"Another program has changed the dataset in {self.root} meanwhile (it had {self._total} episodes and "
                f"now has {total}). The episode at hand was not kept. Let one program at a time record into a folder; "
                "begun again, this one goes on from what is there."
            )

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
        _floor_std(root)
        _write_ours(root, seen)


def _in_common(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns what the scenes of all episodes agree in; None where they differ, or some do not say."""
    names = {name for episode in episodes for name in episode} - {"seed", "source"}
    values = {name: [episode.get(name) for episode in episodes] for name in sorted(names)}
    return {name: found[0] if found.count(found[0]) == len(found) else None for name, found in values.items()}


def _floor_std(root: Path) -> None:
    """Raises the standard deviations in ``meta/stats.json`` to the floor that training in memory has.

    LeRobot divides by them, with 1e-8 in place of 0: a joint that stands still in all episodes, and 0.1 mrad beside it
    on a real arm, would be 1e4. LeRobot merges the next episode into these numbers; a floor that was merged adds at
    most its square to a variance, however often.
    """
    path = root / _META / _STATS
    stats = json.loads(path.read_text(encoding="utf-8"))
    for name in (STATE, ACTION):
        stats[name]["std"] = [max(std, MIN_STD) for std in stats[name]["std"]]
    path.write_text(json.dumps(stats, indent=4), encoding="utf-8")


def _write_ours(root: Path, seen: dict[str, Any]) -> None:
    """Writes ``meta/parol6.json``, in one step: a crash leaves the one before."""
    path = root / _META / _OURS
    part = path.with_name(path.name + _PART)
    part.write_text(json.dumps(seen, indent=1) + "\n", encoding="utf-8")
    sync(part)
    part.replace(path)


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


def read_ours(root: Path) -> dict[str, Any]:
    """Returns ``meta/parol6.json`` of a dataset: gripper, seeds and scenes; empty where there is none.

    Raises:
        DatasetError: It is broken.
    """
    path = root / _META / _OURS
    try:
        ours: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        numbers = [episode["seed"] for episode in ours.get("episodes", [])] + ours.get("left_out_seeds", [])
        numbers += [ours.get("left_out", 0), ours.get("solved_alone", 0), ours.get("next_seed") or 0]
        if wrong := [number for number in numbers if type(number) is not int]:
            raise ValueError(f"{wrong[0]!r} is no whole number")
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(
            f"{path} is broken ({type(error).__name__}: {error}). Take another copy of it, or remove it: the frames "
            "are complete without it, but the seeds are lost. Then begin with a --seed that was not used before."
        ) from error
    return ours


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
    copy_meta(root / _META, part)
    part.rename(copy)
    sync(root)
    known = {path for path in root.rglob("*") if path.parent != root / _META}
    try:
        yield
        sync_tree(root, known)
    except BaseException:
        _repair(root)
        raise
    copy.rename(part)  # from here on the new state is the one that counts
    sync(root)
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
            # Whoever had it may have removed the file after we opened it: then what we hold keeps nobody out.
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise BlockingIOError
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
    info = json.loads((meta / "info.json").read_text(encoding="utf-8"))
    known = {path for episode in read_episodes(root, meta, info) for path in episode.paths}
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
