"""Setpoint monitor: a check of each setpoint before it is sent, independent of the safety gate that made it."""

from __future__ import annotations

from typing import Final

import numpy as np

from smolvla_gym.parol6 import JOINT_LOWER, JOINT_NAMES, JOINT_UPPER, MAX_ACCELERATION, MAX_SPEED, Array

# The gate keeps the limits exactly; rounding and sampling of its curve add far less than these margins.
_SPEED: Final = 1.001 * MAX_SPEED
_ACCELERATION: Final = 1.05 * MAX_ACCELERATION
_ROUNDING: Final = 1e-9


class SetpointMonitor:
    """Check of the sequence of setpoints against the limits.

    Attributes:
        position: The last setpoint in rad, shape (6,).
        start: The first setpoint in rad, shape (6,).
    """

    def __init__(self) -> None:
        self.reset(np.zeros(len(JOINT_NAMES)))

    def reset(self, joints: Array) -> None:
        """Begin at rest at joint angles in rad, shape (6,)."""
        self.start: Array = joints
        self.position: Array = joints
        self._velocity: Array = np.zeros_like(joints)

    def rest(self) -> None:
        """Record that the board has come to rest at the last setpoint."""
        self._velocity = np.zeros_like(self.position)

    def take(self, position: Array, velocity: Array, dt: float) -> str | None:
        """Accept the next setpoint if it keeps all limits.

        Args:
            position: Joint angles in rad, shape (6,).
            velocity: Speeds in rad/s that are sent with it, shape (6,).
            dt: Time since the last setpoint in s.

        Returns:
            None, or the limit that it breaks; it must not be sent then.
        """
        speed: Array = (position - self.position) / dt
        acceleration: Array = (speed - self._velocity) / dt
        # These comparisons reject a NaN. An arm that was found outside its limits may come back but not go farther.
        low, high = np.minimum(JOINT_LOWER, self.position), np.maximum(JOINT_UPPER, self.position)
        kept = {
            "position": (position >= low - _ROUNDING) & (position <= high + _ROUNDING),
            "speed": (np.abs(speed) <= _SPEED) & (np.abs(velocity) <= _SPEED),
            "acceleration": np.abs(acceleration) <= _ACCELERATION,
        }
        for limit, good in kept.items():
            if not good.all():
                return f"the {limit} limit of {JOINT_NAMES[int(np.argmin(good))]}"
        self.position, self._velocity = position, speed
        return None

    def outside(self, joints: Array) -> Array:
        """Return the distance in rad of joints, shape (6,), beyond the limits or, if that is farther, the start."""
        low, high = np.minimum(JOINT_LOWER, self.start), np.maximum(JOINT_UPPER, self.start)
        beyond: Array = np.maximum(low - joints, joints - high)
        return beyond
