"""What stands between an action and the arm: every setpoint that leaves here is finite and within all limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import ActionError
from smolvla_gym.parol6 import ACTION_NAMES, JOINT_LOWER, JOINT_UPPER, MAX_ACCELERATION, MAX_SPEED, NUM_JOINTS, Array

SafetyEvent = dict[str, Any]
"""One intervention: ``rule`` (position, speed or acceleration), ``joint``, ``requested`` and ``allowed``.

Positions are in rad (the gripper: 0..1), speeds in rad/s, accelerations in rad/s^2.
"""

_LOWER = np.append(JOINT_LOWER, 0.0)
_UPPER = np.append(JOINT_UPPER, 1.0)
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
        self._max_speed = MAX_SPEED * speed_scale
        self._position: Array = np.zeros(NUM_JOINTS)
        self._velocity: Array = np.zeros(NUM_JOINTS)

    def reset(self, position: Array) -> None:
        """Starts from a joint position in rad, shape (6,), at rest: the first setpoint is near the measured pose."""
        self._position = np.array(position, dtype=np.float64)
        self._velocity = np.zeros(NUM_JOINTS)

    def filter(self, action: object) -> tuple[Array, tuple[SafetyEvent, ...]]:
        """Turns an action into the next setpoint.

        Args:
            action: Absolute joint targets in rad and gripper opening 0..1, shape (7,), any floating-point type.

        Returns:
            The setpoint at the end of this step, shape (7,), and what was changed and why.

        Raises:
            ActionError: As from :func:`check_action`; the gate's state is unchanged.
        """
        requested = check_action(action)
        target = np.minimum(np.maximum(requested, _LOWER), _UPPER)
        events: list[SafetyEvent] = []
        if np.any(np.abs(target - requested) > _TOLERANCE):
            self._report(events, "position", requested, target)

        goal = target[:NUM_JOINTS]
        distance = goal - self._position
        wanted = distance / self._dt
        if np.any(np.abs(wanted) > self._max_speed * (1.0 + _TOLERANCE)):
            self._report(events, "speed", wanted, np.copysign(np.minimum(np.abs(wanted), self._max_speed), wanted))
        cruise = wanted * _common_share(wanted, self._max_speed)
        braking = self._braking(np.abs(distance))
        step = MAX_ACCELERATION * self._dt
        speed = cruise * _common_share(cruise, braking)
        velocity = np.minimum(np.maximum(speed, self._velocity - step), self._velocity + step)
        # A joint that only keeps pace with a slower one is not told of; the slower one is.
        limited = (np.abs(cruise) > braking) | (velocity != speed)
        change = np.where(limited, cruise - velocity, 0.0)
        if np.any(np.abs(change) > _TOLERANCE * self._max_speed):
            acceleration = (velocity - self._velocity) / self._dt
            self._report(events, "acceleration", acceleration + change / self._dt, acceleration)

        position = np.minimum(np.maximum(self._position + velocity * self._dt, JOINT_LOWER), JOINT_UPPER)
        self._velocity = (position - self._position) / self._dt
        self._position = position
        return np.append(position, target[NUM_JOINTS]), tuple(events)

    def _braking(self, distance: Array) -> Array:
        """Returns the highest speeds in rad/s from which the joints can still come to rest within distances in rad.

        In steps of ``a * dt`` a joint that brakes with all its acceleration has the speeds k + f, k - 1 + f, .., f and
        passes ``(k + 1) * f + k * (k + 1) / 2`` steps of ``a * dt^2``, for a whole k and f in 0..1.
        """
        step = (1.0 - 1e-6) * MAX_ACCELERATION * self._dt  # what is left over makes up for rounding
        way = distance / (step * self._dt)
        k = np.floor((np.sqrt(8.0 * way + 1.0) - 1.0) / 2.0)
        return np.asarray(step * (k + (way - k * (k + 1.0) / 2.0) / (k + 1.0)))

    @staticmethod
    def _report(events: list[SafetyEvent], rule: str, requested: NDArray[Any], allowed: NDArray[Any]) -> None:
        for i in np.flatnonzero(np.abs(requested - allowed) > _TOLERANCE):
            events.append(
                {"rule": rule, "joint": ACTION_NAMES[i], "requested": float(requested[i]), "allowed": float(allowed[i])}
            )


def _common_share(wanted: Array, ceiling: Array) -> float:
    """Returns the factor that brings speeds below a ceiling, the same for all joints: they stay on a straight line."""
    # A joint that is there wants nothing and may have a ceiling of nothing.
    return 1.0 / max(1.0, float((np.abs(wanted) / np.maximum(ceiling, 1e-300)).max()))
