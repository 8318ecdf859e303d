"""A LeRobot dataset that grows episode by episode and that no crash can spoil."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.files import read_episodes, sync, sync_tree
from smolvla_gym.data.folder import beside, check_plain, set_aside, set_aside_beside
from smolvla_gym.data.info import DATA_PATH, IMAGES, META, VIDEO_PATH, read_info
from smolvla_gym.data.seeds import in_common, read_seeds, write_seeds
from smolvla_gym.data.spec import ACTION, ROBOT_TYPE, STATE, DatasetSpec
from smolvla_gym.data.statistics import MIN_STD
from smolvla_gym.data.transaction import first_part, lock, repair, repair_locked, signals_later, transaction
from smolvla_gym.errors import DatasetError, MissingExtraError, SmolVLAGymError, with_causes
from smolvla_gym.parol6 import ACTION_NAMES
from smolvla_gym.utils.untrusted import printable, read_json_object

_STATS: Final = "stats.json"

_MAX_STATS: Final = 64 << 20
"""Largest size of ``meta/stats.json`` in bytes."""

_LEAST_FREE: Final = 200e6
"""Bytes that stay free on the disk."""

_STAGED: Final = "images"
"""Where LeRobot keeps the images until their video is made."""

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
        repaired: What was found cut off when it was opened, and where it was moved to; None: nothing.
    """

    def __init__(self, root: Path, spec: DatasetSpec, scene: Mapping[str, Any] | None = None) -> None:
        """Opens the folder, or prepares for making it with the first episode.

        Args:
            root: The folder.
            spec: What the frames are going to be.
            scene: Options of the env such as ``task``, ``num_objects`` and ``randomization``, as JSON has them; without
                them a replay cannot tell whether it is in the same scenes. None: none are noted.

        Raises:
            DatasetError: There is something else in the folder, or a dataset whose frames are others, or a broken one,
                or one with links in it. Then nothing was changed.
            MissingExtraError: lerobot is not installed.
        """
        _import_quietly()
        self.root, self.spec, self.scene = Path(root), spec, dict(scene or {})
        beside(self.root, "")
        if self.root.exists() and not self.root.is_dir():
            raise DatasetError(
                f"{self.root} is no folder. Take the folder of a dataset, or one that does not exist yet."
            )
        if self.root.is_symlink() and not self.root.exists():
            raise DatasetError(f"{self.root} is a link that leads nowhere. Remove it, or take another folder.")
        self.repaired = repair(self.root)
        self._seen, self._total = self._read()
        if self.root.exists():
            check_plain(self.root)
            self._check_metadata()

    def _read(self) -> tuple[dict[str, Any], int]:
        """Returns what is in ``meta/parol6.json``, and the number of episodes."""
        nothing: dict[str, Any] = {
            "gripper": self.spec.gripper, "episodes": [], "next_seed": None, "left_out": 0, "solved_alone": 0,
            "left_out_seeds": [],
        }  # fmt: skip
        if not self.root.exists():
            return nothing, 0
        info, seen = read_info(self.root), read_seeds(self.root)
        differences = self.spec.differences(info, seen.get("gripper"))
        for name, ours in (("data_path", DATA_PATH), ("video_path", VIDEO_PATH)):
            if getattr(info, name) != ours:
                differences.append(f"{name} is {printable(getattr(info, name), 100)}, here {ours}")
        if differences:
            raise DatasetError(
                f"The dataset in {self.root} cannot be continued: {'; '.join(differences)}. "
                "Take another folder, or options that agree with it."
            )
        return nothing | seen, info.total_episodes

    def _check_metadata(self) -> None:
        """Makes sure that LeRobot can go on from the metadata."""
        found = len(read_episodes(read_info(self.root)))
        if found != self._total:
            raise DatasetError(
                f"{self.root / META} names {found} episodes in its folder episodes and {self._total} in info.json. "
                "Take another copy of the dataset."
            )
        path = self.root / META / _STATS
        try:
            read_json_object(path, _MAX_STATS)
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{path} cannot be read ({printable(error)}). Take another copy of it, or have it computed by "
                "lerobot-edit-dataset --operation.type recompute_stats."
            ) from error

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
            with signals_later(), lock(self.root):
                self._refuse_if_changed()
                write_seeds(self.root, seen)
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
        seen = {**self._seen, **in_common(episodes), "next_seed": episode.seed + 1, "episodes": episodes}
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
            shutil.rmtree(part, ignore_errors=True)  # all that is in it was written here
            raise
        sync(self.root.parent)

    def _refuse_if_changed(self) -> None:
        """Makes sure, under the lock, that the dataset is as this left it: two recorders would repeat their seeds."""
        if self.root.exists():
            repair_locked(self.root)
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
        if os.path.lexists(root / _STAGED):  # it would be taken for LeRobot's
            set_aside(root, [root / _STAGED])
        try:
            self._write_by_lerobot(episode, root, first=first)
            shutil.rmtree(root / _STAGED, ignore_errors=True)  # the images are in the video
            _floor_std(root)
        except (SmolVLAGymError, OSError):
            raise
        except Exception as error:  # LeRobot's: it reads the metadata that is there without checking it
            raise DatasetError(
                f"LeRobot could not write an episode to {root} ({printable(with_causes(error))}). What was recorded "
                "before is as it was. Look at it with `smolvla-gym dataset check`, or take another folder."
            ) from error
        write_seeds(root, seen)

    def _write_by_lerobot(self, episode: Episode, root: Path, *, first: bool) -> None:
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


def _floor_std(root: Path) -> None:
    """Raises the standard deviations in ``meta/stats.json`` to the floor that training in memory has.

    LeRobot divides by them, with 1e-8 in place of 0: a joint that stands still in all episodes, and 0.1 mrad beside it
    on a real arm, would be 1e4. LeRobot merges the next episode into these numbers; a floor that was merged adds at
    most its square to a variance, however often.
    """
    path = root / META / _STATS
    stats = json.loads(path.read_text(encoding="utf-8"))
    for name in (STATE, ACTION):
        stats[name]["std"] = [max(std, MIN_STD) for std in stats[name]["std"]]
    path.write_text(json.dumps(stats, indent=4), encoding="utf-8")


def _import_quietly() -> None:
    """Imports LeRobot's datasets without what they and their libraries print about themselves."""
    try:
        import av
        import lerobot.datasets.lerobot_dataset  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("A dataset", "train", error) from error
    av.logging.set_libav_level(av.logging.ERROR)
