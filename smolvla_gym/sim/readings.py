"""Readings of the arm's sensors, and a copy of a world's state."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.parol6 import Array
from smolvla_gym.sim.rendering import Image


@dataclass
class Observed:
    """Readings of the arm's sensors at one moment.

    Attributes:
        agent_pos: Six joint angles in rad and the gripper's opening 0..1, float32, shape (7,).
        pixels: Image of each camera, uint8, shape (H, W, 3).
        depth: Depth image of each camera in units of 0.1 mm, uint16, shape (H, W, 1); empty without depth.
    """

    agent_pos: NDArray[np.float32]
    pixels: dict[str, Image] = field(default_factory=dict)
    depth: dict[str, NDArray[np.uint16]] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """Copy of a world's state, without its model (see ``sim.randomization.read_appearance``).

    Attributes:
        physics: MuJoCo's state for integration.
        motors: Latest targets of the motors in rad, one for each physics step of a setpoint's period, shape (n, 6).
        zero_error: True minus reported joint angles in rad, shape (6,).
        jaw_target: Last target of the jaws' travel in m.
    """

    physics: Array
    motors: Array
    zero_error: Array
    jaw_target: float
