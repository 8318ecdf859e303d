"""Convert LeRobot datasets of other recorders into this arm's format: names, units and camera names.

The source may be a download. The conversion reads it as untrusted data, never writes to it, and follows no link in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.disk import PART, sync, sync_tree
from smolvla_gym.data.files import FileReport, examine_files
from smolvla_gym.data.folder import beside
from smolvla_gym.data.info import DATA_PATH, META, VIDEO_PATH, DatasetInfo, read_info
from smolvla_gym.data.instructions import TASKS, read_instructions
from smolvla_gym.data.lock import lock
from smolvla_gym.data.mapping import DatasetMapping, Units, convert_values, find_units, plan_mapping
from smolvla_gym.data.rows import INDEXES, Columns, join_rows, read_file_rows
from smolvla_gym.data.seeds import SEEDS, read_seeds, write_seeds
from smolvla_gym.data.spec import ACTION, ROBOT_TYPE, STATE, UNITS
from smolvla_gym.data.statistics import STATS, floor_std, read_stats
from smolvla_gym.data.tables import rewrite_columns
from smolvla_gym.data.transaction import settled_meta
from smolvla_gym.errors import DatasetError
from smolvla_gym.parol6 import ACTION_NAMES
from smolvla_gym.utils.json_file import save_json
from smolvla_gym.utils.untrusted import has_link, is_link, printable, read_json_object

_MAX_CHARACTERS: Final = 10_000
"""Longest instruction: the row of each episode repeats it."""

_NUMERIC: Final = ("float", "double", "halffloat", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16",
                   "uint32", "uint64", "float16", "float32", "float64")  # fmt: skip

EpisodeStats = dict[str, dict[str, NDArray[Any]]]
"""LeRobot's statistics of state and action."""


def convert_dataset(
    source: str | Path, target: str | Path, renames: Mapping[str, str] | None = None, units: Units = "auto"
) -> DatasetInfo:
    """Write a copy of a dataset in this arm's format.

    States and actions get this arm's components, in rad and opening 0..1, and their statistics are computed again.
    Images are not encoded again: the videos of the copy are hard links where the file system supports them, copies
    otherwise. Other features are kept if they are numbers. A conversion that fails or is killed leaves nothing at
    ``target``.

    Args:
        source: Folder of the dataset; nothing is changed in it.
        target: The new folder; it must not exist.
        renames: New names by old ones: of cameras, with or without ``observation.images.``, and of components.
        units: Units of the source; ``"auto"``: found from the values of joint 3.

    Returns:
        The content of ``meta/info.json`` of the copy.

    Raises:
        DatasetError: The dataset is broken, contains a link, or cannot be mapped, or the copy cannot be written.
        MissingExtraError: The extra ``train`` is not installed.
    """
    source, target = Path(source), Path(target)
    meta, lost = settled_meta(source)
    info = read_info(source, meta)
    mapping = plan_mapping(info, renames or {}, units)
    _check_target(source, target)
    if lost:
        raise DatasetError(f"The dataset in {source} lost {lost}. Record into it again, which repairs it, first.")
    report = _examine(info)
    part = beside(target, ".converted" + PART)
    target.parent.mkdir(parents=True, exist_ok=True)
    with lock(target):
        _check_target(source, target)
        if is_link(part) or (part.exists() and not part.is_dir()):
            raise DatasetError(f"{part} is not a folder, and the copy is written there at first. Remove it.")
        try:
            shutil.rmtree(part, ignore_errors=True)  # left by a conversion that was killed
            part.mkdir()
            _write(mapping, report, part)
            sync_tree(part)
            part.rename(target)
            sync(target.parent)
        except OSError as error:
            raise DatasetError(f"The copy {target} cannot be written ({printable(error)}).") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)  # all files in it were written here
    return read_info(target)


def _check_target(source: Path, target: Path) -> None:
    if os.path.lexists(target):
        raise DatasetError(f"{target} exists already. Choose the name of a new folder.")
    if target.resolve().is_relative_to(source.resolve()):
        raise DatasetError(f"{target} is inside the dataset {source}, which is not changed. Choose another folder.")


def _examine(info: DatasetInfo) -> FileReport:
    """Return the files of a dataset; refuse a dataset with an incomplete file, or a file behind a link."""
    for path in (info.meta, *sorted(info.meta.rglob("*"))):
        _refuse_link(info.root, path)
    report = examine_files(info)
    if not report.episodes:
        raise DatasetError(f"The dataset in {info.root} is empty. Record some episodes first.")
    for path in sorted({path for episode in report.episodes for path in episode.paths}):
        _refuse_link(info.root, path)
    if report.problems:
        path, problem = next(iter(report.problems.items()))
        raise DatasetError(
            f"{path.relative_to(info.root)} in {info.root} {problem} ({len(report.problems)} such files). Take another "
            "copy of the dataset, or remove the episodes with lerobot-edit-dataset --operation.type delete_episodes."
        )
    return report


def _refuse_link(root: Path, path: Path) -> None:
    if has_link(root, path):
        raise DatasetError(
            f"{path.relative_to(root)} in {root} is a link or behind one, and links may lead anywhere. Copy the "
            "dataset as plain files, for instance with `cp -rL`, and convert the copy."
        )


def _write(mapping: DatasetMapping, report: FileReport, part: Path) -> None:
    info = mapping.info
    rows = _read(mapping, report)
    units = find_units(mapping, {name: rows[name] for name in (STATE, ACTION)})
    values = {name: convert_values(rows[name], units) for name in (STATE, ACTION)}
    instructions = read_instructions(info)
    if too_long := [number for number, text in instructions.items() if len(text) > _MAX_CHARACTERS]:
        raise DatasetError(
            f"Instruction {too_long[0]} in {info.root} has more than {_MAX_CHARACTERS} characters. Shorten it."
        )
    stats, tasks = {}, {}
    for number in {episode.index for episode in report.episodes}:
        here = rows["episode_index"] == number
        if not here.any():
            raise DatasetError(f"Episode {number} in {info.root} has no rows. Take another copy of the dataset.")
        stats[number] = {name: _describe(vectors[here]) for name, vectors in values.items()}
        used = np.unique(rows["task_index"][here]).tolist()
        if absent := [index for index in used if index not in instructions]:
            raise DatasetError(f"meta/{TASKS} in {info.root} has no task_index {absent[0]}.")
        tasks[number] = [instructions[index] for index in used]
    dropped = _write_data(mapping, report, part, units)
    _write_episodes(mapping, part, stats, tasks, dropped)
    _write_videos(mapping, report, part)
    _write_info(mapping, part, dropped)
    _write_stats(mapping, part, stats, dropped)
    _copy(info.meta / TASKS, part / META / TASKS)
    if (info.meta / SEEDS).exists():
        write_seeds(part, read_seeds(info.root, info.meta))


def _read(mapping: DatasetMapping, report: FileReport) -> Columns:
    """Return the indexes of all rows, and the selected components of state and action in the units of the source."""
    wanted = {**INDEXES, STATE: "vector", ACTION: "vector"}
    tables = [
        read_file_rows(mapping.info, path, wanted) for path in sorted({episode.data for episode in report.episodes})
    ]
    for table in tables:
        for name in (STATE, ACTION):
            if len(table[name]):
                table[name] = table[name][:, list(mapping.components[name])]
    rows = join_rows(tables)
    if rows is None:
        raise DatasetError(f"The dataset in {mapping.info.root} has no rows. Take another copy of it.")
    return rows


def _describe(values: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    from lerobot.datasets.compute_stats import get_feature_stats

    stats: dict[str, NDArray[Any]] = get_feature_stats(values, axis=0, keepdims=False)
    return stats


def _write_data(mapping: DatasetMapping, report: FileReport, part: Path, units: Literal["rad", "degrees"]) -> set[str]:
    """Write the rows; return the features that the copy does not have."""
    import pyarrow as pa

    info = mapping.info
    kept = [name for name, feature in info.features.items() if not feature.is_camera and feature.dtype in _NUMERIC]
    kept += [name for name in (STATE, ACTION) if name not in kept]

    def converter(name: str) -> Callable[[NDArray[Any]], Any]:
        columns = list(mapping.components[name])

        def convert(rows: NDArray[Any]) -> Any:
            values = pa.array(convert_values(rows[:, columns], units).ravel(), pa.float32())
            return pa.FixedSizeListArray.from_arrays(values, len(ACTION_NAMES))

        return convert

    changes = {name: converter(name) for name in (STATE, ACTION)}
    for chunk, file in sorted({episode.places["data"] for episode in report.episodes}):
        path = part / DATA_PATH.format(chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        rewrite_columns(info.data_file(chunk, file), path, kept, changes)
    return set(info.features) - set(kept) - set(mapping.cameras)


def _write_episodes(
    mapping: DatasetMapping,
    part: Path,
    stats: Mapping[int, EpisodeStats],
    tasks: Mapping[int, list[str]],
    dropped: set[str],
) -> None:
    import pyarrow as pa

    absent = {name for name in (STATE, ACTION) if name in mapping.info.features} | dropped

    def rename(column: str) -> str | None:
        for start in ("videos/", "stats/"):
            if column.startswith(start):
                feature, slash, rest = column.removeprefix(start).partition("/")
                if feature in absent:
                    return None
                return f"{start}{mapping.cameras.get(feature, feature)}{slash}{rest}"
        return column

    def add(columns: Columns) -> dict[str, Any]:
        numbers = columns["episode_index"].tolist()
        added: dict[str, Any] = {"tasks": pa.array([tasks[number] for number in numbers], pa.list_(pa.string()))}
        for name in (STATE, ACTION):
            for key in stats[numbers[0]][name] if numbers else ():
                kind = pa.int64() if key == "count" else pa.float64()
                added[f"stats/{name}/{key}"] = pa.array(
                    [stats[number][name][key].tolist() for number in numbers], pa.list_(kind)
                )
        return added

    for path in sorted((mapping.info.meta / "episodes").rglob("*.parquet")):
        copy = part / META / path.relative_to(mapping.info.meta)
        copy.parent.mkdir(parents=True, exist_ok=True)
        rewrite_columns(path, copy, rename, {}, add)


def _write_videos(mapping: DatasetMapping, report: FileReport, part: Path) -> None:
    for old, new in mapping.cameras.items():
        for chunk, file in sorted({episode.places[old] for episode in report.episodes}):
            copy = part / VIDEO_PATH.format(video_key=new, chunk_index=chunk, file_index=file)
            copy.parent.mkdir(parents=True, exist_ok=True)
            path = mapping.info.video_file(old, chunk, file)
            _refuse_link(mapping.info.root, path)
            try:
                os.link(path, copy, follow_symlinks=False)
            except (OSError, NotImplementedError):  # another disk, FAT, or a file of another user
                _copy(path, copy)


def _copy(path: Path, target: Path) -> None:
    """Copy a file, never through a link or from a device."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as source, target.open("xb") as copy:
        shutil.copyfileobj(source, copy)


def _write_info(mapping: DatasetMapping, part: Path, dropped: Iterable[str]) -> None:
    content = read_json_object(mapping.info.meta / "info.json")
    features: dict[str, Any] = {}
    for name, entry in content["features"].items():
        if name in (STATE, ACTION):
            features[name] = {
                "dtype": "float32", "shape": [len(ACTION_NAMES)], "names": list(ACTION_NAMES), "units": list(UNITS),
            }  # fmt: skip
        elif name not in dropped:
            features[mapping.cameras.get(name, name)] = entry
    content |= {"robot_type": ROBOT_TYPE, "features": features, "data_path": DATA_PATH, "video_path": VIDEO_PATH}
    save_json(part / META / "info.json", content, "description")


def _write_stats(mapping: DatasetMapping, part: Path, stats: Mapping[int, EpisodeStats], dropped: set[str]) -> None:
    from lerobot.datasets.compute_stats import aggregate_stats

    try:
        content = read_stats(mapping.info.meta)
    except FileNotFoundError:
        content = {}
    kept = {mapping.cameras.get(name, name): entry for name, entry in content.items() if name not in dropped}
    for name, entry in aggregate_stats(list(stats.values())).items():
        kept[name] = {key: np.asarray(value).tolist() for key, value in entry.items()}
        kept[name]["std"] = floor_std(kept[name]["std"])
    save_json(part / META / STATS, kept, "statistics")
