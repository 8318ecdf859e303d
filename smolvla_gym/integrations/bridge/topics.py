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

STOPS: Final = ("/stop", "/estop")
"""What is heard from every publisher, whatever it promises about delivery."""

FOLLOW: Final = "/joint_trajectory_controller/follow_joint_trajectory"
"""The action ``control_msgs/action/FollowJointTrajectory``, where the transport has actions (rclpy).

To the bridge an action is four topics: goals come on its name with ``goal_id`` beside the fields of the goal, and
requests to cancel on ``/cancel`` behind it; ``/feedback`` and ``/result`` go out, with ``goal_id`` too.
"""

STARTS: Final = ("/start", "/reset", "/clear_fault", "/joint_commands", "/joint_trajectory", FOLLOW)
"""What may move the arm, and does not count where somebody stops at the same time."""
