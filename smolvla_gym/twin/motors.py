"""The six stepper motors of the virtual board, which counts the steps that it sends and has no encoders."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from smolvla_gym.parol6 import NUM_JOINTS, Array
from smolvla_gym.sim.motion import FEED_FORWARD, GAIN, STEP_RATE_CAP

_ARRIVED = 1e-6  # microsteps


class Motors:
    """Step counters, and the physical angles of the motors.

    The counters are 0 whenever the board is switched on, wherever the arm is; homing gives them a meaning. Between
    microsteps they are fractions, so that the motion does not depend on the length of the time steps.

    Attributes:
        counters: The board's step counters in microsteps, shape (6,).
        offset: Physical motor angle at counter 0 in microsteps, shape (6,). The board does not know it.
        speed: The speed that was last set, in microsteps/s, shape (6,); not measured.
    """

    def __init__(self, position: ArrayLike) -> None:
        """Switch the motors on at physical angles in microsteps, shape (6,)."""
        self.counters: Array = np.zeros(NUM_JOINTS)
        self.offset: Array = np.array(position, dtype=np.float64)
        self.speed: Array = np.zeros(NUM_JOINTS)

    @property
    def position(self) -> Array:
        """Return physical motor angles in microsteps, shape (6,)."""
        return self.counters + self.offset

    def set_speed(self, speed: ArrayLike) -> None:
        """Set speeds in microsteps/s, shape (6,), without a step."""
        self.speed = np.trunc(_clip(np.asarray(speed, dtype=np.float64), -STEP_RATE_CAP, STEP_RATE_CAP))

    def set_counter(self, joint: int, value: float) -> None:
        """Give a counter another value in microsteps; the motor stays where it is."""
        self.offset[joint] += self.counters[joint] - value
        self.counters[joint] = value

    def run(self, speed: ArrayLike, dt: float) -> None:
        """Turn at speeds in microsteps/s, shape (6,), for dt in s."""
        self.set_speed(speed)
        self.counters += self.speed * dt

    def pursue(self, target: ArrayLike, speed: ArrayLike, dt: float) -> None:
        """Move for dt in s under the law of the move command, solved exactly.

        Args:
            target: Counters to reach in microsteps, shape (6,).
            speed: Speeds that are fed forward in microsteps/s, shape (6,).
            dt: Duration in s.
        """
        aim = np.asarray(target, dtype=np.float64) + np.asarray(speed, dtype=np.float64) * (FEED_FORWARD / GAIN)
        gap = aim - self.counters
        # First at the cap, as long as the gap asks for more than that, then exponentially.
        capped = _clip((np.abs(gap) - STEP_RATE_CAP / GAIN) / STEP_RATE_CAP, 0.0, dt)
        gap -= np.sign(gap) * STEP_RATE_CAP * capped
        gap *= np.exp(-GAIN * (dt - capped))
        gap[np.abs(gap) < _ARRIVED] = 0.0
        self.counters = aim - gap
        self.set_speed(GAIN * gap)


def _clip(values: Array, low: float, high: float) -> Array:
    """Clip as ``numpy.clip`` in a fifth of its time, which matters hundreds of times a second."""
    clipped: Array = np.minimum(np.maximum(values, low), high)
    return clipped
