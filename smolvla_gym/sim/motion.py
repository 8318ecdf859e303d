"""The motion law of the control board: how a commanded joint angle becomes a moving one."""

from __future__ import annotations

import numpy as np

from smolvla_gym.parol6 import NUM_JOINTS, STEPS_PER_RAD, Array

GAIN = 50.0
"""Loop gain in 1/s: in its move mode the firmware runs at half of (distance left / 10 ms), a first order of 20 ms."""

FEED_FORWARD = 0.5
"""Share of the commanded speed that the firmware adds: v = ((target - position) / 10 ms + commanded speed) / 2."""

SPEED_CAP = 50000 / STEPS_PER_RAD
"""The firmware's own speed cap in rad/s, shape (6,): 50,000 microsteps/s."""


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
        feed_forward = FEED_FORWARD * (end - start) / (steps * dt)
        # With a constant target the law is linear: this is its exact solution over dt, not an Euler step.
        blend = 1.0 - np.exp(-GAIN * dt)
        lead = feed_forward / GAIN
        cap = SPEED_CAP * dt
        path = np.empty((steps, NUM_JOINTS))
        position = self.position
        for i in range(steps):
            target = start + (end - start) * ((i + 1) / steps)
            position = position + np.clip(blend * (target + lead - position), -cap, cap)
            path[i] = position
        self.position = position
        return path
