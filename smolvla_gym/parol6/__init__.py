"""The PAROL6: constants, kinematics, inverse kinematics and the serial protocol of its control board."""

from smolvla_gym.parol6.arm import (
    ACTION_NAMES,
    GEAR_RATIOS,
    GRIPPERS,
    HOME,
    JOINT_LOWER,
    JOINT_NAMES,
    JOINT_UPPER,
    MAX_ACCELERATION,
    MAX_JERK,
    MAX_SPEED,
    NUM_JOINTS,
    STALL_TORQUE,
    STANDBY,
    STEPS_PER_MOTOR_REVOLUTION,
    STEPS_PER_RAD,
    WRIST_TO_FLANGE,
    Array,
    Gripper,
    get_gripper,
    rad_from_steps,
    steps_from_rad,
)
from smolvla_gym.parol6.kinematics import forward_kinematics

__all__ = [
    "ACTION_NAMES", "GEAR_RATIOS", "GRIPPERS", "HOME", "JOINT_LOWER", "JOINT_NAMES", "JOINT_UPPER", "MAX_ACCELERATION",
    "MAX_JERK", "MAX_SPEED", "NUM_JOINTS", "STALL_TORQUE", "STANDBY", "STEPS_PER_MOTOR_REVOLUTION", "STEPS_PER_RAD",
    "WRIST_TO_FLANGE", "Array", "Gripper", "forward_kinematics", "get_gripper", "rad_from_steps", "steps_from_rad",
]  # fmt: skip
