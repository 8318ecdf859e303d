"""Check the motion of the arm: jumps, joints that do not follow their targets, and episodes without motion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.checks.finding import Finding, finding
from smolvla_gym.data.rows import Rows
from smolvla_gym.data.spec import ACTION, STATE
from smolvla_gym.parol6 import MAX_SPEED, NUM_JOINTS

_JUMP_RAD = 0.05
"""Tolerance in rad, added to the way at twice the top speed of a joint, of a step of a state within a frame."""

_SPIKE_RAD, _STEP_RAD = 0.35, 1.5
"""Tolerances in rad of actions, which are targets: of a spike, which returns within a few frames, and of a step."""

_SPIKE_FRAMES = 3

_JUMP_MEDIANS = 30.0
_JUMP_RANGE = 0.2
"""Limits of a step of another robot: as a multiple of the median step, and as a share of the component's range."""

_MOTION_RAD, _MOTION_OPENING = 0.02, 0.05
_MOTION_SHARE = 0.01
"""Smallest motion that counts: in rad, as gripper opening, or as a share of the range of another robot."""

_STUCK_S = 1.0
_STUCK_RAD = 0.15
_STUCK_SHARE = 0.1
"""Time in s at rest, and motion of the target meanwhile, from which on a joint is stuck."""

_STILL = 0.005
"""Motion of a joint at rest, as a share of the motion of its target."""


def check_jumps(rows: Rows) -> Iterator[Finding]:
    """Find steps between two frames that are too large for a motor, and targets that jump there and back."""
    for name, values in rows.vectors.items():
        steps, back = np.zeros_like(values), np.full_like(values, np.inf)
        for where in rows.slices.values():
            part = values[where]
            steps[where][1:] = np.abs(np.diff(part, axis=0))
            for later in range(1, _SPIKE_FRAMES + 1):
                distance = np.abs(part[1 + later :] - part[: max(len(part) - 1 - later, 0)])
                to = back[where][1 : 1 + len(distance)]
                np.minimum(to, distance, out=to)
        steps[~np.isfinite(steps)] = 0.0
        bounds, spikes = _jump_bounds(rows, name, steps)
        jumps = (steps > bounds) | ((steps > spikes) & (back < steps / 3))
        for episode, frame, component, count in rows.first(jumps):
            step = steps[rows.slices[episode]][frame, component]
            yield finding(
                "jump",
                f"{name} moves by {step:.3g} in {rows.component(name, component)} within one frame; up to "
                f"{spikes[component]:.3g} is expected ({count} such steps)",
                episode,
                frame,
            )


def _jump_bounds(rows: Rows, name: str, steps: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the largest accepted step of each component, and the largest accepted spike."""
    if rows.is_parol6:
        fastest = 2 * MAX_SPEED / rows.info.fps
        extra = (_JUMP_RAD, _JUMP_RAD) if name == STATE else (_STEP_RAD, _SPIKE_RAD)
        # Pneumatic grippers open within a frame.
        bounds, spikes = (np.append(fastest + rad, np.inf) for rad in extra)
        return bounds, spikes
    medians = np.array([float(np.median(part[part > 0])) if (part > 0).any() else np.inf for part in steps.T])
    both = np.asarray(np.maximum(_JUMP_MEDIANS * medians, _JUMP_RANGE * rows.ranges(name)), np.float64)
    return both, both


def check_motion(rows: Rows) -> Iterator[Finding]:
    """Find episodes without motion."""
    name = STATE if STATE in rows.vectors else ACTION
    if name not in rows.vectors:
        return
    least = smallest_motion(rows, name)
    for episode, where in rows.slices.items():
        moved = _range(rows.vectors[name][where])
        if (moved <= least).all():
            yield finding(
                "does_nothing",
                f"nothing moves in {where.stop - where.start} frames (at most {moved.max(initial=0.0):.3g} in {name})",
                episode,
            )


def smallest_motion(rows: Rows, name: str) -> NDArray[np.float64]:
    """Return the smallest motion of each component of a feature that counts, shape (components,)."""
    if rows.is_parol6:
        return np.append(np.full(NUM_JOINTS, _MOTION_RAD), _MOTION_OPENING)
    return _MOTION_SHARE * rows.ranges(name)


def check_stuck(rows: Rows) -> Iterator[Finding]:
    """Find joints that do not move while their targets do: a motor without power, or a broken encoder."""
    if STATE not in rows.vectors or ACTION not in rows.vectors:
        return
    states, actions = rows.vectors[STATE], rows.vectors[ACTION]
    if states.shape[1] != actions.shape[1]:
        return
    names = [rows.info.features[name].names for name in (STATE, ACTION)]
    if names[0] != names[1]:
        return  # state and action have different joints
    wanted = _STUCK_SHARE * rows.ranges(ACTION)
    parts = range(states.shape[1])
    if rows.is_parol6:
        wanted, parts = np.full(NUM_JOINTS, _STUCK_RAD), range(NUM_JOINTS)
    for episode, where in rows.slices.items():
        for part in parts:
            if run := _stuck_run(states[where, part], actions[where, part], float(wanted[part]), rows.info.fps):
                yield finding(
                    "stuck_joint",
                    f"{rows.component(STATE, part)} stands still for {(run.stop - run.start) / rows.info.fps:.2g} s "
                    f"while its target moves by {float(_range(actions[where][run, part : part + 1])[0]):.3g}",
                    episode,
                    run.start,
                )


def _stuck_run(state: NDArray[np.float64], action: NDArray[np.float64], wanted: float, fps: int) -> slice | None:
    """Return the first frames in which a joint stands still while its target moves; None: there are none."""
    if wanted <= 0 or not (np.isfinite(state).all() and np.isfinite(action).all()):
        return None
    return first_still(
        state[:, None], _STILL * wanted, round(_STUCK_S * fps), lambda run: bool(np.ptp(action[run]) > wanted)
    )


def first_still(
    values: NDArray[np.floating[Any]], tolerance: float, frames: int, accept: Callable[[slice], bool]
) -> slice | None:
    """Return the first frames in which values stay the same and that are accepted; None: there are none.

    Args:
        values: Values of the frames, shape (N, components).
        tolerance: Largest difference from the first of these frames.
        frames: Smallest number of these frames; in shorter episodes fewer, but not below 5.
        accept: Function that decides about the frames.
    """
    least = max(5, min(frames, len(values) - 1))
    start = 0
    while start + least <= len(values):
        away = np.flatnonzero(np.abs(values[start:] - values[start]).max(axis=1) > tolerance)
        stop = start + int(away[0]) if len(away) else len(values)
        if stop - start >= least and accept(slice(start, stop)):
            return slice(start, stop)
        start = max(start + 1, stop)
    return None


def _range(values: NDArray[np.float64]) -> NDArray[np.float64]:
    finite = np.where(np.isfinite(values), values, np.nanmedian(np.where(np.isfinite(values), values, 0.0)))
    return np.asarray(np.ptp(finite, axis=0) if len(finite) else np.zeros(values.shape[1]), np.float64)
