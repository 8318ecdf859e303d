"""Converted copies of LeRobot datasets: this arm's names and units, and other names of cameras.

The source may be a download. It is read as such, never written to, and never followed through a link.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.files import PART, FileReport, examine_files, read_sentences, sync, sync_tree
from smolvla_gym.data.folder import beside
from smolvla_gym.data.info import DATA_PATH, META, VIDEO_PATH, DatasetInfo, read_info
from smolvla_gym.data.mapping import DatasetMapping, Units, convert_values, find_units, plan_mapping
from smolvla_gym.data.seeds import SEEDS, read_seeds, write_seeds
from smolvla_gym.data.spec import ACTION, ROBOT_TYPE, STATE, UNITS
from smolvla_gym.data.statistics import MIN_STD
from smolvla_gym.data.tables import Kind, read_columns, reading, rewrite_columns
from smolvla_gym.data.transaction import lock, settled_meta
from smolvla_gym.errors import DatasetError, MissingExtraError
from smolvla_gym.parol6 import ACTION_NAMES
from smolvla_gym.utils.untrusted import has_link, printable, read_json_object

_MAX_STATS: Final = 64 << 20
_LONGEST: Final = 10_000
"""Characters of a sentence: each episode's row repeats it."""

_NUMERIC: Final = ("float", "double", "halffloat", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16",
                   "uint32", "uint64", "float16", "float32", "float64")  # fmt: skip
_INDEXES: Final[Mapping[str, Kind]] = {
    "episode_index": "integer", "frame_index": "integer", "task_index": "integer",
}  # fmt: skip

Stats = dict[str, dict[str, NDArray[Any]]]
"""For state and action LeRobot's statistics."""


def convert_dataset(
    source: str | Path, target: str | Path, renames: Mapping[str, str] | None = None, units: Units = "auto"
) -> DatasetInfo:
    """Write a copy of a dataset in this arm's format.

    States and actions get this arm's components, in rad and opening 0..1, and the statistics are computed again. Images
    are not encoded again: the videos are hard links to those of the source where the file system can, copies otherwise.
    Of the other features those with numbers are kept. A conversion that fails or is killed leaves nothing at
    ``target``.

    Args:
        source: Folder of the dataset; nothing is changed in it.
        target: The new folder; it must not exist.
        renames: New names by old ones: of cameras, with or without ``observation.images.``, and of components.
        units: Units of the source; ``"auto"``: what the values of joint 3 show.

    Returns:
        What ``meta/info.json`` of the copy says.

    Raises:
        DatasetError: The dataset is broken, has a link in it, or cannot be mapped, or the copy cannot be written.
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
        if part.is_symlink() or (part.exists() and not part.is_dir()):
            raise DatasetError(f"{part} is no folder that this program has left there. Remove it.")
        try:
            shutil.rmtree(part, ignore_errors=True)  # half of one, of a conversion that was killed
            part.mkdir()
            _write(mapping, report, part)
            sync_tree(part)
            part.rename(target)
            sync(target.parent)
        except OSError as error:
            if isinstance(error, DatasetError | MissingExtraError):
                raise
            raise DatasetError(f"The copy {target} cannot be written ({printable(error)}).") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)  # all that is in it was written here
    return read_info(target)


def _check_target(source: Path, target: Path) -> None:
    if os.path.lexists(target):
        raise DatasetError(f"{target} exists already. Take the name of a folder that does not exist yet.")
    if target.resolve().is_relative_to(source.resolve()):
        raise DatasetError(f"{target} is inside the dataset {source}, which stays as it is. Take another folder.")


def _examine(info: DatasetInfo) -> FileReport:
    """Return where the files of a dataset are; all of them are whole and none is reached through a link."""
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
    episodes, rows, values = _read(mapping, report)
    units = find_units(mapping, values)
    values = {name: convert_values(found, units) for name, found in values.items()}
    sentences = read_sentences(info)
    if too_long := [number for number, text in sentences.items() if len(text) > _LONGEST]:
        raise DatasetError(f"Sentence {too_long[0]} in {info.root} has more than {_LONGEST} characters. Shorten it.")
    stats, tasks = {}, {}
    for number in {episode.index for episode in report.episodes}:
        here = episodes == number
        if not here.any():
            raise DatasetError(f"Episode {number} in {info.root} has no rows. Take another copy of the dataset.")
        stats[number] = {name: _describe(found[here]) for name, found in values.items()}
        used = np.unique(rows["task_index"][here]).tolist()
        if absent := [index for index in used if index not in sentences]:
            raise DatasetError(f"meta/tasks.parquet in {info.root} has no task_index {absent[0]}.")
        tasks[number] = [sentences[index] for index in used]
    dropped = _write_data(mapping, report, part, units)
    _write_episodes(mapping, part, stats, tasks, dropped)
    _write_videos(mapping, part)
    _write_info(mapping, part, dropped)
    _write_stats(mapping, part, stats, dropped)
    _copy(info.meta / "tasks.parquet", part / META / "tasks.parquet")
    if (info.meta / SEEDS).exists():
        write_seeds(part, read_seeds(info.root, info.meta))


def _read(
    mapping: DatasetMapping, report: FileReport
) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return the episode of each row, its indexes, and its selected components in the units of the source."""
    wanted: dict[str, Kind] = {STATE: "vector", ACTION: "vector", **_INDEXES}
    tables = [read_columns(path, wanted) for path in sorted({episode.data for episode in report.episodes})]
    for table in tables:
        for name in (STATE, ACTION):
            size = mapping.info.features[name].size
            if len(table[name]) and table[name].shape[1] != size:
                raise DatasetError(
                    f"{name} in {mapping.info.root} has {table[name].shape[1]} components in a file, and info.json "
                    f"says {size}. Take another copy of the dataset."
                )
    tables = [table for table in tables if len(table["episode_index"])]
    if not tables:
        raise DatasetError(f"The dataset in {mapping.info.root} has no rows. Take another copy of it.")
    rows = {name: np.concatenate([table[name] for table in tables]) for name in _INDEXES}
    values = {
        name: np.concatenate([table[name][:, list(mapping.components[name])] for table in tables])
        for name in (STATE, ACTION)
    }
    order = np.lexsort((rows["frame_index"], rows["episode_index"]))
    rows = {name: column[order] for name, column in rows.items()}
    return rows["episode_index"], rows, {name: found[order] for name, found in values.items()}


def _describe(values: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    from lerobot.datasets.compute_stats import get_feature_stats

    found: dict[str, NDArray[Any]] = get_feature_stats(values, axis=0, keepdims=False)
    return found


def _write_data(mapping: DatasetMapping, report: FileReport, part: Path, units: Any) -> set[str]:
    """Write the rows; returns the features that the copy leaves out."""
    import pyarrow as pa

    info = mapping.info
    kept = [name for name, feature in info.features.items() if not feature.is_camera and feature.dtype in _NUMERIC]
    kept += [name for name in (STATE, ACTION) if name not in kept]

    def convert(name: str) -> Callable[[NDArray[Any]], Any]:
        columns = list(mapping.components[name])

        def change(rows: NDArray[Any]) -> Any:
            values = pa.array(convert_values(rows[:, columns], units).ravel(), pa.float32())
            return pa.FixedSizeListArray.from_arrays(values, len(ACTION_NAMES))

        return change

    changes = {name: convert(name) for name in (STATE, ACTION)}
    for chunk, file in _places(info, "data"):
        path = part / DATA_PATH.format(chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        rewrite_columns(info.data_file(chunk, file), path, kept, changes)
    return set(info.features) - set(kept) - set(mapping.cameras)


def _places(info: DatasetInfo, prefix: str) -> list[tuple[int, int]]:
    """Return chunk and number of the files that the episodes name."""
    found: set[tuple[int, int]] = set()
    for path in _episode_files(info):
        columns = read_columns(path, {f"{prefix}/chunk_index": "integer", f"{prefix}/file_index": "integer"})
        found |= set(zip(*(column.tolist() for column in columns.values()), strict=True))
    return sorted(found)


def _episode_files(info: DatasetInfo) -> list[Path]:
    return sorted((info.meta / "episodes").rglob("*.parquet"))


def _write_episodes(
    mapping: DatasetMapping, part: Path, stats: Mapping[int, Stats], tasks: Mapping[int, list[str]], dropped: set[str]
) -> None:
    import pyarrow as pa

    away = {name for name in (STATE, ACTION) if name in mapping.info.features} | dropped

    def rename(column: str) -> str | None:
        for start in ("videos/", "stats/"):
            if column.startswith(start):
                feature, slash, rest = column.removeprefix(start).partition("/")
                if feature in away:
                    return None
                return f"{start}{mapping.cameras.get(feature, feature)}{slash}{rest}"
        return column

    def add(numbers: list[int]) -> dict[str, Any]:
        added: dict[str, Any] = {"tasks": pa.array([tasks[number] for number in numbers], pa.list_(pa.string()))}
        for name in (STATE, ACTION):
            for key in stats[numbers[0]][name] if numbers else ():
                kind = pa.int64() if key == "count" else pa.float64()
                added[f"stats/{name}/{key}"] = pa.array(
                    [stats[number][name][key].tolist() for number in numbers], pa.list_(kind)
                )
        return added

    for path in _episode_files(mapping.info):
        to = part / META / path.relative_to(mapping.info.meta)
        to.parent.mkdir(parents=True, exist_ok=True)
        rewrite_columns(path, to, rename, {}, lambda columns: add(columns["episode_index"].tolist()))


def _write_videos(mapping: DatasetMapping, part: Path) -> None:
    for old, new in mapping.cameras.items():
        for chunk, file in _places(mapping.info, f"videos/{old}"):
            to = part / VIDEO_PATH.format(video_key=new, chunk_index=chunk, file_index=file)
            to.parent.mkdir(parents=True, exist_ok=True)
            path = mapping.info.video_file(old, chunk, file)
            _refuse_link(mapping.info.root, path)
            try:
                os.link(path, to, follow_symlinks=False)
            except (OSError, NotImplementedError):  # another disk, FAT, or a file of another user
                _copy(path, to)


def _copy(path: Path, to: Path) -> None:
    """Copy a file, never through a link or from a device."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as source, to.open("xb") as target:
        shutil.copyfileobj(source, target)


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
    _write_json(part / META / "info.json", content)


def _write_stats(mapping: DatasetMapping, part: Path, stats: Mapping[int, Stats], dropped: set[str]) -> None:
    from lerobot.datasets.compute_stats import aggregate_stats

    path = mapping.info.meta / "stats.json"
    try:
        content = read_json_object(path, _MAX_STATS)
    except FileNotFoundError:
        content = {}
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} cannot be read ({printable(error)}). Take another copy of it, or have it computed by "
            "lerobot-edit-dataset --operation.type recompute_stats."
        ) from error
    kept = {mapping.cameras.get(name, name): entry for name, entry in content.items() if name not in dropped}
    for name, entry in aggregate_stats(list(stats.values())).items():
        kept[name] = {key: np.asarray(value).tolist() for key, value in entry.items()}
        kept[name]["std"] = [max(std, MIN_STD) for std in kept[name]["std"]]
    _write_json(part / META / "stats.json", kept)


def _write_json(path: Path, content: Any) -> None:
    with reading(path):
        path.write_text(json.dumps(content, indent=4), encoding="utf-8")
