"""Check the normalisation of a checkpoint: missing statistics, other units, and spreads near zero.

LeRobot does not normalise values without statistics, divides by any deviation, and does not check units.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.checkpoint.configuration import ACTION, IMAGES, STATE
from smolvla_gym.agent.checkpoint.spec import CheckpointSpec, PipelineStep, find_step
from smolvla_gym.errors import PolicyMismatchError
from smolvla_gym.parol6 import ACTION_NAMES, NUM_JOINTS

ACTION_WIDTH: Final = len(ACTION_NAMES)
"""Width of an action and of ``agent_pos``."""

_SAVE_AGAIN: Final = (
    "Save it again with make_pre_post_processors(config, dataset_stats=<statistics of the training data>), "
    "or take the checkpoint that lerobot-train wrote."
)

FINE_TUNE: Final = (
    "Fine-tune it on data recorded with this arm (7 components: six joint angles in rad, gripper opening 0..1), "
    "for example with lerobot-train --policy.path=<checkpoint>."
)

_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "IDENTITY": (),
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}
"""Statistics that each mode of normalisation uses."""

_LOCATIONS: Final = ("mean", "min", "max", "q01", "q10", "q50", "q90", "q99")
"""Statistics that have the unit and the range of the data."""

MIN_SPREAD: Final = 1e-3
"""Smallest allowed spread (a deviation, or the distance of two bounds): 1 mrad, or 0.1 % of the gripper's travel.
`record` and `train` write at least 0.01."""

_LARGEST_ANGLE: Final = 2 * np.pi + 0.1
"""Largest angle in rad: joint 6 turns up to a full turn."""

_OPENING: Final = (-1.0, 2.0)
"""Range of the gripper's statistics. Measured openings may lie slightly outside 0..1; percentages lie far outside."""

_MEAN_OPENING: Final = (-0.1, 1.1)
"""Range of the mean of the gripper's commands."""

_ORDER: Final = 1e-3
"""Tolerance of the order min <= mean <= max, for rounding."""


def check_normalization(spec: CheckpointSpec) -> None:
    """Refuse a checkpoint whose actions or observations would have the wrong unit or size.

    Raises:
        PolicyMismatchError: The first reason found.
    """
    before = find_step(spec.preprocessor, "normalizer_processor")
    after = find_step(spec.postprocessor, "unnormalizer_processor")
    _check_statistics(spec, before, STATE, "STATE")
    _check_statistics(spec, after, ACTION, "ACTION")
    for camera in spec.cameras:
        _check_statistics(spec, before, f"{IMAGES}{camera}", "VISUAL")
    for step, key in ((before, STATE), (before, ACTION), (after, ACTION)):
        if step is not None:
            _check_units(spec, step, key)


def _check_statistics(spec: CheckpointSpec, step: PipelineStep | None, key: str, kind: str) -> None:
    """Refuse a value that LeRobot would silently not normalise, or scale by a huge factor."""
    expected = spec.config["normalization_mapping"].get(kind, "IDENTITY")
    mode = step.config.get("norm_map", {}).get(kind, "IDENTITY") if step else "IDENTITY"
    if mode != expected:
        raise PolicyMismatchError(
            f"The policy in {spec.directory} was trained with {key} normalised by {expected}, and its saved processor "
            f"uses {mode if step else 'no normalisation'}. Its actions would have the wrong unit. "
            "Save the processors again with the statistics of the training data."
        )
    if mode == "IDENTITY" or step is None:
        return
    # The preprocessor normalises only what its feature list names; the postprocessor always takes the action.
    keys = step.config.get("normalize_observation_keys")
    listed = key == ACTION or (key in step.config.get("features", {}) and (keys is None or key in keys))
    missing = [name for name in _NEEDED[mode] if f"{key}.{name}" not in step.stats]
    if missing or not listed:
        lacking = f"{' and '.join(missing)} of {key}" if missing else f"the feature {key}"
        raise PolicyMismatchError(
            f"The policy in {spec.directory} has no normalisation statistics: {lacking} is missing from its saved "
            f"processor, and the policy's numbers would have no unit. {_SAVE_AGAIN}"
        )
    for name in _NEEDED[mode]:
        values = step.stats[f"{key}.{name}"]
        if values.dtype.kind != "f" or not np.isfinite(values).all():
            raise PolicyMismatchError(
                f"The policy in {spec.directory} has {name} of {key} that is not finite. {_SAVE_AGAIN}"
            )
        if kind != "VISUAL" and values.shape != (ACTION_WIDTH,):
            raise PolicyMismatchError(
                f"The policy in {spec.directory} has statistics of shape {values.shape} for {key}, and this arm has "
                f"{ACTION_WIDTH} components ({', '.join(ACTION_NAMES)}). {FINE_TUNE}"
            )
        if kind == "VISUAL" and values.shape not in ((3,), (3, 1, 1), (1, 3, 1, 1)):
            raise PolicyMismatchError(
                f"The policy in {spec.directory} has statistics of shape {values.shape} for {key}; expected one "
                f"number for each of three colours. {_SAVE_AGAIN}"
            )
        if kind == "VISUAL" and (values.min() < -0.01 or values.max() > 1.01):
            raise PolicyMismatchError(
                f"The policy in {spec.directory} has {name} of {key} up to {np.abs(values).max():.4g}; expected images "
                f"of 0..1. {_SAVE_AGAIN}"
            )
    _check_spread(spec, step, key, mode)


def _check_spread(spec: CheckpointSpec, step: PipelineStep, key: str, mode: str) -> None:
    """Refuse a spread that is zero, negative or near zero: LeRobot divides by it."""
    low, high = (step.stats[f"{key}.{name}"].astype(np.float64).ravel() for name in _NEEDED[mode])
    statistic = "std" if mode == "MEAN_STD" else " - ".join(reversed(_NEEDED[mode]))
    spread = high if mode == "MEAN_STD" else high - low
    worst = int(spread.argmin())
    if spread[worst] < MIN_SPREAD:
        name = f"component {worst} ({ACTION_NAMES[worst]})" if key in (STATE, ACTION) else f"colour {worst}"
        raise PolicyMismatchError(
            f"The policy in {spec.directory} has {statistic} {spread[worst]:.3g} for {name} of {key}; expected at "
            f"least {MIN_SPREAD}. It did not move in the training data, so a tiny motion would count as a huge one. "
            "Train with the statistics that smolvla-gym record and train write, where the deviation is at least 0.01."
        )


def _check_units(spec: CheckpointSpec, step: PipelineStep, key: str) -> None:
    """Refuse statistics that cannot be rad and opening: degrees, or the percentages of the SO-100."""
    found = {name: step.stats[f"{key}.{name}"] for name in _LOCATIONS if f"{key}.{name}" in step.stats}
    found = {name: v for name, v in found.items() if v.shape == (ACTION_WIDTH,) and np.isfinite(v).all()}
    for name, values in found.items():
        joints, gripper = np.abs(values[:NUM_JOINTS]).max(), float(values[NUM_JOINTS])
        low, high = _MEAN_OPENING if (key, name) == (ACTION, "mean") else _OPENING
        if joints > _LARGEST_ANGLE or not low <= gripper <= high:
            raise _unit_error(spec, key, name, values)
    deviation = step.stats.get(f"{key}.std")
    if deviation is not None and deviation.shape == (ACTION_WIDTH,):
        limits = np.array([_LARGEST_ANGLE] * NUM_JOINTS + [1.0])
        if (deviation > limits).any():
            raise _unit_error(spec, key, "std", deviation)
    order = [found[name] for name in ("min", "mean", "max") if name in found]
    if any((above < below - _ORDER).any() for below, above in itertools.pairwise(order)):
        raise PolicyMismatchError(
            f"The policy in {spec.directory} has statistics of {key} that contradict each other: expected "
            f"min <= mean <= max. {_SAVE_AGAIN}"
        )


def _unit_error(spec: CheckpointSpec, key: str, name: str, values: NDArray[Any]) -> PolicyMismatchError:
    return PolicyMismatchError(
        f"The policy in {spec.directory} was trained on {key} with the {name} {np.round(values, 2).tolist()}: these "
        f"are not six angles in rad and an opening of 0..1, but rather degrees or percent. {FINE_TUNE}"
    )
