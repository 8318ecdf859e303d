"""Page in the browser. To the bridge that runs the arm it is a transport like ROS 2: its buttons send messages."""

from __future__ import annotations

import json
import re
import threading
from typing import Any, Final

import gymnasium as gym
import numpy as np

from smolvla_gym.errors import MissingExtraError
from smolvla_gym.integrations.bridge.transport import Transport
from smolvla_gym.integrations.ros_messages import Message, quaternion
from smolvla_gym.integrations.scene_pose import ScenePose
from smolvla_gym.parol6 import NUM_JOINTS
from smolvla_gym.sim.shapes import Shape
from smolvla_gym.utils.untrusted import printable

try:
    from smolvla_gym.integrations.viewer.guard import MAX_TEXT, Guard
    from smolvla_gym.integrations.viewer.meshes import triangles
    from smolvla_gym.integrations.viewer.server import HOST, start_server, uuid_of
except ImportError as _err:
    raise MissingExtraError("The page in the browser", "view", _err) from _err

_IMAGE_EVERY: Final = 3
"""Control steps from one image on the page to the next: at 10 Hz also a browser over a slow network keeps up."""

_EVENTS: Final = 6
"""Latest events that the page shows."""

_MAX_SHOWN: Final = 300
"""Characters of a foreign text that the page shows."""

_CAMERA_POSITION: Final = (0.75, -0.55, 0.45)
_CAMERA_TARGET: Final = (0.15, 0.0, 0.1)


class Page(Transport):
    """A page on this machine with the arm in 3D, its cameras, an instruction to type, and buttons."""

    name = "page"

    def __init__(
        self, env: gym.Env[Any, Any], port: int = 8080, *, can_start: bool = True, guard: Guard | None = None
    ) -> None:
        """Open the page, on the loopback alone.

        Args:
            env: A ``PAROL6Env``; the thread that publishes reads it.
            port: TCP port; 0 takes any.
            can_start: Whether there is a policy to start.
            guard: Guard of its connections; None: a new one.

        Raises:
            DeviceError: The page cannot be served, or the installed viser cannot be guarded.
        """
        self._guard = Guard() if guard is None else guard
        # At most one message of a kind waits: repeated messages of a client take no memory and no time.
        self._received: dict[str, Message] = {}
        self._lock = threading.Lock()
        self._instruction = ""
        self._scene_pose = ScenePose(env)
        self._stroke = float(env.unwrapped.gripper.stroke)  # type: ignore[attr-defined]
        self._frames: dict[str, Any] = {}
        self._meshes: dict[str, Any] = {}
        self._images: dict[str, tuple[Any, int]] = {}
        self._events: list[str] = []
        self._server = start_server(port, self._guard)
        try:
            self._draw_scene()
            self._make_controls(can_start)
        except BaseException:
            self._server.stop()
            raise

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self._server.get_port()}"

    def advertise(self, topic: str, datatype: str, depth: int = 1) -> None:
        """Add an image for a camera's topic; other topics have their place on the page."""
        if datatype == "sensor_msgs/Image":
            camera = topic.split("/")[2]
            black = np.zeros((64, 64, 3), np.uint8)
            self._images[topic] = self._server.gui.add_image(black, label=camera, format="jpeg"), 0

    def subscribe(self, topic: str, datatype: str) -> None:
        """Do nothing: the page has its buttons already."""

    def publish(self, topic: str, message: Message) -> None:
        """Show a message on the page."""
        if topic == "/joint_states":
            self._show_pose(message["position"])
        elif topic == "/status":
            self._show_status(json.loads(message["data"]))
        elif topic == "/events":
            self._show_event(json.loads(message["data"]))
        elif topic in self._images:
            image, count = self._images[topic]
            if count % _IMAGE_EVERY == 0:
                pixels = np.frombuffer(message["data"], np.uint8).reshape(message["height"], message["width"], 3)
                image.image = pixels
            self._images[topic] = image, count + 1

    def receive(self) -> list[tuple[str, Message]]:
        """Return the messages of the buttons that were pressed, the emergency stop first."""
        with self._lock:
            received, self._received = self._received, {}
        return sorted(received.items(), key=lambda message: message[0] != "/estop")

    def close(self) -> None:
        """Close the page."""
        self._server.stop()

    # -- scene and controls ----------------------------------------------------------------------------------------

    def _draw_scene(self) -> None:
        scene = self._server.scene
        scene.set_up_direction("+z")
        self._server.initial_camera.position = _CAMERA_POSITION
        self._server.initial_camera.look_at = _CAMERA_TARGET
        for number, shape in enumerate(self._scene_pose.shapes):
            if shape.body not in self._frames:
                self._frames[shape.body] = scene.add_frame(f"/{shape.body}", show_axes=False)
            vertices, faces = triangles(shape)
            x, y, z, w = quaternion(shape.rotation)
            self._meshes[shape.name] = scene.add_mesh_simple(
                f"/{shape.body}/{number}", vertices, faces, color=_rgb(shape), flat_shading=shape.kind == "box",
                wxyz=(w, x, y, z), position=tuple(shape.position.tolist()),
                opacity=float(shape.color[3]) if shape.color[3] < 1 else None,
            )  # fmt: skip

    def _make_controls(self, can_start: bool) -> None:
        gui = self._server.gui
        gui.configure_theme(control_width="large", show_logo=False, show_share_button=False)
        gui.main_panel.dock_right()
        estop = gui.add_button("EMERGENCY STOP", color="red", hint="Stops the arm at once, until the fault is cleared")
        self._status = gui.add_markdown("…")
        text = gui.add_text("instruction", "", hint="Task in plain language; empty: the instruction of the scene")
        start = gui.add_button("Start", color="green", disabled=not can_start)
        stop = gui.add_button("Stop", color="orange")
        anew, clear = gui.add_button("New scene"), gui.add_button("Clear fault")
        self._log = gui.add_markdown("")
        # A client can do nothing else. Of these, viser receives only the text.
        self._guard.allow_button(uuid_of(estop), lambda: self._put("/estop", {"data": True}), urgent=True)
        self._guard.allow_button(uuid_of(stop), lambda: self._put("/stop", {}), urgent=True)
        self._guard.allow_text(uuid_of(text), self._take_instruction)
        self._guard.allow_button(uuid_of(anew), lambda: self._put("/reset", {}))
        self._guard.allow_button(uuid_of(clear), lambda: self._put("/clear_fault", {}))
        if can_start:
            self._guard.allow_button(uuid_of(start), self._press_start)

    def _take_instruction(self, text: str) -> bool:
        self._instruction = text
        return len(text) <= MAX_TEXT

    def _press_start(self) -> None:
        text = self._instruction.strip()
        if len(text) > MAX_TEXT:  # not cut: a part may be another instruction
            why = f"the instruction has {len(text)} characters; at most {MAX_TEXT} are expected: shorten it"
            self._show_event({"event": "refused", "topic": "/start", "why": why})
            return
        if text:
            self._put("/instruction", {"data": text})
        self._put("/start", {})

    def _put(self, topic: str, message: Message) -> None:
        with self._lock:
            self._received[topic] = message

    # -- updates ---------------------------------------------------------------------------------------------------

    def _show_pose(self, positions: list[float]) -> None:
        opening = positions[NUM_JOINTS] / self._stroke
        poses = self._scene_pose.poses(np.array([*positions[:NUM_JOINTS], opening]))
        with self._server.atomic():
            for name, frame in self._frames.items():
                position, rotation = poses[name]
                x, y, z, w = quaternion(rotation)
                frame.position, frame.wxyz = tuple(position.tolist()), (w, x, y, z)

    def _show_status(self, status: dict[str, Any]) -> None:
        fault = f"**FAULT {literal_markdown(status['fault'])}**" if status["fault"] else ""
        success = "succeeded" if status["is_success"] else ""
        safety = literal_markdown(", ".join(status["safety"]))
        parts = [
            f"**{literal_markdown(status['mode'])}**",
            f"“{literal_markdown(status['instruction'])}”",
            success,
            fault,
            safety,
        ]
        text = "  \n".join(part for part in parts if part)
        if text != self._status.content:
            self._status.content = text

    def _show_event(self, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "ready":  # the objects of a new scene have colours of their own
            for shape in self._scene_pose.shapes:
                if self._meshes[shape.name].color != _rgb(shape):
                    self._meshes[shape.name].color = _rgb(shape)
        line = f"- {literal_markdown(kind)} {literal_markdown(' '.join(map(str, event.values())))}".rstrip()
        self._events = [*self._events, line][-_EVENTS:]
        self._log.content = "\n".join(self._events)


def literal_markdown(text: object) -> str:
    """Return a foreign text as Markdown that shows each character as it is: no links, images, HTML or code."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", printable(text, _MAX_SHOWN))


def _rgb(shape: Shape) -> tuple[int, int, int]:
    red, green, blue = (round(255 * float(c)) for c in shape.color[:3])
    return red, green, blue
