"""Units of joint angles and gripper openings in datasets: which values are plausible, and how units convert."""

from __future__ import annotations

from typing import Final

import numpy as np

from smolvla_gym.parol6 import NUM_JOINTS

DEGREES_AND_PERCENT: Final = np.append(np.full(NUM_JOINTS, 180.0 / np.pi), 100.0)
"""Factors from rad and an opening 0..1 to degrees and percent, shape (7,)."""

MAX_ANGLE: Final = 4 * np.pi
"""Largest absolute joint angle in rad that is plausible; larger values are in degrees. A joint turns 2 pi at most."""

OPENING_RANGE: Final = (-0.1, 1.1)
"""Range of plausible gripper openings: a measured opening may be a little beyond 0 and 1."""
