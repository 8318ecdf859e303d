"""What stands between an action and the arm: every setpoint that leaves here is finite and within all limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from smolvla_gym.errors import ActionError
from smolvla_gym.parol6 import ACTION_NAMES, JOINT_LOWER, JOINT_UPPER, MAX_ACCELERATION, MAX_SPEED, NUM_JOINTS, Array

SafetyEvent = dict[str, Any]
"""One intervention: ``rule`` (position, speed or acceleration), ``joint``, ``requested`` and ``allowed``.

Positions are in rad (the gripper: 0..1), speeds in rad/s, accelerations in rad/s^2.
"""

# Six joints are too few for numpy to pay: the gate runs in every control step and works on plain floats.
_LOWER = (*JOINT_LOWER.tolist(), 0.0)
_UPPER = (*JOINT_UPPER.tolist(), 1.0)
_ACCELERATION = tuple(MAX_ACCELERATION.tolist())
# Float32 actions at a limit round to either side of it; that is no event.
_TOLERANCE = 1e-5


def check_action(action: object, names: Sequence[str] = ACTION_NAMES) -> Array:
    """Returns an action as float64.

    Args:
        action: What the caller gave.
        names: What its components are called.

    Returns:
        The action, shape (n,).

    Raises:
        ActionError: It is no array of as many finite floating-point numbers as there are names.
    """
    shape = (len(names),)
    if not isinstance(action, np.ndarray):
        raise ActionError(f"An action is a numpy array of shape {shape}, float32; got {type(action).__name__}.")
    if action.shape != shape:
        raise ActionError(f"An action has shape {shape}: {', '.join(names)}; got {action.shape}.")
    if not np.issubdtype(action.dtype, np.floating):
        raise ActionError(f"An action is float32, not {action.dtype}; convert it with .astype('float32').")
    values = action.astype(np.float64)
    if not np.isfinite(values).all():
        bad = ", ".join(f"{names[i]}={values[i]}" for i in np.flatnonzero(~np.isfinite(values)))
        raise ActionError(f"An action has to be finite; got {bad}. The arm did not move.")
    return values


class SafetyGate:
    """Clamps, limits and refuses.

    Targets may jump; the setpoints that come out head straight for them in joint space, within the speed and
    acceleration limits counted from the last commanded setpoint, and come to rest there without passing it.
    """

    def __init__(self, dt: float, speed_scale: float = 1.0) -> None:
        """Prepares the gate.

        Args:
            dt: Time between two setpoints in s.
            speed_scale: Share of the speed limits that may be used, in (0, 1].
        """
        self._dt = dt
        self._max_speed = [speed_scale * speed for speed in MAX_SPEED.tolist()]
        self._position = [0.0] * NUM_JOINTS
        self._velocity = [0.0] * NUM_JOINTS

    def reset(self, position: Array) -> None:
        """Starts from a joint position in rad, shape (6,), at rest: the first setpoint is near the measured pose."""
        self._position = np.asarray(position, dtype=np.float64).tolist()
        self._velocity = [0.0] * NUM_JOINTS

    def filter(self, action: object) -> tuple[Array, tuple[SafetyEvent, ...]]:
        """Turns an action into the next setpoint.

        Args:
            action: Absolute joint targets in rad and gripper opening 0..1, shape (7,), any floating-point type.

        Returns:
            The setpoint at the end of this step, shape (7,), and what was changed and why.

        Raises:
            ActionError: As from :func:`check_action`; the gate's state is unchanged.
        """
        dt, events = self._dt, list[SafetyEvent]()
        requested: list[float] = check_action(action).tolist()
        target = [min(max(value, low), high) for value, low, high in zip(requested, _LOWER, _UPPER, strict=True)]
        for i, (value, allowed) in enumerate(zip(requested, target, strict=True)):
            if abs(value - allowed) > _TOLERANCE:
                events.append(_event("position", i, value, allowed))

        distance = [goal - position for goal, position in zip(target, self._position, strict=False)]
        wanted = [way / dt for way in distance]
        for i, (speed, limit) in enumerate(zip(wanted, self._max_speed, strict=True)):
            if abs(speed) > limit * (1.0 + _TOLERANCE):
                events.append(_event("speed", i, speed, limit if speed > 0.0 else -limit))
        share = _common_share(wanted, self._max_speed)
        cruise = [speed * share for speed in wanted]
        braking = [_braking_speed(abs(way), limit, dt) for way, limit in zip(distance, _ACCELERATION, strict=True)]
        share = _common_share(cruise, braking)
        for i, limit in enumerate(_ACCELERATION):
            before, speed = self._velocity[i], cruise[i] * share
            velocity = min(max(speed, before - limit * dt), before + limit * dt)
            # A joint that only keeps pace with a slower one is not told of; the slower one is.
            limited = abs(cruise[i]) > braking[i] or velocity != speed
            if limited and abs(cruise[i] - velocity) > _TOLERANCE * self._max_speed[i]:
                events.append(_event("acceleration", i, (cruise[i] - before) / dt, (velocity - before) / dt))
            position = min(max(self._position[i] + velocity * dt, _LOWER[i]), _UPPER[i])
            self._velocity[i] = (position - self._position[i]) / dt
            self._position[i] = position
        return np.array([*self._position, target[NUM_JOINTS]]), tuple(events)


def _event(rule: str, component: int, requested: float, allowed: float) -> SafetyEvent:
    return {"rule": rule, "joint": ACTION_NAMES[component], "requested": requested, "allowed": allowed}


def _braking_speed(distance: float, acceleration: float, dt: float) -> float:
    """Returns the highest speed in rad/s from which a joint can still come to rest within a distance in rad.

    In steps of ``a * dt`` a joint that brakes with all its acceleration has the speeds k + f, k - 1 + f, .., f and
    passes ``(k + 1) * f + k * (k + 1) / 2`` steps of ``a * dt^2``, for a whole k and f in 0..1.
    """
    step = (1.0 - 1e-6) * acceleration * dt  # what is left over makes up for rounding
    way = distance / (step * dt)
    k = math.floor((math.sqrt(8.0 * way + 1.0) - 1.0) / 2.0)
    return step * (k + (way - k * (k + 1.0) / 2.0) / (k + 1.0))


def _common_share(speeds: Sequence[float], ceilings: Sequence[float]) -> float:
    """Returns the factor that brings speeds below a ceiling, the same for all joints: they stay on a straight line."""
    share = 1.0
    for speed, ceiling in zip(speeds, ceilings, strict=True):
        if abs(speed) * share > ceiling:
            share = ceiling / abs(speed)
    return share
