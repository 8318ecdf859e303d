"""The motion law of the control board: how a commanded joint angle becomes a moving one."""

from __future__ import annotations

from functools import cache

import numpy as np

from smolvla_gym.parol6 import NUM_JOINTS, STEPS_PER_RAD, Array

GAIN = 50.0
"""Loop gain in 1/s: in its move mode the firmware runs at half of (distance left / 10 ms), a first order of 20 ms."""

FEED_FORWARD = 0.5
"""Share of the commanded speed that the firmware adds: v = ((target - position) / 10 ms + commanded speed) / 2."""

SPEED_CAP = 50000 / STEPS_PER_RAD
"""The firmware's own speed cap in rad/s, shape (6,): 50,000 microsteps/s."""


@cache
def _coefficients(steps: int, dt: float) -> tuple[Array, Array, Array, float, Array]:
    """Returns what depends on the time step alone.

    With a constant target the law is linear: this is its exact solution over dt, not an Euler step, and the sum of all
    steps: ``path = decay * position + weights @ targets``.
    """
    blend = 1.0 - float(np.exp(-GAIN * dt))
    powers: Array = np.power(1.0 - blend, np.arange(steps + 1), dtype=np.float64)
    n = np.arange(steps)
    weights = blend * np.tril(powers[np.abs(n[:, None] - n)])
    return (n[:, None] + 1.0) / steps, powers[1:, None], weights, blend, SPEED_CAP * dt


class MotionLaw:
    """The six step counters of the board in its move mode.

    Joints are independent, there is no acceleration limit: whoever commands has to keep the targets smooth.

    Attributes:
        position: The step counters in rad, shape (6,). They are commanded positions; the arm has no encoders.
    """

    def __init__(self) -> None:
        self.position: Array = np.zeros(NUM_JOINTS)

    def reset(self, position: Array) -> None:
        """Sets the counters in rad, shape (6,), at rest."""
        self.position = np.array(position, dtype=np.float64)

    def trajectory(self, start: Array, end: Array, steps: int, dt: float) -> Array:
        """Moves along targets that go straight from one setpoint to the next, and returns the way.

        Args:
            start: Setpoint at the beginning in rad, shape (6,).
            end: Setpoint at the end in rad, shape (6,).
            steps: Number of physics steps between them.
            dt: Duration of one of them in s.

        Returns:
            The counters after each step in rad, shape (steps, 6).
        """
        shares, decay, weights, blend, cap = _coefficients(steps, dt)
        way = end - start
        lead = way * (FEED_FORWARD / (steps * dt * GAIN))
        aims = start + lead + way * shares
        position = self.position
        path: Array
        # The counters stay between where they are and where they are sent: is any of it farther than one capped step?
        corners = np.array([position, start + lead, end + lead])
        if (blend * (corners.max(axis=0) - corners.min(axis=0)) <= cap).all():
            path = decay * position + weights @ aims
            position = path[-1].copy()
        else:
            path = np.empty((steps, NUM_JOINTS))
            for i, aim in enumerate(aims):
                position = position + np.minimum(np.maximum(blend * (aim - position), -cap), cap)
                path[i] = position
        self.position = position
        return path
