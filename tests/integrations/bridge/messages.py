"""Messages that the tests send."""

from smolvla_gym.integrations import ros_messages as ros
from smolvla_gym.parol6 import JOINT_NAMES


def trajectory(*points, names=JOINT_NAMES, stamp=0.0):
    """A ``trajectory_msgs/JointTrajectory`` of times in s and positions; its stamp is in s."""
    unused = {"velocities": [], "accelerations": [], "effort": []}
    return {
        "header": ros.header(stamp),
        "joint_names": list(names),
        "points": [
            {"positions": list(p), "time_from_start": {"sec": int(t), "nanosec": int(t % 1 * 1e9)}, **unused}
            for t, p in points
        ],
    }
