"""Episodes as an MCAP file of ROS 2 messages, which Foxglove, ``mcap`` and ``ros2 bag`` read without this project."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np

from smolvla_gym.episodes.callback import Callback, Step
from smolvla_gym.episodes.record import EpisodeRecord
from smolvla_gym.errors import RecordingError, needs_extra
from smolvla_gym.integrations import ros_messages as ros
from smolvla_gym.integrations.scene_pose import ScenePose
from smolvla_gym.parol6 import ACTION_NAMES

WORLD: Final = "world"
"""Frame at the bottom of the arm's base, x forward, z up."""

_GAP_S: Final = 1.0
"""Time in s between one episode and the next."""


class McapLog(Callback):
    """All episodes in one file.

    Topics: ``/joint_states`` and ``/joint_commands`` (joints in rad, ``gripper`` 0 to 1), ``/camera/<name>/image/
    compressed``, ``/camera/<name>/depth/compressed`` (PNG of 0.1 mm), ``/camera/<name>/camera_info``, ``/tf``,
    ``/instruction``, and as JSON in a ``std_msgs/String`` ``/status`` and ``/safety``.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the file.

        Args:
            path: Path of the file, ending in ``.mcap``; an older one is replaced.

        Raises:
            MissingExtraError: The packages for it are not installed.
            RecordingError: The file cannot be written.
        """
        with needs_extra("MCAP", "mcap"):
            from mcap_ros2.writer import Writer
        self._path = Path(path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        except OSError as error:
            raise RecordingError(f"{self._path} cannot be written: {error.strerror or error}.") from error
        self._writer = Writer(self._file)
        self._schemas: dict[str, Any] = {}
        self._begin_time, self._now = time.time(), time.time()
        self.scene_pose: ScenePose | None = None
        self._failure: OSError | None = None
        self._finished = False

    def begin(self, env: gym.Env[Any, Any], record: EpisodeRecord) -> None:
        """Write the instruction and the seed."""
        self._begin_time = self._now + _GAP_S
        self._now = self._begin_time
        if self.scene_pose is None or not self.scene_pose.shows(env):
            self.scene_pose = ScenePose(env)
        self._text("/instruction", record.instruction)
        begin = {"event": "begin", "seed": record.seed, "instruction": record.instruction}
        self._text("/status", json.dumps(begin))

    def step(self, record: EpisodeRecord, step: Step) -> None:
        """Write a step."""
        scene_pose = self.scene_pose
        assert scene_pose is not None  # noqa: S101 - narrows a type
        self._now = now = self._begin_time + step.time
        state = np.asarray(step.observation["agent_pos"], np.float64)
        self._write("/joint_states", "sensor_msgs/JointState", ros.joint_state(now, ACTION_NAMES, state))
        if step.action is not None:
            command = ros.joint_state(now, ACTION_NAMES, np.asarray(step.action, np.float64))
            self._write("/joint_commands", "sensor_msgs/JointState", command)
        seen = now - float(step.info.get("frame_age_s") or 0.0)
        for name, pixels in step.observation.get("pixels", {}).items():
            frame, topic = f"{name}_camera", f"/camera/{name}"
            image = ros.compressed_image(seen, frame, pixels)
            self._write(f"{topic}/image/compressed", "sensor_msgs/CompressedImage", image)
            if (intrinsics := scene_pose.intrinsics(name, pixels.shape[:2])) is not None:
                info = ros.camera_info(seen, frame, intrinsics)
                self._write(f"{topic}/camera_info", "sensor_msgs/CameraInfo", info)
        for name, depth in step.observation.get("depth", {}).items():
            image = ros.compressed_depth(seen, f"{name}_camera", depth)
            self._write(f"/camera/{name}/depth/compressed", "sensor_msgs/CompressedImage", image)
        frames = scene_pose.frames(state)
        transforms = [ros.transform(now, WORLD, child, *pose) for child, pose in frames.items()]
        self._write("/tf", "tf2_msgs/TFMessage", {"transforms": transforms})
        status = {
            "planned_actions": len(step.plan), "fault": step.info.get("fault"),
            "frame_age_s": step.info.get("frame_age_s"), "is_success": step.info.get("is_success"),
            "shaping": step.info.get("shaping", {}),
            **(step.info.get("timing") or {}),
        }  # fmt: skip
        self._text("/status", json.dumps(status))
        for intervention in step.info.get("safety", ()):
            self._text("/safety", json.dumps(intervention))

    def end(self, record: EpisodeRecord) -> None:
        """Write whether a complete episode was a success."""
        if record.end != "interrupted":
            self._text("/status", json.dumps({"event": "end", "success": record.success}))

    def close(self) -> None:
        """Finish the file.

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
        except OSError as error:  # such as a full disk: the arm goes on, and close() raises the error
            self._failure = error
