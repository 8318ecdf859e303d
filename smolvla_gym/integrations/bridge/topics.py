"""Topics of the bridge with their ROS 2 types, and names of the gripper's joints in messages."""

from __future__ import annotations

from typing import Final

JAWS: Final = ("jaw_left", "jaw_right")
"""Joints of the gripper in the URDF: travel of each jaw from closed, in m."""

GRIPPER: Final = "gripper"
"""Name of the gripper opening, 0 to 1, in commands."""

PUBLISHED: Final = {
    "/joint_states": "sensor_msgs/JointState",
    "/tf": "tf2_msgs/TFMessage",
    "/status": "std_msgs/String",
    "/events": "std_msgs/String",
}
"""Topics that are always published. Images of each camera and, in the simulation, ``/clock`` are published, too."""

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
"""Topics that the bridge subscribes to."""

STOPS: Final = ("/stop", "/estop")
"""Topics that are received from every publisher, whatever its reliability (QoS)."""

FOLLOW: Final = "/joint_trajectory_controller/follow_joint_trajectory"
"""The action ``control_msgs/action/FollowJointTrajectory``, where the transport has actions (rclpy).

To the bridge an action is four topics: goals come on its name with ``goal_id`` beside the fields of the goal, and
requests to cancel on ``/cancel`` behind it; ``/feedback`` and ``/result`` go out, with ``goal_id`` too.
"""

STARTS: Final = ("/start", "/reset", "/clear_fault", "/joint_commands", "/joint_trajectory", FOLLOW)
"""Topics that may move the arm; they are refused where a stop arrives at the same time."""
