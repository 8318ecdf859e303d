"""``meta/info.json`` of a LeRobot dataset v3 as a typed, validated value.

A dataset may be a download. Every number, name and path template in this file is checked before other code uses it.
This module expands the path templates itself, because ``str.format`` would follow attributes and accept any width.
"""

from __future__ import annotations

import functools
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from smolvla_gym.errors import DatasetError
from smolvla_gym.utils import schema
from smolvla_gym.utils.untrusted import check_inside, printable, read_json_object, reading_as

META: Final = "meta"
IMAGES: Final = "observation.images."

DATA_PATH: Final = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH: Final = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
"""The path templates that LeRobot writes."""

MAX_SIDE: Final = 8192
"""Largest height and width of an image in px."""

_MAX_LENGTH: Final = 1_000_000
"""Largest number of components of a feature other than an image."""

_PLACEHOLDER: Final = re.compile(r"\{(chunk_index|file_index|video_key)(?::0?([1-9])d)?\}")

_CONVERTER: Final = "python -m lerobot.scripts.convert_dataset_v21_to_v30"
_SAME_AGAIN: Final = "Take another copy of the dataset."


@dataclass(frozen=True)
class Feature:
    """A column of a dataset.

    Attributes:
        name: Name of the column, such as ``observation.images.wrist``.
        dtype: Type as LeRobot names it: ``video``, ``image``, ``float32`` and so on.
        shape: Shape of a value.
        names: A name for each component; None: unknown.
        units: A unit for each component; None: unknown.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None
    units: tuple[str, ...] | None

    @property
    def is_camera(self) -> bool:
        """Return whether the values are images."""
        return self.dtype in ("video", "image")

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in px of the images."""
        channels_first = self.names is not None and self.names[0] in ("channels", "channel", "c")
        return self.shape[1:3] if channels_first else self.shape[:2]  # type: ignore[return-value]

    @property
    def size(self) -> int:
        """Number of components."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class DatasetInfo:
    """Content of ``meta/info.json``; every field was checked.

    Attributes:
        root: Folder of the dataset.
        meta: The folder ``meta`` that was read: ``root / "meta"``, or the copy that a killed program left.
        fps: Frame rate in Hz.
        robot_type: Name of the robot; None: unknown.
        total_episodes: Number of episodes.
        total_frames: Number of frames.
        total_tasks: Number of instructions; None: unknown.
        features: The columns, by name.
        data_path: Template of the Parquet files' names.
        video_path: Template of the video files' names; None: there are none.
    """

    root: Path
    meta: Path
    fps: int
    robot_type: str | None
    total_episodes: int
    total_frames: int
    total_tasks: int | None
    features: Mapping[str, Feature]
    data_path: str
    video_path: str | None

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, without ``observation.images.``."""
        return tuple(name.removeprefix(IMAGES) for name in self.features if name.startswith(IMAGES))

    @property
    def videos(self) -> tuple[str, ...]:
        """Names of the features whose images are in video files."""
        return tuple(name for name, feature in self.features.items() if feature.dtype == "video")

    def require_videos(self, cameras: Iterable[str]) -> None:
        """Refuse a dataset whose images are in Parquet files.

        Args:
            cameras: Features of the cameras that are used.

        Raises:
            DatasetError: One of them has the dtype ``image``.
        """
        if stored := [name for name in cameras if self.features[name].dtype != "video"]:
            raise DatasetError(
                f"The images of the camera {stored[0].removeprefix(IMAGES)} in {self.root} are in Parquet files "
                "(dtype image), and videos are needed. LeRobot makes them: lerobot-edit-dataset --operation.type "
                "convert_image_to_video."
            )

    def data_file(self, chunk: int, file: int) -> Path:
        """Return the path of a Parquet file with rows; it may not exist.

        Raises:
            DatasetError: The path leads out of the dataset.
        """
        return _expand(self.root, self.data_path, chunk, file, "")

    def video_file(self, feature: str, chunk: int, file: int) -> Path:
        """Return the path of a video file; it may not exist.

        Raises:
            DatasetError: The path leads out of the dataset, or the dataset has no videos.
        """
        if self.video_path is None:
            raise DatasetError(f"{self.meta / 'info.json'} has no video_path. {_SAME_AGAIN}")
        return _expand(self.root, self.video_path, chunk, file, feature)


def read_info(root: Path, meta: Path | None = None) -> DatasetInfo:
    """Read and check ``meta/info.json`` of a dataset.

    Args:
        root: Folder of the dataset.
        meta: The folder to read instead of ``meta``.

    Raises:
        DatasetError: The folder has no dataset, the dataset has another format, or the file is broken.
    """
    meta = meta or root / META
    path = meta / "info.json"
    fields: dict[str, Any] = dict.fromkeys(_FIELDS)
    missing = (
        f"There is no LeRobot dataset in {root}: meta/info.json is missing. Take the folder of a dataset, or one that "
        "does not exist yet."
    )
    with reading_as(DatasetError, path, _SAME_AGAIN, missing):
        content = read_json_object(path)
        _check_version(root, path, content.get("codebase_version"))
        fields |= schema.check_fields(content, _FIELDS, _REQUIRED, others=True)
        if fields["video_path"] is None and any(f.dtype == "video" for f in fields["features"].values()):
            raise ValueError("video_path is missing")
    return DatasetInfo(root, meta, **fields)


def _check_version(root: Path, path: Path, version: object) -> None:
    text = version if isinstance(version, str) else ""
    match = re.fullmatch(r"v?(\d{1,3})\.(\d{1,3})(?:\.\d{1,3})?", text)
    if match is None:
        raise DatasetError(f"{path} has codebase_version {version!r:.60}, not one such as 'v3.0'. {_SAME_AGAIN}")
    major = int(match[1])
    if major < 3:
        advice = (
            f"LeRobot's converter changes it in place: {_CONVERTER} --repo-id=local/{root.absolute().name} "
            f"--root={shlex.quote(str(root))} --push-to-hub=false"
            if (major, int(match[2])) == (2, 1)
            else "Convert it to v2.1 with the LeRobot version that made it, then to v3.0"
        )
        raise DatasetError(f"The dataset in {root} has LeRobot's format {text}, and v3.0 is needed. {advice}.")
    if major > 3:
        raise DatasetError(
            f"The dataset in {root} has LeRobot's format {text}, which is newer than v3.0. Update smolvla-gym."
        )


def _count(low: int = 0, high: int = 2**53) -> schema.Check:
    """Create a check for whole numbers, which other programs may write as floats."""
    check = schema.whole(low, high)
    return lambda value: check(int(value) if isinstance(value, float) and value.is_integer() else value)


def _features(value: Any) -> dict[str, Feature]:
    features = schema.mapping_of(_feature_name, schema.anything, 1000)(value)
    return {
        name: schema.check_field(name, entry, functools.partial(_feature, name)) for name, entry in features.items()
    }


def _feature_name(name: str) -> str:
    if not name or "/" in name or printable(name) != name:
        raise schema.ExpectedError("a printable name without /")
    return name


def _feature(name: str, value: Any) -> Feature:
    fields = {"dtype": schema.text(), "shape": schema.anything, "names": _texts, "units": _texts}
    entry = schema.check_fields(value, fields, ("dtype", "shape"), others=True)
    feature = Feature(name, entry["dtype"], (), entry.get("names"), entry.get("units"))
    if name.startswith(IMAGES) and not feature.is_camera:
        raise ValueError(f"dtype is {schema.format_value(feature.dtype)}; expected 'video' or 'image'")
    shape = schema.check_field("shape", entry["shape"], _IMAGE_SHAPE if feature.is_camera else _VECTOR_SHAPE)
    if math.prod(shape) > _MAX_LENGTH and not feature.is_camera:
        raise ValueError(f"shape is {list(shape)}; expected at most {_MAX_LENGTH} components")
    return replace(feature, shape=shape)


def _texts(value: object) -> tuple[str, ...] | None:
    """Return a list of texts, also of LeRobot's form ``{"motors": [...]}``; None for anything else."""
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        return tuple(value)
    return None


def _template(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 500 or re.search(r"[{}]", _PLACEHOLDER.sub("", value)):
        raise schema.ExpectedError("a path with {chunk_index:03d} and {file_index:03d}")
    check_inside(Path(), _fill(value, 0, 0, "camera"))
    return value


_IMAGE_SHAPE: Final = schema.list_of(schema.whole(1, MAX_SIDE), 3, 3)
"""Height, width and channels."""

_VECTOR_SHAPE: Final = schema.list_of(schema.whole(1, _MAX_LENGTH), 0, 32)

_FIELDS: Final[Mapping[str, schema.Check]] = {
    "fps": _count(1, 1000),
    "robot_type": schema.optional(schema.text()),
    "total_episodes": _count(),
    "total_frames": _count(),
    "total_tasks": schema.optional(_count()),
    "features": _features,
    "data_path": _template,
    "video_path": schema.optional(_template),
}
_REQUIRED: Final = ("fps", "total_episodes", "total_frames", "features", "data_path")


def _expand(root: Path, template: str, chunk: int, file: int, feature: str) -> Path:
    try:
        return check_inside(root, _fill(template, chunk, file, feature))
    except ValueError as error:
        raise DatasetError(f"The dataset in {root} names a file outside of it: {error}. {_SAME_AGAIN}") from error


def _fill(template: str, chunk: int, file: int, feature: str) -> str:
    values: dict[str, int | str] = {"chunk_index": chunk, "file_index": file, "video_key": feature}

    def field(match: re.Match[str]) -> str:
        value, width = values[match[1]], match[2]
        return str(value).zfill(int(width)) if width and isinstance(value, int) else str(value)

    return _PLACEHOLDER.sub(field, template)
