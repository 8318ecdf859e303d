"""Motion law of the control board, by which its step counters follow the commanded joint angles."""

from __future__ import annotations

from functools import cache

import numpy as np

from smolvla_gym.parol6 import NUM_JOINTS, STEPS_PER_RAD, Array

GAIN = 50.0
"""Loop gain in 1/s: in its move mode the firmware runs at half of (distance left / 10 ms), a lag of 20 ms."""

FEED_FORWARD = 0.5
"""Share of the commanded speed that the firmware adds: v = ((target - position) / 10 ms + commanded speed) / 2."""

STEP_RATE_CAP = 50_000.0
"""The firmware's own speed cap in microsteps/s."""

SPEED_CAP = STEP_RATE_CAP / STEPS_PER_RAD
"""The same in rad/s, shape (6,)."""


@cache
def _coefficients(steps: int, dt: float) -> tuple[Array, Array, float, Array]:
    """Return the coefficients, which depend on the time step alone.

    With a constant target the law is linear: this is its exact solution over dt, not an Euler step, and the sum of all
    steps: ``path = decay * position + weights @ aims``.
    """
    blend = 1.0 - float(np.exp(-GAIN * dt))
    powers: Array = np.power(1.0 - blend, np.arange(steps + 1), dtype=np.float64)
    n = np.arange(steps)
    weights = blend * np.tril(powers[np.abs(n[:, None] - n)])
    return powers[1:, None], weights, blend, SPEED_CAP * dt


def spring_aims(path: Array, window: int, lead: Array) -> Array:
    """Return the controls by which MuJoCo's position actuators follow their motors without a lag of their own.

    Their damping acts on the speed of the joint; these controls make it act on that relative to the motor. The springs
    are evaluated at the beginning of a step, so they need the motors' angles then. The speed is the mean over a period
    of the setpoints, within which that of the motors rises and falls by half of itself: a real arm does not follow
    that, and in the simulation it would shake objects out of the jaws.

    Args:
        path: Angles of the motors at the ends of the last ``window`` physics steps and of n to come in rad, shape
            (window + n, 6).
        window: Number of physics steps of a setpoint's period.
        lead: Damping divided by stiffness, in physics steps, shape (6,).

    Returns:
        Controls of the n physics steps in rad, shape (n, 6).
    """
    aims: Array = path[window - 1 : -1] + (path[window:] - path[:-window]) * (lead / window)
    return aims


class MotionLaw:
    """The six step counters of the board in its move mode.

    Joints are independent, and there is no acceleration limit: the caller keeps the targets smooth.

    Attributes:
        position: The step counters in rad, shape (6,). They are commanded positions; the arm has no encoders.
    """

    def __init__(self) -> None:
        self.position: Array = np.zeros(NUM_JOINTS)

    def reset(self, position: Array) -> None:
        """Set the counters in rad, shape (6,), at rest."""
        self.position = np.array(position, dtype=np.float64)

    def follow(self, targets: Array, speeds: Array, dt: float, hold: int = 1) -> Array:
        """Follow a sequence of move commands.

        Args:
            targets: Commanded joint angles in rad, shape (n, 6).
            speeds: Speeds in rad/s that are sent with them, shape (n, 6).
            dt: Duration of a step in s.
            hold: Number of steps for which each command is in force.

        Returns:
            The counters after each step in rad, shape (hold * n, 6).
        """
        decay, weights, blend, cap = _coefficients(hold * len(targets), dt)
        aims = np.repeat(targets + speeds * (FEED_FORWARD / GAIN), hold, axis=0)
        position = self.position
        path: Array
        # The counters stay between their present value and their targets: is any of that more than one capped step?
        low, high = np.minimum(position, aims.min(axis=0)), np.maximum(position, aims.max(axis=0))
        if (blend * (high - low) <= cap).all():
            path = decay * position + weights @ aims
            position = path[-1].copy()
        else:
            path = np.empty_like(aims)
            for i, aim in enumerate(aims):
                position = position + np.minimum(np.maximum(blend * (aim - position), -cap), cap)
                path[i] = position
        self.position = position
        return path
