"""Publisher of the arm's state, camera images, status and events."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final

import gymnasium as gym
import numpy as np

from smolvla_gym.integrations import ros_messages as ros
from smolvla_gym.integrations.bridge.topics import JAWS, PUBLISHED
from smolvla_gym.integrations.bridge.transport import Transport
from smolvla_gym.integrations.scene_pose import ScenePose
from smolvla_gym.parol6 import JOINT_NAMES, NUM_JOINTS

_EVENTS_WAITING: Final = 100

_STATUS_EVERY: Final = 3
"""Steps from one ``/status`` to the next."""


class Publisher:
    """Publisher of an env's observations, status and events."""

    def __init__(self, env: gym.Env[Any, Any], transport: Transport, *, raw_images: bool = False) -> None:
        """Advertise all topics.

        Args:
            env: A ``PAROL6Env``.
            transport: Transport that carries the messages.
            raw_images: Whether images are also sent as ``sensor_msgs/Image``.
        """
        bare: Any = env.unwrapped
        self._transport, self._raw, self._backend = transport, raw_images, bare.backend
        self._period, self._stroke = 1.0 / float(bare.control_hz), float(bare.gripper.stroke)
        self._simulated = not env.metadata.get("realtime", False)
        self._scene_pose = ScenePose(env)
        self._cameras = tuple(env.observation_space["pixels"]) if "pixels" in env.observation_space.spaces else ()  # type: ignore[attr-defined, index]
        self._began = time.time()
        for topic, datatype in PUBLISHED.items():
            transport.advertise(topic, datatype, depth=_EVENTS_WAITING if topic == "/events" else 1)
        for camera in self._cameras:
            transport.advertise(f"/camera/{camera}/image/compressed", "sensor_msgs/CompressedImage")
            transport.advertise(f"/camera/{camera}/camera_info", "sensor_msgs/CameraInfo")
            if raw_images:
                transport.advertise(f"/camera/{camera}/image", "sensor_msgs/Image")
        if self._simulated:
            transport.advertise("/clock", "rosgraph_msgs/Clock")

    def begin(self) -> None:
        """Start simulated time at the present time of the clock."""
        self._began = time.time()

    def event(self, kind: str, **details: object) -> None:
        """Send an event with details that JSON can carry."""
        self._transport.publish("/events", {"data": json.dumps({"event": kind, **details})})

    def publish(
        self, steps: int, observation: Mapping[str, Any], info: Mapping[str, Any], *, mode: str, fault: str | None,
        instruction: str,
    ) -> None:  # fmt: skip
        """Publish the result of a step.

        Args:
            steps: Number of control steps since the beginning.
            observation: Observation of the last step.
            info: Info of the last step.
            mode: Mode of the bridge, such as ``"policy"``.
            fault: Fault that holds the arm, or None. During a fault there are no steps, and no old images are sent.
            instruction: Present instruction.
        """
        send, now = self._transport.publish, self.now(steps)
        state = np.asarray(observation["agent_pos"], np.float64)
        if fault is not None:
            state = np.append(self._backend.commanded, state[NUM_JOINTS])
        if self._simulated:
            send("/clock", {"clock": ros.header(now)["stamp"]})
        jaw = float(state[NUM_JOINTS]) * self._stroke
        send("/joint_states", ros.joint_state(now, (*JOINT_NAMES, *JAWS), [*state[:NUM_JOINTS], jaw, jaw]))
        frames = self._scene_pose.frames(state)
        published = ("base", "tool", *(f"{camera}_camera" for camera in self._cameras))
        transforms = [ros.transform(now, "world", name, *frames[name]) for name in published if name in frames]
        send("/tf", {"transforms": transforms})
        if fault is None:
            self._publish_images(now - float(info.get("frame_age_s") or 0.0), observation.get("pixels", {}))
        if steps % _STATUS_EVERY == 0 or fault is not None:
            status = {
                "mode": mode, "fault": fault, "instruction": instruction, "is_success": bool(info["is_success"]),
                "opening": float(state[NUM_JOINTS]),
                "safety": sorted({str(intervention["rule"]) for intervention in info["safety"]}),
                "shaping": info["shaping"],
            }  # fmt: skip
            send("/status", {"data": json.dumps(status)})

    def _publish_images(self, seen: float, images: Mapping[str, Any]) -> None:
        send = self._transport.publish
        for camera, image in images.items():
            frame, topic = f"{camera}_camera", f"/camera/{camera}"
            send(f"{topic}/image/compressed", ros.compressed_image(seen, frame, image))
            if self._raw:
                send(f"{topic}/image", ros.image(seen, frame, image))
            intrinsics = self._scene_pose.intrinsics(camera, image.shape[:2])
            if intrinsics is not None:
                send(f"{topic}/camera_info", ros.camera_info(seen, frame, intrinsics))

    def now(self, steps: int) -> float:
        """Return the time stamp of messages in s: simulated time, which started at the clock's, or the clock's."""
        return self._began + steps * self._period if self._simulated else time.time()
