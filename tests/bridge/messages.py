"""Messages that the tests send."""

from smolvla_gym.parol6 import JOINT_NAMES
from smolvla_gym.telemetry import ros_messages as ros


def trajectory(*points, names=JOINT_NAMES):
    """A ``trajectory_msgs/JointTrajectory`` of times in s and positions."""
    unused = {"velocities": [], "accelerations": [], "effort": []}
    return {
        "header": ros.header(0.0),
        "joint_names": list(names),
        "points": [
            {"positions": list(p), "time_from_start": {"sec": int(t), "nanosec": int(t % 1 * 1e9)}, **unused}
            for t, p in points
        ],
    }
