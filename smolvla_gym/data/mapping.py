"""Map the components, cameras and units of another recorder's dataset to those of this arm."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.info import IMAGES, DatasetInfo, Feature
from smolvla_gym.data.spec import ACTION, ROBOT_TYPE, STATE, arm_differences
from smolvla_gym.data.units import DEGREES_AND_PERCENT, MAX_ANGLE, OPENING_RANGE
from smolvla_gym.errors import DatasetError
from smolvla_gym.parol6 import ACTION_NAMES
from smolvla_gym.utils.untrusted import printable

Units = Literal["auto", "rad", "degrees"]
"""Units of a dataset: ``rad`` with a gripper from 0 to 1, ``degrees`` with one from 0 to 100, or found from values."""

UNIT_NAMES: Final[tuple[str, ...]] = get_args(Units)

PLUGIN_TYPES: Final = ("parol6_follower", "parol6_sim")
"""Names of this arm's LeRobot robots, whose units are degrees and percent unless ``use_degrees=false``."""

_SUFFIX: Final = ".pos"
_CAMERA: Final = re.compile(r"[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,3}")
_ELBOW: Final = 2
_ELBOW_RANGE: Final[Mapping[str, tuple[float, float]]] = {"rad": (1.6, 5.3), "degrees": (92.0, 304.0)}
"""Range of joint 3, whose limits are 108 and 288 degrees, with a margin; the two ranges do not overlap."""
_MOVED: Final = 0.5
"""Share of the range 0..1 that a gripper's values must cover to be distinguished from values in percent."""


@dataclass(frozen=True)
class DatasetMapping:
    """Components and cameras of this arm in a dataset.

    Attributes:
        info: The dataset.
        components: For state and action the column of each of the seven components.
        cameras: New names of the cameras' features by old ones, both with ``observation.images.``.
        units: Units that the caller gave.
    """

    info: DatasetInfo
    components: Mapping[str, tuple[int, ...]]
    cameras: Mapping[str, str]
    units: Units


def is_native(info: DatasetInfo) -> bool:
    """Return True for a dataset whose robot, names and units are those of this arm, according to its metadata."""
    return not arm_differences(info)


def plan_mapping(info: DatasetInfo, renames: Mapping[str, str], units: Units = "auto") -> DatasetMapping:
    """Find the components and cameras of this arm in a dataset.

    Args:
        info: The dataset.
        renames: New names by old ones: of cameras, with or without ``observation.images.``, and of components.
        units: The units of its values.

    Raises:
        DatasetError: A component is missing or there twice, a name is unknown, or the dataset is of another robot and
            neither ``renames`` nor ``units`` is given. The message names the option to give.
    """
    if units not in UNIT_NAMES:
        raise DatasetError(f"The units are {units!r:.60}, and one of {', '.join(UNIT_NAMES)} is expected.")
    vectors = {name: _vector(info, name) for name in (STATE, ACTION)}
    cameras, components = _split(info, vectors.values(), renames)
    if info.robot_type not in (ROBOT_TYPE, *PLUGIN_TYPES) and not renames and units == "auto":
        raise DatasetError(
            f"The dataset in {info.root} is of the robot_type {printable(info.robot_type, 60)!r}, and of this arm are "
            f"{', '.join((ROBOT_TYPE, *PLUGIN_TYPES))}. {_parts(info, vectors)} If it is of this arm, give --units "
            "degrees or --units rad, and --rename OLD=NEW for each name that differs."
        )
    columns = {name: _columns(info, feature, components, units) for name, feature in vectors.items()}
    info.require_videos(cameras)
    return DatasetMapping(info, columns, cameras, units)


def find_units(mapping: DatasetMapping, values: Mapping[str, NDArray[Any]]) -> Literal["rad", "degrees"]:
    """Return the units of states and actions, after a check that all values agree with them.

    Joint 3 of this arm is between 108 and 288 degrees, that is 1.9 and 5 rad, so that its values show the unit.

    Args:
        mapping: The dataset; ``units`` other than ``auto`` are checked against the values.
        values: For state and action the selected components, shape (N, 7).

    Raises:
        DatasetError: A value is not finite, units are mixed, or the values contradict the units that were given.
    """
    info, asked = mapping.info, mapping.units
    for name, rows in values.items():
        if bad := int((~np.isfinite(rows)).sum()):
            raise DatasetError(
                f"{name} in {info.root} has {bad} values that are not finite. `smolvla-gym dataset check` names them; "
                "remove the episode with lerobot-edit-dataset."
            )
    found = {name: _elbow_units(rows[:, _ELBOW]) for name, rows in values.items()}
    kinds = set(found.values())
    ranges = "; ".join(
        f"joint_3 of {name} is from {rows[:, _ELBOW].min():.4g} to {rows[:, _ELBOW].max():.4g}"
        for name, rows in values.items()
    )
    clear = kinds in ({"rad"}, {"degrees"})
    if asked == "auto" and not clear:
        raise DatasetError(
            f"The units of {info.root} are ambiguous: {ranges}, and the range of this arm is 1.9 to 5 rad or 108 to "
            "288 degrees. If the units are mixed, convert the parts one by one; otherwise give --units "
            "degrees or --units rad, or a --rename OLD=joint_3 that names another component."
        )
    if clear and asked != "auto" and kinds != {asked}:
        raise DatasetError(
            f"--units {asked} contradicts the dataset in {info.root}: {ranges}. Give --units {kinds.pop()}."
        )
    units: Literal["rad", "degrees"] = ("rad" if kinds == {"rad"} else "degrees") if asked == "auto" else asked
    for name, rows in values.items():
        _check_ranges(info, name, rows, units)
    return units


def convert_values(rows: NDArray[Any], units: Literal["rad", "degrees"]) -> NDArray[np.float32]:
    """Return values in rad and opening 0..1, float32, shape (N, 7).

    Args:
        rows: The selected components, shape (N, 7).
        units: Units of the components.
    """
    return (np.asarray(rows, np.float64) / (DEGREES_AND_PERCENT if units == "degrees" else 1.0)).astype(np.float32)


def _elbow_units(values: NDArray[Any]) -> str:
    for unit, (low, high) in _ELBOW_RANGE.items():
        if len(values) and low <= values.min() and values.max() <= high:
            return unit
    return "unknown"


def _check_ranges(info: DatasetInfo, name: str, rows: NDArray[Any], units: str) -> None:
    joints = np.abs(rows[:, :-1]).max(initial=0.0)
    if units == "rad" and joints > MAX_ANGLE:
        raise DatasetError(
            f"{name} in {info.root} has joint angles up to {joints:.4g}, which are not in rad. Where units are mixed, "
            "`smolvla-gym dataset check` names the episodes; otherwise give --units degrees."
        )
    scale = 100.0 if units == "degrees" else 1.0
    low, high = float(rows[:, -1].min()), float(rows[:, -1].max())
    if low < OPENING_RANGE[0] * scale or high > OPENING_RANGE[1] * scale:
        raise DatasetError(
            f"{name} in {info.root} has gripper openings from {low:.4g} to {high:.4g}, and with joints in {units} "
            f"0 (closed) to {scale:g} (open) is expected. Convert the gripper's values first, or name another "
            "component with --rename OLD=gripper."
        )
    if units == "degrees" and info.robot_type not in PLUGIN_TYPES and high <= OPENING_RANGE[1] and high - low >= _MOVED:
        raise DatasetError(
            f"{name} in {info.root} has joints in degrees and gripper openings from {low:.4g} to {high:.4g}: with "
            "degrees, 0 (closed) to 100 (open) is expected. Convert the gripper's values first."
        )


def _vector(info: DatasetInfo, name: str) -> Feature:
    feature = info.features.get(name)
    if feature is None or len(feature.shape) != 1 or feature.is_camera:
        there = [other for other in info.features if not other.startswith(IMAGES)]
        raise DatasetError(
            f"The dataset in {info.root} has no vector {name}: its features are {printable(', '.join(there), 200)}. "
            "Record it with states and actions."
        )
    if feature.names is not None and len(feature.names) != feature.size:
        raise DatasetError(
            f"{info.meta / 'info.json'} has {len(feature.names)} names and {feature.size} components of {name}. "
            "Take another copy of the dataset."
        )
    return feature


def _split(info: DatasetInfo, vectors: Any, renames: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the new names of all cameras, and the renames of components."""
    known = {name for vector in vectors for name in vector.names or ()}
    features = [name for name, feature in info.features.items() if name.startswith(IMAGES) or feature.is_camera]
    short = {name.removeprefix(IMAGES): name for name in features}
    renamed: dict[str, str] = {}
    components: dict[str, str] = {}
    for old, new in renames.items():
        feature = old if old in features else short.get(old)
        if old in known and feature is None:
            components[old] = _component(info, old, new)
        elif feature is not None and old not in known:
            if feature in renamed:
                raise DatasetError(f"--rename names the camera {printable(old, 80)} twice. Give one of the two.")
            renamed[feature] = IMAGES + _camera_name(old, new)
        elif feature is not None:
            raise DatasetError(
                f"{printable(old, 80)} is a component and a camera of {info.root}: write --rename {IMAGES}{old}=NEW "
                "for the camera."
            )
        else:
            raise DatasetError(
                f"--rename {printable(f'{old}={new}', 120)}: the dataset in {info.root} has no such component or "
                f"camera. {_parts(info, {vector.name: vector for vector in vectors})}"
            )
    cameras = {name: renamed.get(name, name) for name in features if name in renamed or name.startswith(IMAGES)}
    if not cameras:
        hint = f" Give --rename {features[0]}=NAME." if features else " Record it with a camera."
        raise DatasetError(f"The dataset in {info.root} has no camera {IMAGES}NAME.{hint}")
    others = set(info.features) - set(cameras)
    for name in cameras.values():
        if (same := [old for old, new in cameras.items() if new == name])[1:] or name in others:
            raise DatasetError(
                f"{printable(' and '.join(same), 200)} would both be the camera {name.removeprefix(IMAGES)}. Give "
                "--rename OLD=NEW with another name for one of them."
            )
    return cameras, components


def _component(info: DatasetInfo, old: str, new: str) -> str:
    name = new.removesuffix(_SUFFIX)
    if name not in ACTION_NAMES:
        raise DatasetError(
            f"--rename {printable(f'{old}={new}', 120)}: this arm's components are {', '.join(ACTION_NAMES)}."
        )
    return name


def _camera_name(old: str, new: str) -> str:
    name = new.removeprefix(IMAGES)
    if not _CAMERA.fullmatch(name):
        raise DatasetError(
            f"--rename {printable(f'{old}={new}', 120)}: a camera's name has letters, digits, _ and -, such as wrist."
        )
    return name


def _columns(info: DatasetInfo, feature: Feature, renames: Mapping[str, str], units: Units) -> tuple[int, ...]:
    if feature.names is None:
        if feature.size == len(ACTION_NAMES) and units != "auto":
            return tuple(range(feature.size))
        raise DatasetError(
            f"The {feature.size} components of {feature.name} in {info.root} have no names in meta/info.json. "
            + (
                f"If they are {', '.join(ACTION_NAMES)}, in this order, give --units degrees or --units rad."
                if feature.size == len(ACTION_NAMES)
                else f"This arm has {len(ACTION_NAMES)}: {', '.join(ACTION_NAMES)}. Write the names into it."
            )
        )
    found: dict[str, list[int]] = {name: [] for name in ACTION_NAMES}
    for column, name in enumerate(feature.names):
        new = renames.get(name, name.removesuffix(_SUFFIX))
        if new in found:
            found[new].append(column)
    missing = [name for name, columns in found.items() if not columns]
    if missing:
        left = [name for i, name in enumerate(feature.names) if not any(i in columns for columns in found.values())]
        example = f"{left[0] if left else 'OLD'}={missing[0]}"
        raise DatasetError(
            f"{feature.name} in {info.root} has the components {printable(', '.join(feature.names), 200)}, and "
            f"{', '.join(missing)} of this arm {'is' if len(missing) == 1 else 'are'} missing. Name them, for "
            f"instance with --rename {printable(example, 100)}."
        )
    for name, columns in found.items():
        if len(columns) > 1:
            same = " and ".join(feature.names[column] for column in columns)
            raise DatasetError(
                f"{printable(same, 200)} of {feature.name} in {info.root} would both be {name}. Give --rename OLD=NEW "
                "with different names."
            )
    return tuple(columns[0] for columns in found.values())


def _parts(info: DatasetInfo, vectors: Mapping[str, Feature]) -> str:
    """Return a sentence that names the components and cameras of a dataset."""
    parts = [
        f"{name}: {printable(', '.join(vector.names or ['without names']), 200)}" for name, vector in vectors.items()
    ]
    return f"It has {'; '.join(parts)}; cameras: {printable(', '.join(info.cameras) or 'none', 200)}."


def parse_renames(texts: Sequence[str]) -> dict[str, str]:
    """Return new names by old ones from options of the form ``OLD=NEW``.

    Raises:
        DatasetError: An option has another form, or an old name is there twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        old, equals, new = text.partition("=")
        if not (old and equals and new) or "=" in new:
            raise DatasetError(f"--rename {printable(text, 120)!r} is not of the form OLD=NEW, such as front=wrist.")
        if pairs.get(old, new) != new:
            raise DatasetError(f"--rename gives {printable(old, 80)} two new names. Give one of the two.")
        pairs[old] = new
    return pairs
