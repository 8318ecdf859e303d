"""Record episodes into a LeRobot dataset; a crash costs the episode that is being written, and no other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.camera_serials import compare_serials
from smolvla_gym.data.disk import sync, sync_tree
from smolvla_gym.data.files import read_episodes
from smolvla_gym.data.folder import beside, check_plain, set_aside, set_aside_beside
from smolvla_gym.data.info import DATA_PATH, IMAGES, META, VIDEO_PATH, read_info
from smolvla_gym.data.lerobot_writer import STAGED, import_quietly, write_frames
from smolvla_gym.data.lock import lock
from smolvla_gym.data.seeds import CAMERA_SERIALS, in_common, read_seeds, write_seeds
from smolvla_gym.data.spec import ACTION, STATE, DatasetSpec
from smolvla_gym.data.statistics import RECOMPUTE, STATS, floor_std, read_stats
from smolvla_gym.data.transaction import first_part, repair, repair_locked, signals_later, transaction
from smolvla_gym.errors import DatasetError, SmolVLAGymError, with_causes
from smolvla_gym.parol6 import ACTION_NAMES
from smolvla_gym.utils.json_file import save_json
from smolvla_gym.utils.untrusted import printable

_MIN_FREE_BYTES: Final = 200e6
"""Bytes that must stay free on the disk."""

_STAGED_BYTES: Final = 3.0
"""Upper bound of the bytes a pixel of the image files that LeRobot writes before it encodes their video."""


@dataclass
class Episode:
    """Frames of an episode.

    Attributes:
        instruction: The instruction, such as ``"pick up the red cube"``.
        seed: Seed of the env.
        source: Name of the demonstrator, such as ``"expert"``.
        images: Images of each camera, each uint8 (H, W, 3).
        states: ``agent_pos`` of each frame, each shape (7,).
        actions: Action in each frame, each shape (7,).
    """

    instruction: str
    seed: int
    source: str
    images: dict[str, list[NDArray[np.uint8]]]
    states: list[NDArray[np.float32]] = field(default_factory=list)
    actions: list[NDArray[np.float32]] = field(default_factory=list)

    @classmethod
    def begin(cls, instruction: str, seed: int, source: str, cameras: tuple[str, ...]) -> Episode:
        """Return an episode without frames."""
        return cls(instruction, seed, source, {camera: [] for camera in cameras})

    def note(self, observation: dict[str, Any], action: NDArray[np.float32]) -> None:
        """Add a copy of a frame.

        Args:
            observation: The env's observation with ``agent_pos`` and ``pixels``.
            action: The action in this frame, shape (7,).
        """
        for camera, images in self.images.items():
            images.append(np.array(observation["pixels"][camera], dtype=np.uint8))
        self.states.append(np.array(observation["agent_pos"], dtype=np.float32))
        self.actions.append(np.array(action, dtype=np.float32))

    def frames(self) -> Iterator[dict[str, Any]]:
        """Yield the features of each frame by name, and the instruction as ``task``."""
        for i in range(len(self)):
            images = {f"{IMAGES}{camera}": images[i] for camera, images in self.images.items()}
            yield {STATE: self.states[i], ACTION: self.actions[i], "task": self.instruction, **images}

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.states)


class Dataset:
    """A LeRobot dataset v3 of this arm in a folder.

    Attributes:
        root: The folder.
        spec: Format of the frames.
        scene: Options of the env that, with a seed, define a scene; they are stored with each new episode.
        repaired: A sentence part that says which episode was lost when the dataset was opened, and where its files
            are; None: the dataset was whole.
        camera_changes: How the cameras differ from those of its latest episode, a sentence for each difference.
    """

    def __init__(
        self,
        root: Path,
        spec: DatasetSpec,
        scene: Mapping[str, Any] | None = None,
        *,
        serials: Mapping[str, str] | None = None,
        write: Callable[..., None] = write_frames,
    ) -> None:
        """Open the dataset in a folder; a folder that does not exist is made with the first episode.

        Args:
            root: The folder.
            spec: Format of the frames that will be added.
            scene: Options of the env such as ``task``, ``num_objects`` and ``randomization``, as JSON values. A replay
                needs them to make the same scenes. None: no options are stored.
            serials: Serial number of each camera of a real arm or the twin by name; they are stored with the next
                episode. None: the cameras are simulated.
            write: Function that writes the frames of an episode, as :func:`write_frames` does.

        Raises:
            DatasetError: The folder is not a dataset, or its dataset has another format, is broken, or contains links,
                or its cameras have exchanged their names. Then nothing was changed.
            MissingExtraError: lerobot is not installed.
        """
        import_quietly()
        self.root: Path = Path(root)
        self.spec: DatasetSpec = spec
        self.scene: dict[str, Any] = dict(scene or {})
        self._write_frames = write
        beside(self.root, "")
        if self.root.exists() and not self.root.is_dir():
            raise DatasetError(f"{self.root} is not a folder. Choose the folder of a dataset, or a new one.")
        if self.root.is_symlink() and not self.root.exists():
            raise DatasetError(
                f"{self.root} is a link to a path that does not exist. Remove it, or choose another folder."
            )
        self.repaired: str | None = repair(self.root)
        self._seen, self._total = self._read()
        self._serials = dict(serials or {})
        self.camera_changes: list[str] = []
        if self.root.exists():
            check_plain(self.root)
            self._check_metadata()
        if self._total:
            self.camera_changes = compare_serials(self.root, self._seen.get(CAMERA_SERIALS, {}), self._serials)

    def _read(self) -> tuple[dict[str, Any], int]:
        """Return the content of ``meta/parol6.json``, and the number of episodes."""
        empty: dict[str, Any] = {
            "gripper": self.spec.gripper, "episodes": [], "next_seed": None, "left_out": 0, "solved_alone": 0,
            "left_out_seeds": [],
        }  # fmt: skip
        if not self.root.exists():
            return empty, 0
        info, seen = read_info(self.root), read_seeds(self.root)
        differences = self.spec.differences(info, seen.get("gripper"))
        for name, own in (("data_path", DATA_PATH), ("video_path", VIDEO_PATH)):
            if getattr(info, name) != own:
                differences.append(f"{name} is {printable(getattr(info, name), 100)}, here {own}")
        if differences:
            raise DatasetError(
                f"The dataset in {self.root} cannot be continued: {'; '.join(differences)}. "
                "Choose another folder, or options that match the dataset."
            )
        return empty | seen, info.total_episodes

    def _check_metadata(self) -> None:
        """Refuse metadata that LeRobot could not continue from."""
        found = len(read_episodes(read_info(self.root)))
        if found != self._total:
            raise DatasetError(
                f"{self.root / META} names {found} episodes in its folder episodes and {self._total} in info.json. "
                "Take another copy of the dataset."
            )
        try:
            read_stats(self.root / META)
        except FileNotFoundError as error:
            raise DatasetError(
                f"{self.root / META / STATS} is missing. Take another copy of it, or {RECOMPUTE}."
            ) from error

    def __len__(self) -> int:
        """Return the number of episodes."""
        return self._total

    @property
    def left_out(self) -> int:
        """Number of episodes that failed and were not kept."""
        return int(self._seen["left_out"])

    @property
    def solved_alone(self) -> int:
        """Number of episodes that were not kept because the policy succeeded before the expert took over."""
        return int(self._seen["solved_alone"])

    @property
    def tried(self) -> set[int]:
        """Seeds of all attempted episodes, kept or not."""
        return {episode["seed"] for episode in self.episodes} | set(self._seen["left_out_seeds"])

    @property
    def next_seed(self) -> int | None:
        """The seed after that of the last attempted episode, kept or not; None: no episode was attempted."""
        value = self._seen["next_seed"]
        return None if value is None else int(value)

    @property
    def episodes(self) -> list[dict[str, Any]]:
        """Seed, source and scene of each episode."""
        return list(self._seen["episodes"])

    def check_disk(self, frames: int) -> None:
        """Refuse to record where the next episode might not fit on the disk.

        Args:
            frames: Largest number of frames of the episode.

        Raises:
            DatasetError: The disk has too little free space.
        """
        height, width = self.spec.image_size
        needed = frames * len(self.spec.cameras) * height * width * _STAGED_BYTES + _MIN_FREE_BYTES
        folder = next(parent for parent in (self.root, *self.root.absolute().parents) if parent.exists())
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise DatasetError(
                f"The disk of {self.root} has {free / 1e6:.0f} MB free, and the next episode may need "
                f"{needed / 1e6:.0f} MB while it is written. Everything recorded until now is complete."
            )

    def leave_out(self, seed: int, *, solved_alone: bool = False) -> None:
        """Count an episode that is not kept; a dataset that exists already stores the seed.

        Args:
            seed: Seed of the episode.
            solved_alone: Whether the policy succeeded before the expert took over, so that the episode did not fail.

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
            with signals_later(), lock(self.root):
                self._refuse_if_changed()
                write_seeds(self.root, seen)
        self._seen = seen

    def add(self, episode: Episode) -> None:
        """Write an episode; after this method has returned, neither a crash nor a power loss removes it.

        Ctrl-C takes effect after the writing.

        Raises:
            DatasetError: The episode is empty, has values that are not finite, or images of another size; or another
                program records into the folder.
        """
        self._check(episode)
        entry = {"seed": episode.seed, "source": episode.source, **self.scene}
        episodes = [*self._seen["episodes"], entry]
        seen = {**self._seen, **in_common(episodes), "next_seed": episode.seed + 1, "episodes": episodes}
        seen.pop(CAMERA_SERIALS, None)
        if self._serials:
            seen[CAMERA_SERIALS] = self._serials
        with signals_later(), lock(self.root):
            self._refuse_if_changed()
            if self.root.exists():
                with transaction(self.root):
                    self._write(episode, self.root, seen, first=False)
            else:
                self._write_first(episode, seen)
            self._seen, self._total = seen, self._total + 1

    def _write_first(self, episode: Episode, seen: dict[str, Any]) -> None:
        part = first_part(self.root)
        part.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(part):
            set_aside_beside(self.root, part)
        try:
            self._write(episode, part, seen, first=True)
            sync_tree(part)
            part.rename(self.root)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)  # all files in it were written here
            raise
        sync(self.root.parent)

    def _refuse_if_changed(self) -> None:
        """Refuse, under the lock, a dataset that another program changed: two recorders would repeat their seeds."""
        if self.root.exists():
            repair_locked(self.root)
        seen, total = self._read()
        if total != self._total or (total and seen != self._seen):
            raise DatasetError(
                f"Another program has changed the dataset in {self.root} meanwhile (it had {self._total} episodes and "
                f"now has {total}). This episode was not kept. Record into a folder with one program at a time; a "
                "restart continues the dataset."
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
            sizes = {image.shape for image in episode.images[camera]}
            if sizes != {(*self.spec.image_size, 3)}:
                raise DatasetError(f"The images of {camera} are {sorted(sizes)}, not {(*self.spec.image_size, 3)}.")

    def _write(self, episode: Episode, root: Path, seen: dict[str, Any], *, first: bool) -> None:
        if os.path.lexists(root / STAGED):  # LeRobot would use these files as its own
            set_aside(root, [root / STAGED])
        try:
            self._write_frames(root, episode.frames(), self.spec, first=first)
            shutil.rmtree(root / STAGED, ignore_errors=True)  # the video has them now
            _floor_std(root)
        except (SmolVLAGymError, OSError):
            raise
        except Exception as error:  # of LeRobot, which does not check the metadata that it reads
            raise DatasetError(
                f"LeRobot could not write an episode to {root} ({printable(with_causes(error))}). The episodes before "
                "it are unchanged. Check the dataset with `smolvla-gym dataset check`, or choose another folder."
            ) from error
        write_seeds(root, seen)


def _floor_std(root: Path) -> None:
    """Raise the standard deviations in ``meta/stats.json`` to the floor that training in memory has.

    LeRobot divides by them, with 1e-8 in place of 0. For a joint that did not move in any episode, a deviation of
    0.1 mrad on a real arm would become 1e4. LeRobot merges the next episode into these numbers. A merged floor adds at
    most its square to a variance, however often it is merged.
    """
    stats = read_stats(root / META)
    for name in (STATE, ACTION):
        stats[name]["std"] = floor_std(stats[name]["std"])
    save_json(root / META / STATS, stats, "statistics")
