"""Check the values of states and actions: not finite, beyond the limits, or in other units."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from smolvla_gym.data.checks.finding import Finding, Severity, finding
from smolvla_gym.data.rows import Rows
from smolvla_gym.data.spec import ACTION, STATE
from smolvla_gym.data.units import MAX_ANGLE, OPENING_RANGE
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER

_LIMIT_TOLERANCE = 1e-3
"""Tolerance of the limits of an action, in rad or gripper opening."""

_OTHER_UNIT = 30.0
"""Ratio from which on values are in different units: it is 57 for degrees and rad, 100 for percent and 0..1."""

_UNCLEAR = (Severity.WARNING, "check whether parts of the dataset are in degrees or percent, and convert them")
"""Kind of ``mixed_units`` where the components are unknown."""


def check_finite(rows: Rows) -> Iterator[Finding]:
    """Find NaN and infinity."""
    for name, values in rows.vectors.items():
        for episode, frame, part, count in rows.first(~np.isfinite(values)):
            value = values[rows.slices[episode]][frame, part]
            yield finding(
                "not_finite", f"{name} is {value} in {rows.component(name, part)} ({count} such values)", episode, frame
            )


def check_units(rows: Rows) -> Iterator[Finding]:
    """Find degrees, percent, and states, actions or episodes whose units differ from the others."""
    if rows.is_parol6:
        yield from _check_parol6_units(rows)
    else:
        yield from _check_same_units(rows)


def _check_parol6_units(rows: Rows) -> Iterator[Finding]:
    for name, values in rows.vectors.items():
        for quantity, unit, part, (low, high) in (
            ("joint angles", "degrees", values[:, :-1], (-MAX_ANGLE, MAX_ANGLE)),
            ("gripper openings", "percent or mm", values[:, -1:], OPENING_RANGE),
        ):
            episodes = np.unique(rows.episode_index[((part < low) | (part > high)).any(axis=1)])
            if not len(episodes):
                continue
            mixed = len(episodes) < len(rows.slices)
            yield finding(
                "mixed_units" if mixed else "units",
                f"{quantity} from {np.nanmin(part):.4g} to {np.nanmax(part):.4g} in {name}: they seem to be in {unit} "
                f"in {len(episodes)} of {len(rows.slices)} episodes",
                int(episodes[0]) if mixed else None,
            )


def _check_same_units(rows: Rows) -> Iterator[Finding]:
    if STATE in rows.vectors and ACTION in rows.vectors:
        names = {name: rows.info.features[name].names for name in (STATE, ACTION)}
        units = {name: rows.info.features[name].units for name in (STATE, ACTION)}
        if names[STATE] is not None and names[STATE] == names[ACTION]:
            if units[STATE] != units[ACTION]:
                yield finding("mixed_units", "info.json has different units of state and action", kind=_UNCLEAR)
            state, action = (np.nanmax(_finite(rows, name), axis=0) for name in (STATE, ACTION))
            small, large = np.minimum(state, action), np.maximum(state, action)
            other = np.flatnonzero((small > 0) & (large > _OTHER_UNIT * small) & (rows.ranges(STATE) > 0))
            if len(other):
                part = int(other[0])
                yield finding(
                    "mixed_units",
                    f"{rows.component(STATE, part)} goes up to {state[part]:.3g} in the state and to "
                    f"{action[part]:.3g} in the action",
                    kind=_UNCLEAR,
                )
    for name in rows.vectors:
        values = _finite(rows, name)
        scales = {episode: float(values[where].max(initial=0.0)) for episode, where in rows.slices.items()}
        moving = [scale for scale in scales.values() if scale > 0]
        if moving and max(moving) > _OTHER_UNIT * float(np.quantile(moving, 0.25, method="lower")):
            largest = max(scales, key=lambda episode: scales[episode])
            yield finding(
                "mixed_units",
                f"{name} goes up to {max(moving):.3g} in this episode and to {min(moving):.3g} in another one",
                largest,
                kind=_UNCLEAR,
            )


def _finite(rows: Rows, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    values = np.abs(rows.vectors[name])
    return np.where(np.isfinite(values), values, 0.0)


def check_limits(rows: Rows) -> Iterator[Finding]:
    """Find actions beyond the limits of this arm; the limits of other robots are unknown."""
    if not rows.is_parol6 or ACTION not in rows.vectors:
        return
    lower = np.append(JOINT_LOWER, 0.0) - _LIMIT_TOLERANCE
    upper = np.append(JOINT_UPPER, 1.0) + _LIMIT_TOLERANCE
    actions = rows.vectors[ACTION]
    for episode, frame, part, count in rows.first((actions < lower) | (actions > upper)):
        values = actions[rows.slices[episode]]
        if np.abs(values[:, :-1]).max() > MAX_ANGLE:
            continue  # another unit, which check_units reports
        yield finding(
            "action_limits",
            f"the action is {values[frame, part]:.4g} in {rows.component(ACTION, part)}, and its limits are "
            f"{lower[part] + _LIMIT_TOLERANCE:.4g} and {upper[part] - _LIMIT_TOLERANCE:.4g} ({count} such values)",
            episode,
            frame,
        )
