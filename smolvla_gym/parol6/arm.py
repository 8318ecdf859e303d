"""Constants of the PAROL6: joints, limits, gears, poses and grippers.

All joint angles are those of the control board: standard Denavit-Hartenberg angles, in rad, with the sign and the
zero that the serial protocol carries. The world frame sits at the bottom of the base, x forward, z up.
Sources: the manufacturer's documentation (kinematics, limits) and control software (speeds); if they disagree, the
safer figure is used and the other is stated beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smolvla_gym.errors import UnknownNameError

Array = NDArray[np.float64]


def _constant(values: ArrayLike) -> Array:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


NUM_JOINTS: Final = 6
JOINT_NAMES: Final = tuple(f"joint_{i}" for i in range(1, NUM_JOINTS + 1))
ACTION_NAMES: Final = (*JOINT_NAMES, "gripper")
"""Names of the seven components of an action and of ``agent_pos``."""

STEPS_PER_MOTOR_REVOLUTION: Final = 6400
"""1.8 degree steppers with 32 microsteps."""

GEAR_RATIOS: Final = _constant([6.4, 20.0, 20.0 * 38.0 / 42.0, 4.0, 4.0, 10.0])
"""Motor revolutions per joint revolution. Shape (6,)."""

STEPS_PER_RAD: Final = _constant(STEPS_PER_MOTOR_REVOLUTION * GEAR_RATIOS / (2 * np.pi))
"""Microsteps per rad at the joint. Shape (6,)."""

JOINT_LOWER: Final = _constant(np.deg2rad([-123.046875, -145.0088, 107.866, -105.46975, -90.0, 0.0]))
"""Soft lower limits in rad, shape (6,). The firmware's J2 figure is 0.08 deg wider; the documented one is safer."""

JOINT_UPPER: Final = _constant(np.deg2rad([123.046875, -3.375, 287.8675, 105.46975, 90.0, 360.0]))
"""Soft upper limits in rad, shape (6,)."""

MAX_SPEED: Final = _constant(np.array([6500, 18000, 20000, 10000, 10000, 22000]) / STEPS_PER_RAD)
"""Speed limits in rad/s, shape (6,): for each joint the lower of those in the manufacturer's two programs."""

MAX_ACCELERATION: Final = _constant(30000 / STEPS_PER_RAD)
"""Acceleration limits in rad/s^2, shape (6,): 30,000 microsteps/s^2, below both of the manufacturer's programs."""

MAX_JERK: Final = _constant(np.array([450000, 750000, 960000, 300000, 300000, 810000]) / STEPS_PER_RAD)
"""Jerk limits in rad/s^3, shape (6,): those of the manufacturer's planner, which accelerates faster."""

STALL_TORQUE: Final = _constant(np.array([0.65, 0.65, 0.45, 0.45, 0.45, 0.16]) * 0.85 * GEAR_RATIOS)
"""Upper bound of the torque at each joint in Nm, shape (6,): holding torque of the motors at the configured current."""

STANDBY: Final = _constant(np.deg2rad([0.0, -90.0, 180.0, 0.0, 0.0, 180.0]))
"""The documented standby pose in rad: upper arm upright, forearm level, facing +x. Shape (6,)."""

HOME: Final = _constant(np.array([10240, -32000, 57905, 0, 0, 32000]) / STEPS_PER_RAD)
"""Pose at the end of the board's homing, in rad: the standby pose with J1 at +90 deg. Shape (6,)."""

WRIST_TO_FLANGE: Final = 0.037
"""Distance from the wrist centre to the flange along the tool axis, in m."""


@dataclass(frozen=True)
class Gripper:
    """Gripper: its kinematics and its control.

    Attributes:
        name: The value of the env's ``gripper=`` option.
        dh_d: DH ``d`` of row 6 in m: minus the distance of the tool centre point from the wrist along the tool axis.
        dh_a: DH ``a`` of row 6 in m: the sideways offset of the tool centre point.
        approach: Unit vector of the fingers in the tool frame, shape (3,).
        stroke: Travel of one jaw in m.
        jaw_speed: Speed of one jaw in m/s.
        binary: True for an air gripper, which is open or closed; False for one that takes any opening.
    """

    name: str
    dh_d: float
    dh_a: float
    approach: tuple[float, float, float]
    stroke: float
    jaw_speed: float
    binary: bool


GRIPPERS: Final = {
    # 142 mm = 37 mm to the flange + 105 mm to the pinch point. Jaw speed: about half of the documented 0.184 m/s,
    # which the drive reaches only at a current that the manufacturer warns about.
    "ssg48": Gripper("ssg48", -0.142, 0.0, (0.0, 0.0, 1.0), stroke=0.024, jaw_speed=0.10, binary=False),
    # The stock air gripper in its vertical mount: its fingers point sideways, along -x of the tool frame.
    "pneumatic": Gripper("pneumatic", -0.0628, -0.04525, (-1.0, 0.0, 0.0), stroke=0.0035, jaw_speed=0.023, binary=True),
}


def get_gripper(name: str) -> Gripper:
    """Return a gripper by name.

    Raises:
        UnknownNameError: There is no gripper of this name.
    """
    if not isinstance(name, str) or name not in GRIPPERS:
        raise UnknownNameError("gripper", name, GRIPPERS)
    return GRIPPERS[name]


def steps_from_rad(joints: ArrayLike) -> NDArray[np.int64]:
    """Convert joint angles in rad, shape (6,), to microsteps of the protocol, rounded to the nearest."""
    return np.rint(np.asarray(joints, dtype=np.float64) * STEPS_PER_RAD).astype(np.int64)


def rad_from_steps(steps: ArrayLike) -> Array:
    """Convert microsteps, shape (6,), to joint angles in rad."""
    return np.asarray(steps, dtype=np.float64) / STEPS_PER_RAD
