"""Episodes as an MCAP file of ROS 2 messages, which Foxglove, ``mcap`` and ``ros2 bag`` read without this project."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np

from smolvla_gym.episodes.observer import EpisodeObserver, Moment
from smolvla_gym.errors import MissingExtraError, RecordingError
from smolvla_gym.integrations import ros_messages as ros
from smolvla_gym.integrations.scene_pose import ScenePose
from smolvla_gym.parol6 import ACTION_NAMES

WORLD: Final = "world"
"""Frame at the bottom of the arm's base, x forward, z up."""

_GAP_S: Final = 1.0
"""Between one episode and the next."""


class McapLog(EpisodeObserver):
    """All episodes in one file.

    Topics: ``/joint_states`` and ``/joint_commands`` (joints in rad, ``gripper`` 0 to 1), ``/camera/<name>/image/
    compressed``, ``/camera/<name>/depth/compressed`` (PNG of 0.1 mm), ``/camera/<name>/camera_info``, ``/tf``,
    ``/instruction``, and as JSON in a ``std_msgs/String`` ``/status`` and ``/safety``.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens the file.

        Args:
            path: Where to, ending in ``.mcap``; what was there is replaced.

        Raises:
            MissingExtraError: The packages for it are not installed.
            RecordingError: The file cannot be written.
        """
        try:
            from mcap_ros2.writer import Writer
        except ImportError as error:
            raise MissingExtraError("MCAP", "mcap", error) from error
        self._path = Path(path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        except OSError as error:
            raise RecordingError(f"{self._path} cannot be written: {error.strerror or error}.") from error
        self._writer = Writer(self._file)
        self._schemas: dict[str, Any] = {}
        self._begin, self._now = time.time(), time.time()
        self._scene_pose: ScenePose | None = None
        self._failure: OSError | None = None
        self._finished = False

    def begin(self, env: gym.Env[Any, Any], seed: int, instruction: str) -> None:
        """Writes what is known of an episode beforehand."""
        self._begin = self._now + _GAP_S
        self._now = self._begin
        if self._scene_pose is None or not self._scene_pose.shows(env):
            self._scene_pose = ScenePose(env)
        self._text("/instruction", instruction)
        self._text("/status", json.dumps({"event": "begin", "seed": seed, "instruction": instruction}))

    def note(self, moment: Moment) -> None:
        """Writes a step."""
        scene_pose = self._scene_pose
        assert scene_pose is not None  # noqa: S101 - narrows a type
        self._now = now = self._begin + moment.time
        state = np.asarray(moment.observation["agent_pos"], np.float64)
        self._write("/joint_states", "sensor_msgs/JointState", ros.joint_state(now, ACTION_NAMES, state))
        if moment.action is not None:
            command = ros.joint_state(now, ACTION_NAMES, np.asarray(moment.action, np.float64))
            self._write("/joint_commands", "sensor_msgs/JointState", command)
        seen = now - float(moment.info.get("frame_age_s") or 0.0)
        for name, picture in moment.observation.get("pixels", {}).items():
            frame, topic = f"{name}_camera", f"/camera/{name}"
            image = ros.compressed_image(seen, frame, picture)
            self._write(f"{topic}/image/compressed", "sensor_msgs/CompressedImage", image)
            info = ros.camera_info(seen, frame, scene_pose.intrinsics(name, picture.shape[:2]))
            self._write(f"{topic}/camera_info", "sensor_msgs/CameraInfo", info)
        for name, depth in moment.observation.get("depth", {}).items():
            image = ros.compressed_depth(seen, f"{name}_camera", depth)
            self._write(f"/camera/{name}/depth/compressed", "sensor_msgs/CompressedImage", image)
        frames = scene_pose.frames(state)
        transforms = [ros.transform(now, WORLD, child, *pose) for child, pose in frames.items()]
        self._write("/tf", "tf2_msgs/TFMessage", {"transforms": transforms})
        status = {
            "planned_actions": len(moment.plan), "fault": moment.info.get("fault"),
            "frame_age_s": moment.info.get("frame_age_s"), "is_success": moment.info.get("is_success"),
            "shaping": moment.info.get("shaping", {}),
            **(moment.info.get("timing") or {}),
        }  # fmt: skip
        self._text("/status", json.dumps(status))
        for intervention in moment.info.get("safety", ()):
            self._text("/safety", json.dumps(intervention))

    def end(self, success: bool) -> None:
        """Writes how the episode ended."""
        self._text("/status", json.dumps({"event": "end", "success": success}))

    def close(self) -> None:
        """Finishes the file.

        Raises:
            RecordingError: It could not be written.
        """
        if self._finished:
            return
        self._finished = True
        try:
            with self._file:
                self._writer.finish()
        except OSError as error:
            self._failure = self._failure or error
        if self._failure is not None:
            raise RecordingError(f"{self._path} could not be written: {self._failure.strerror or self._failure}.")

    def _text(self, topic: str, text: str) -> None:
        self._write(topic, "std_msgs/String", {"data": text})

    def _write(self, topic: str, datatype: str, message: ros.Message) -> None:
        if self._failure is not None:
            return
        if datatype not in self._schemas:
            package, name = datatype.split("/")
            self._schemas[datatype] = self._writer.register_msgdef(f"{package}/msg/{name}", ros.definition(datatype))
        moment = round(self._now * 1e9)
        try:
            self._writer.write_message(topic, self._schemas[datatype], message, log_time=moment, publish_time=moment)
        except OSError as error:  # such as a full disk: the arm goes on, and the end tells of it
            self._failure = error
