"""A recorded LeRobot dataset as training data: checked before any training starts, and decoded once."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.images import resize_area
from smolvla_gym.data.files import EpisodeFiles, complete_episodes, read_info
from smolvla_gym.data.seeds import read_seeds
from smolvla_gym.data.spec import ACTION, IMAGES, ROBOT_TYPE, STATE, UNITS
from smolvla_gym.data.transaction import repair
from smolvla_gym.errors import DatasetError, MissingExtraError
from smolvla_gym.parol6 import ACTION_NAMES
from smolvla_gym.training.frames import Frames

_GUESSED_DEGREES: Final = 4 * np.pi
"""Largest joint angle that can be in rad; the arm's widest joint turns by 2 pi at most."""


@dataclass(frozen=True)
class Recording:
    """A dataset that can be trained on.

    Attributes:
        root: Its folder.
        fps: Frames a second.
        cameras: Names of its cameras.
        image_size: Height and width in px of the pictures of the first one.
        episodes: Number of complete episodes.
        lengths: Their frames.
        states: ``agent_pos`` of all frames, shape (N, 7).
        actions: The action of each, shape (N, 7).
        instructions: The sentences that occur.
        instruction_ids: Index into them of each frame, shape (N,).
        lost: What was found cut off and taken or left away, in words; None: nothing.
        files: Where each episode is.
        missing: Number of episodes that were left away because a file of theirs is not whole.
        seeds: Seeds of the episodes, as far as they are known.
        gripper: The gripper that was mounted; None: unknown.
        num_objects: Objects on the table; None: unknown.
        randomization: Level of the env's randomisation; None: unknown.
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
    seeds: frozenset[int] = frozenset()
    gripper: str | None = None
    num_objects: int | None = None
    randomization: int | None = None

    @property
    def digest(self) -> str:
        """A name for what was recorded: other motions have another one."""
        return hashlib.sha256(self.states.tobytes() + self.actions.tobytes()).hexdigest()[:16]

    @property
    def episodes(self) -> int:
        """Number of complete episodes."""
        return len(self.lengths)

    def __len__(self) -> int:
        """Returns the number of frames."""
        return len(self.states)


def open_recording(root: str | Path) -> Recording:
    """Reads the complete episodes of a dataset but their pictures, of which only the files are looked at.

    Args:
        root: Its folder. Where its last episode was cut off by a crash, that one is removed. Episodes whose files are
            missing or cut off, as in half a copy, are left out.

    Raises:
        DatasetError: There is no dataset, it is empty or of another arm, no episode is complete, or it holds what
            nothing can be learnt from.
        MissingExtraError: The extra ``train`` is not installed.
    """
    root = Path(root)
    lost = repair(root)
    info = read_info(root)
    _check_info(root, info)
    ours = read_seeds(root)
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("A dataset", "train", error) from error
    cameras = tuple(name.removeprefix(IMAGES) for name in info["features"] if name.startswith(IMAGES))
    wanted = [STATE, ACTION, "episode_index", "task_index", "frame_index"]
    try:
        complete, problems = complete_episodes(root, info)
        if not complete:
            raise FileNotFoundError(f"no episode is complete: {_first(root, problems) or 'meta/episodes is empty'}")
        tables = [pq.read_table(file, columns=wanted) for file in sorted({episode.data for episode in complete})]
        tasks = pq.read_table(root / "meta" / "tasks.parquet").to_pandas()
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise DatasetError(
            f"The dataset in {root} cannot be read ({' '.join(str(error).split())[:200]}). A file is missing or cut "
            "off: take another copy of it, or record it again."
        ) from error
    columns: dict[str, NDArray[Any]] = {
        name: np.concatenate([np.array(table[name].to_pylist()) for table in tables]) for name in wanted
    }
    whole = np.isin(columns["episode_index"], [episode.index for episode in complete])
    columns = {name: column[whole] for name, column in columns.items()}
    episodes = columns["episode_index"]
    expected = sum(episode.length for episode in complete) if problems else int(info["total_frames"])
    if len(episodes) != expected:
        raise DatasetError(
            f"The dataset in {root} should have {expected} frames and has {len(episodes)}. Take another copy of it."
        )
    missing = int(info["total_episodes"]) - len(complete) if problems else 0
    if problems:
        away = f"{missing} episodes of {info['total_episodes']}: {_first(root, problems)}"
        lost = f"{lost} and {away}" if lost else away
    values = {STATE: columns[STATE].astype(np.float32), ACTION: columns[ACTION].astype(np.float32)}
    for name, rows in values.items():
        _check_values(root, name, rows, episodes, columns["frame_index"])
    sentences = tasks.index if "task" not in tasks.columns else tasks["task"]
    by_number = dict(zip(tasks["task_index"].tolist(), (str(text) for text in sentences), strict=True))
    instructions = tuple(by_number[number] for number in sorted(by_number))
    numbers = {number: i for i, number in enumerate(sorted(by_number))}
    _, lengths = np.unique(episodes, return_counts=True)
    height, width = info["features"][IMAGES + cameras[0]]["shape"][:2]
    return Recording(
        root, int(info["fps"]), cameras, (height, width), tuple(lengths.tolist()), values[STATE], values[ACTION],
        instructions, np.array([numbers[n] for n in columns["task_index"].tolist()], dtype=np.int64), lost,
        tuple(complete), missing,
        seeds=frozenset(int(episode["seed"]) for episode in ours.get("episodes", [])),
        **{name: ours.get(name) for name in ("gripper", "num_objects", "randomization")},
    )  # fmt: skip


def _first(root: Path, problems: Mapping[Path, str]) -> str:
    """Says what is wrong with the first files."""
    said = [f"{path.relative_to(root)} {problem}" for path, problem in problems.items()]
    return "; ".join([*said[:3], *([f"{len(said) - 3} files more"] if len(said) > 3 else [])])


def _check_info(root: Path, info: Any) -> None:
    if not isinstance(info, dict):
        raise DatasetError(f"{root / 'meta' / 'info.json'} holds no JSON object. Take another copy of the dataset.")
    features = info.get("features")
    features = features if isinstance(features, dict) else {}
    problems = []
    if info.get("robot_type") != ROBOT_TYPE:
        problems.append(f"robot_type is {info.get('robot_type')!r}, not {ROBOT_TYPE!r}")
    for name in (STATE, ACTION):
        feature = features.get(name)
        if not isinstance(feature, dict):
            problems.append(f"{name} is missing")
            continue
        if feature.get("shape") != [len(ACTION_NAMES)]:
            problems.append(f"{name} has shape {feature.get('shape')}, not [{len(ACTION_NAMES)}]")
        if feature.get("names") != list(ACTION_NAMES):
            problems.append(f"names of {name} are {feature.get('names')}, not {list(ACTION_NAMES)}")
        if feature.get("units", list(UNITS)) != list(UNITS):
            problems.append(f"units of {name} are {feature['units']}, not {list(UNITS)}")
    cameras = {name: feature for name, feature in features.items() if name.startswith(IMAGES)}
    for name, feature in cameras.items():
        shape = feature.get("shape") if isinstance(feature, dict) else None
        if not isinstance(shape, list) or len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
            problems.append(f"{name} has shape {shape}, not [height, width, 3]")
    if not cameras:
        problems.append("it has no camera")
    if problems:
        raise DatasetError(
            f"The dataset in {root} is none of this arm: {'; '.join(problems)}. Record one with `smolvla-gym record`."
        )
    if not info.get("total_episodes"):
        raise DatasetError(f"The dataset in {root} is empty. Record some episodes with `smolvla-gym record` first.")
    for name in ("fps", "total_frames"):
        value = info.get(name)
        if not isinstance(value, int | float) or value <= 0:
            path = root / "meta" / "info.json"
            raise DatasetError(f"{path} has {name} {value!r}, not a number above 0. Take another copy of the dataset.")


def _check_values(
    root: Path, name: str, rows: NDArray[np.float32], episodes: NDArray[Any], frames: NDArray[Any]
) -> None:
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        row, part = bad[0]
        raise DatasetError(
            f"{name} in {root} is {rows[row, part]} in {ACTION_NAMES[part]}, episode {episodes[row]}, frame "
            f"{frames[row]} ({len(bad)} such values in all). Remove the episode with LeRobot's lerobot-edit-dataset."
        )
    largest = float(np.abs(rows[:, :-1]).max())
    if largest > _GUESSED_DEGREES:
        raise DatasetError(
            f"{name} in {root} has joint angles up to {largest:.0f}: they seem to be in degrees, and here they are in "
            "rad. Convert the dataset, or record it with `smolvla-gym record`."
        )
    opening = rows[:, -1]
    if opening.min() < -0.1 or opening.max() > 1.1:  # a measured one may be a little beyond the ends
        raise DatasetError(
            f"{name} in {root} has gripper openings from {opening.min():g} to {opening.max():g}: here they go from 0, "
            "closed, to 1, open, and not in percent or mm. Convert the dataset, or record it with `smolvla-gym record`."
        )


def decode(
    recording: Recording,
    cameras: Sequence[str],
    size: tuple[int, int],
    cache: Path,
    progress: Callable[[int], None] = lambda frames: None,
) -> Frames:
    """Decodes the pictures, once: the next time they come from a file.

    Args:
        recording: The dataset.
        cameras: Which cameras.
        size: Height and width in px that the policy wants.
        cache: Folder of that file; it may be removed at any time.
        progress: Called with the number of frames that are decoded, from time to time.

    Returns:
        All frames, with the pictures in memory.

    Raises:
        DatasetError: A video is missing or broken.
    """
    images = {}
    for number, camera in enumerate(cameras):
        path = cache / f"{camera}_{size[0]}x{size[1]}_{recording.digest}.npy"
        if not path.is_file():
            before = number * len(recording)
            pictures = _decode(recording, camera, size, functools.partial(_add, progress, before))
            cache.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.save(file, pictures)
            part.replace(path)
        images[camera] = np.load(path)
        progress((number + 1) * len(recording))
    return Frames(
        images=images,
        states=recording.states,
        actions=recording.actions,
        instructions=recording.instructions,
        instruction_ids=recording.instruction_ids,
        segments=np.repeat(np.arange(recording.episodes), recording.lengths).astype(np.int64),
    )


def _add(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


def _decode(
    recording: Recording, camera: str, size: tuple[int, int], progress: Callable[[int], None]
) -> NDArray[np.uint8]:
    import av

    pictures = np.empty((len(recording), *size, 3), np.uint8)
    count = 0
    feature = f"{IMAGES}{camera}"
    try:
        # Episodes follow each other in the order of their files, as in data/.
        for file, episodes in itertools.groupby(recording.files, lambda episode: episode.videos[feature]):
            starts = [(round(episode.starts[feature] * recording.fps), episode.length) for episode in episodes]
            wanted = {start + i for start, length in starts for i in range(length)}
            with av.open(str(file)) as container:
                for number, frame in enumerate(container.decode(video=0)):
                    if number not in wanted:
                        continue
                    pictures[count] = resize_area(
                        _square(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), size), size
                    )
                    count += 1
                    if count % 100 == 0:
                        progress(count)
    except (OSError, av.FFmpegError) as error:
        raise DatasetError(f"{file} cannot be decoded ({error}). Take another copy of the dataset.") from error
    if count != len(recording):
        raise DatasetError(
            f"The videos of {camera} in {recording.root} have {count} frames, and {len(recording)} are expected. "
            "Take another copy of the dataset."
        )
    return pictures


def _square(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns the largest centred part of a picture that has the shape of ``size``."""
    height, width = picture.shape[:2]
    aspect = size[1] / size[0]
    wide, high = min(width, round(aspect * height)), min(height, round(width / aspect))
    top, left = (height - high) // 2, (width - wide) // 2
    return np.ascontiguousarray(picture[top : top + high, left : left + wide])
