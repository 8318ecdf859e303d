"""Errors of the virtual arm's joints, which its board does not know: what homing missed, and the gears' own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from smolvla_gym.parol6 import NUM_JOINTS, Array

_PERIODS: Final = (0.11, 0.047)
"""Periods in rad of a joint's angle in which the error of its gear repeats."""


@dataclass(frozen=True)
class JointError:
    """Errors of the joints.

    Attributes:
        homing: True minus reported angle of each joint in rad, shape (6,).
        gears: Largest error of a gear in rad, which changes with the angle of its joint.
        seed: Seed of the phases of the gears.
    """

    homing: tuple[float, ...] = (0.0,) * NUM_JOINTS
    gears: float = 0.0
    seed: int = 0

    def at(self, joints: Array) -> Array:
        """Return true minus reported angles in rad at reported angles in rad, shape (6,)."""
        phases = np.random.default_rng(self.seed).uniform(0.0, 2 * np.pi, (len(_PERIODS), NUM_JOINTS))
        waves = [np.sin(2 * np.pi * joints / period + phase) for period, phase in zip(_PERIODS, phases, strict=True)]
        error: Array = np.array(self.homing) + self.gears / len(_PERIODS) * np.sum(waves, axis=0)
        return error
