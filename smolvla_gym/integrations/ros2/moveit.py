"""Configuration of MoveIt's controllers: the action that executes its plans."""

from __future__ import annotations

from pathlib import Path

from smolvla_gym.integrations.bridge.topics import FOLLOW
from smolvla_gym.parol6 import JOINT_NAMES
from smolvla_gym.utils.json_file import save_text


def write_controllers(folder: str | Path) -> Path:
    """Write ``moveit_controllers.yaml``, which names the action that the bridge serves with rclpy.

    Names are relative: with ``--namespace`` MoveIt's ``move_group`` runs in the same namespace.

    Args:
        folder: Folder of the file; made if it is missing.

    Returns:
        The file.

    Raises:
        RecordingError: The file could not be written.
    """
    controller, action = FOLLOW.removeprefix("/").split("/")
    lines = [
        "# The action is served by `smolvla-gym ros2` where rclpy and control_msgs are installed.",
        "# With --namespace NAME run move_group in the namespace NAME, too.",
        "moveit_controller_manager: moveit_simple_controller_manager/MoveItSimpleControllerManager",
        "moveit_simple_controller_manager:",
        "  controller_names:",
        f"    - {controller}",
        f"  {controller}:",
        "    type: FollowJointTrajectory",
        f"    action_ns: {action}",
        "    default: true",
        "    joints:",
        *(f"      - {name}" for name in JOINT_NAMES),
    ]
    path = Path(folder) / "moveit_controllers.yaml"
    save_text(path, "\n".join(lines) + "\n", "file of MoveIt's controllers")
    return path
