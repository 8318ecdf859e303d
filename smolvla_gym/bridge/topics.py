"""The topics, by the types that ROS 2 knows, and the joints that their messages name."""

from __future__ import annotations

from typing import Final

JAWS: Final = ("jaw_left", "jaw_right")
"""The gripper's joints in the URDF: what each jaw has travelled from closed, in m."""

GRIPPER: Final = "gripper"
"""In commands also the opening, 0 to 1."""

PUBLISHED: Final = {
    "/joint_states": "sensor_msgs/JointState",
    "/tf": "tf2_msgs/TFMessage",
    "/status": "std_msgs/String",
    "/events": "std_msgs/String",
}
"""What is sent always; pictures by camera and, in the simulation, ``/clock`` come to it."""

TAKEN: Final = {
    "/joint_commands": "sensor_msgs/JointState",
    "/joint_trajectory": "trajectory_msgs/JointTrajectory",
    "/instruction": "std_msgs/String",
    "/start": "std_msgs/Empty",
    "/stop": "std_msgs/Empty",
    "/estop": "std_msgs/Bool",
    "/clear_fault": "std_msgs/Empty",
    "/reset": "std_msgs/Empty",
}
"""What is listened to."""

STARTS: Final = ("/start", "/reset", "/clear_fault", "/joint_commands", "/joint_trajectory")
"""What may move the arm, and does not count where somebody stops at the same time."""
