"""The page. To the bridge that runs the arm it is a middleware like ROS 2: buttons are messages."""

from __future__ import annotations

import json
import queue
from typing import Any, Final

import gymnasium as gym
import numpy as np

from smolvla_gym.bridge.transport import Transport
from smolvla_gym.errors import DeviceError, MissingExtraError
from smolvla_gym.parol6 import NUM_JOINTS
from smolvla_gym.sim.shapes import Shape
from smolvla_gym.telemetry.pose import Puppet
from smolvla_gym.telemetry.ros_messages import Message, quaternion

try:
    import viser

    from smolvla_gym.plugins.page.solids import triangles
except ImportError as err:
    raise MissingExtraError("The page", "view", err) from err

_PICTURE_EVERY: Final = 3
"""Steps from one picture on the page to the next: ten a second, and a browser far away keeps up."""

_EVENTS: Final = 6
"""Events that the page remembers."""

_EYE: Final = (0.75, -0.55, 0.45)
_TARGET: Final = (0.15, 0.0, 0.1)


class Page(Transport):
    """A page on this machine with the arm in 3D, its cameras, an instruction to type, and buttons."""

    name = "page"

    def __init__(self, env: gym.Env[Any, Any], port: int = 8080, *, can_start: bool = True) -> None:
        """Opens the page, on the loopback alone.

        Args:
            env: A ``PAROL6Env``; it is looked at from the thread that publishes.
            port: TCP port; the next free one where it is taken.
            can_start: Whether there is a policy to start.

        Raises:
            DeviceError: The page cannot be served.
        """
        try:
            self._server = viser.ViserServer(host="127.0.0.1", port=port, label="PAROL6", verbose=False)
        except OSError as error:
            raise DeviceError(f"The page cannot be served on port {port}: {error.strerror or error}.") from error
        self._came: queue.SimpleQueue[tuple[str, Message]] = queue.SimpleQueue()
        self._puppet = Puppet(env)
        self._stroke = float(env.unwrapped.gripper.stroke)  # type: ignore[attr-defined]
        self._frames: dict[str, Any] = {}
        self._meshes: dict[str, Any] = {}
        self._images: dict[str, tuple[Any, int]] = {}
        self._events: list[str] = []
        self._draw_scene()
        self._make_controls(can_start)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.get_port()}"

    def advertise(self, topic: str, datatype: str, depth: int = 1) -> None:
        """Makes room for a camera's pictures; the rest has its place."""
        if datatype == "sensor_msgs/Image":
            camera = topic.split("/")[2]
            black = np.zeros((64, 64, 3), np.uint8)
            self._images[topic] = self._server.gui.add_image(black, label=camera, format="jpeg"), 0

    def subscribe(self, topic: str, datatype: str) -> None:
        """Does nothing: the buttons are there."""

    def publish(self, topic: str, message: Message) -> None:
        """Shows what the arm tells."""
        if topic == "/joint_states":
            self._pose(message["position"])
        elif topic == "/status":
            self._show_status(json.loads(message["data"]))
        elif topic == "/events":
            self._show_event(json.loads(message["data"]))
        elif topic in self._images:
            image, count = self._images[topic]
            if count % _PICTURE_EVERY == 0:
                pixels = np.frombuffer(message["data"], np.uint8).reshape(message["height"], message["width"], 3)
                image.image = pixels
            self._images[topic] = image, count + 1

    def receive(self) -> list[tuple[str, Message]]:
        """Returns which buttons were pressed."""
        came = []
        while not self._came.empty():
            came.append(self._came.get())
        return came

    def close(self) -> None:
        """Closes the page."""
        self._server.stop()

    # -- what is there ---------------------------------------------------------------------------------------------

    def _draw_scene(self) -> None:
        scene = self._server.scene
        scene.set_up_direction("+z")
        self._server.initial_camera.position = _EYE
        self._server.initial_camera.look_at = _TARGET
        for number, shape in enumerate(self._puppet.shapes):
            if shape.body not in self._frames:
                self._frames[shape.body] = scene.add_frame(f"/{shape.body}", show_axes=False)
            vertices, faces = triangles(shape)
            x, y, z, w = quaternion(shape.rotation)
            self._meshes[shape.name] = scene.add_mesh_simple(
                f"/{shape.body}/{number}", vertices, faces, color=_bytes(shape), flat_shading=shape.kind == "box",
                wxyz=(w, x, y, z), position=tuple(shape.position.tolist()),
                opacity=float(shape.color[3]) if shape.color[3] < 1 else None,
            )  # fmt: skip

    def _make_controls(self, can_start: bool) -> None:
        gui = self._server.gui
        gui.configure_theme(control_layout="fixed", control_width="large", show_logo=False, show_share_button=False)
        estop = gui.add_button("EMERGENCY STOP", color="red", hint="Stops the arm at once, until the fault is cleared")
        estop.on_click(lambda event: self._came.put(("/estop", {"data": True})))
        self._status = gui.add_markdown("…")
        self._text = gui.add_text("instruction", "", hint="What to do, in words; empty: what the scene asks for")
        start = gui.add_button("Start", color="green", disabled=not can_start)
        stop = gui.add_button("Stop", color="orange")
        anew, clear = gui.add_button("New scene"), gui.add_button("Clear fault")
        start.on_click(lambda event: self._press("/start"))
        stop.on_click(lambda event: self._press("/stop"))
        anew.on_click(lambda event: self._press("/reset"))
        clear.on_click(lambda event: self._press("/clear_fault"))
        self._log = gui.add_markdown("")

    def _press(self, topic: str) -> None:
        if topic == "/start" and self._text.value.strip():
            self._came.put(("/instruction", {"data": self._text.value.strip()}))
        self._came.put((topic, {}))

    # -- what changes ----------------------------------------------------------------------------------------------

    def _pose(self, positions: list[float]) -> None:
        opening = positions[NUM_JOINTS] / self._stroke
        poses = self._puppet.poses(np.array([*positions[:NUM_JOINTS], opening]))
        with self._server.atomic():
            for body, frame in self._frames.items():
                position, rotation = poses[body]
                x, y, z, w = quaternion(rotation)
                frame.position, frame.wxyz = tuple(position.tolist()), (w, x, y, z)

    def _show_status(self, status: dict[str, Any]) -> None:
        fault = f"**FAULT {status['fault']}**" if status["fault"] else ""
        solved = "solved" if status["is_success"] else ""
        parts = [f"**{status['mode']}**", f"“{status['instruction']}”", solved, fault, ", ".join(status["safety"])]
        text = "  \n".join(part for part in parts if part)
        if text != self._status.content:
            self._status.content = text

    def _show_event(self, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "ready":  # the objects of a new scene have colours of their own
            for shape in self._puppet.shapes:
                if self._meshes[shape.name].color != _bytes(shape):
                    self._meshes[shape.name].color = _bytes(shape)
        self._events = [*self._events, f"- {kind} {' '.join(map(str, event.values()))}".rstrip()][-_EVENTS:]
        self._log.content = "\n".join(self._events)


def _bytes(shape: Shape) -> tuple[int, int, int]:
    red, green, blue = (round(255 * float(c)) for c in shape.color[:3])
    return red, green, blue
