"""Recorded LeRobot datasets as training data, checked before training starts; images are not decoded here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.checks.finding import refuse_errors
from smolvla_gym.data.checks.instructions import check_sentences
from smolvla_gym.data.checks.structure import check_headers, check_lengths
from smolvla_gym.data.checks.times import check_frames, wrong_rate
from smolvla_gym.data.checks.values import check_finite, check_units
from smolvla_gym.data.files import EpisodeFiles, FileReport, examine_files
from smolvla_gym.data.info import IMAGES, DatasetInfo, read_info
from smolvla_gym.data.instructions import read_instructions
from smolvla_gym.data.rows import Rows, join_rows, read_file_rows, row_columns
from smolvla_gym.data.seeds import read_seeds
from smolvla_gym.data.spec import ACTION, STATE, arm_differences
from smolvla_gym.data.transaction import settled_meta
from smolvla_gym.errors import DatasetError

_OTHER_COPY: Final = "Take another copy of the dataset."


@dataclass(frozen=True)
class Recording:
    """Complete episodes of a dataset, without their images.

    Attributes:
        root: Folder of the dataset.
        fps: Frame rate in Hz.
        cameras: Names of the cameras.
        image_size: Height and width in px of the images of the first camera.
        lengths: Number of frames of each episode.
        states: ``agent_pos`` of all frames, shape (N, 7).
        actions: The action of each frame, shape (N, 7).
        instructions: The instructions that occur.
        instruction_ids: Index into ``instructions`` of each frame, shape (N,).
        lost: A sentence part that says which episodes are missing, and why; None: no episode is missing.
        files: Files of each episode.
        missing: Number of episodes that were left out because one of their files is not complete.
        info: Content of ``meta/info.json``.
        scenes: Content of ``meta/parol6.json``; empty: the dataset has no such file.
        seeds: Seeds of the episodes; None: not known of all episodes, as after a merge by LeRobot.
        gripper: The gripper that was mounted; None: unknown.
        num_objects: Objects on the table; None: unknown.
        randomization: Level of the env's domain randomization; None: unknown.
    """

    root: Path
    fps: int
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    lengths: tuple[int, ...]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    instructions: tuple[str, ...]
    instruction_ids: NDArray[np.int64]
    lost: str | None
    files: tuple[EpisodeFiles, ...]
    missing: int
    info: DatasetInfo
    scenes: Mapping[str, Any]
    seeds: frozenset[int] | None = None
    gripper: str | None = None
    num_objects: int | None = None
    randomization: int | None = None

    @property
    def digest(self) -> str:
        """Hash of states and actions, 16 hexadecimal digits, which tells recordings apart."""
        return hashlib.sha256(self.states.tobytes() + self.actions.tobytes()).hexdigest()[:16]

    @property
    def episodes(self) -> int:
        """Number of complete episodes."""
        return len(self.lengths)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.states)


def open_recording(root: str | Path) -> Recording:
    """Read and check the complete episodes of a dataset; of the images only the files are checked.

    Nothing is changed in the folder. Episodes that a crash interrupted, and episodes whose files are missing or
    truncated, as in half a copy, are left out.

    Args:
        root: Folder of the dataset.

    Raises:
        DatasetError: The folder has no dataset, the dataset is empty or of another arm, no episode is complete, or
            the dataset contradicts itself or has values that a policy cannot learn from.
        MissingExtraError: The extra ``train`` is not installed.
    """
    root = Path(root)
    meta, lost = settled_meta(root)
    info = read_info(root, meta)
    _check_arm(info)
    scenes = read_seeds(root, meta)
    report = examine_files(info)
    complete = report.complete
    if not complete:
        raise DatasetError(
            f"The dataset in {root} cannot be read: no episode is complete: "
            f"{_first_problems(root, report) or 'meta/episodes is empty'}. Take another copy of it, or record it again."
        )
    rows = _read_rows(info, complete)
    found = len(rows.episode_index)
    expected = sum(episode.length for episode in complete) if report.problems else info.total_frames
    if found != expected:
        raise DatasetError(f"The dataset in {root} should have {expected} frames and has {found}. {_OTHER_COPY}")
    if len(report.episodes) > info.total_episodes or (
        len(report.episodes) < info.total_episodes and not report.problems
    ):
        raise DatasetError(
            f"{meta / 'info.json'} says {info.total_episodes} episodes, and meta/episodes names "
            f"{len(report.episodes)}. {_OTHER_COPY}"
        )
    missing = info.total_episodes - len(complete)
    if report.problems:
        incomplete = f"{missing} episodes of {info.total_episodes}: {_first_problems(root, report)}"
        lost = f"{lost} and {incomplete}" if lost else incomplete
    refuse_errors(root, check_lengths({episode.index: episode.length for episode in complete}, rows))
    refuse_errors(root, check_frames(rows))
    _check_rate(rows)
    refuse_errors(root, check_headers(info, replace(report, episodes=complete)))
    refuse_errors(root, check_finite(rows))
    refuse_errors(root, check_units(rows))
    instructions, instruction_ids = _instructions(rows)
    seeds = [int(episode["seed"]) for episode in scenes.get("episodes", [])]
    states, actions = (rows.vectors[name].astype(np.float32) for name in (STATE, ACTION))
    return Recording(
        root, info.fps, info.cameras, info.features[IMAGES + info.cameras[0]].image_size,
        tuple(episode.length for episode in complete),
        states, actions, instructions, instruction_ids,
        lost, complete, missing, info, scenes,
        seeds=frozenset(seeds) if len(seeds) == info.total_episodes else None,
        **{name: scenes.get(name) for name in ("gripper", "num_objects", "randomization")},
    )  # fmt: skip


def _check_arm(info: DatasetInfo) -> None:
    """Refuse a dataset of another robot, with other units, without cameras or videos, or without episodes."""
    problems = arm_differences(info) + ([] if info.cameras else ["no camera"])
    if problems:
        raise DatasetError(
            f"The dataset in {info.root} is not of this arm: {'; '.join(problems)}. If its components are "
            "this arm's, convert it: `smolvla-gym train` and `smolvla-gym dataset convert` take --units degrees or "
            "--units rad and --rename OLD=NEW for each name that differs. Otherwise record one with "
            "`smolvla-gym record`."
        )
    info.require_videos(IMAGES + name for name in info.cameras)
    if not info.total_episodes:
        raise DatasetError(
            f"The dataset in {info.root} is empty. Record some episodes with `smolvla-gym record` first."
        )


def _check_rate(rows: Rows) -> None:
    """Refuse time stamps whose rate is not that of the dataset."""
    info, times = rows.info, rows.timestamps
    steps = np.empty(0) if times is None else np.diff(times)[np.diff(rows.frame_index) == 1]
    if len(steps) and (found := wrong_rate(steps, info.fps)):
        raise DatasetError(
            f"{info.meta / 'info.json'} says {info.fps} Hz, and the time stamps are at {found}. A policy would act at "
            "the wrong speed: correct fps if it was edited, or record the dataset again."
        )


def _read_rows(info: DatasetInfo, episodes: Sequence[EpisodeFiles]) -> Rows:
    """Return the rows of episodes, sorted by episode and frame."""
    wanted = row_columns(info)
    columns = join_rows([read_file_rows(info, path, wanted) for path in sorted({e.data for e in episodes})])
    if columns is None:
        raise DatasetError(f"The dataset in {info.root} has no rows. {_OTHER_COPY}")
    whole = np.isin(columns["episode_index"], [episode.index for episode in episodes])
    return Rows.of(info, {name: column[whole] for name, column in columns.items()})


def _instructions(rows: Rows) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the instructions that occur, and for each frame the index into them."""
    used, which = np.unique(rows.task_index, return_inverse=True)
    by_number = {number: text for number, text in read_instructions(rows.info).items() if number in used}
    refuse_errors(rows.info.root, check_sentences(by_number, rows))
    instructions = tuple(dict.fromkeys(by_number[number] for number in used.tolist()))
    numbers = np.array([instructions.index(by_number[number]) for number in used.tolist()], dtype=np.int64)
    return instructions, numbers[which]


def _first_problems(root: Path, report: FileReport) -> str:
    """Return a sentence part that names the first broken files."""
    problems = [f"{path.relative_to(root)} {problem}" for path, problem in report.problems.items()]
    return "; ".join([*problems[:3], *([f"{len(problems) - 3} files more"] if len(problems) > 3 else [])])
