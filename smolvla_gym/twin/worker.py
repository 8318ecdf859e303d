"""The worker of a :class:`smolvla_gym.twin.process.TwinProcess`: the twin, and a render worker for each of its cameras.

The first request, ``begin``, says what to set up; its reply is the serial port.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from typing import Any, Final

from smolvla_gym.drivers.scheduling import request_background_scheduling
from smolvla_gym.ipc import Parent, Request, SharedFrame, pack_object, unpack_object
from smolvla_gym.sim.randomization import write_appearance
from smolvla_gym.twin.faults import Faults
from smolvla_gym.twin.twin import Twin
from smolvla_gym.twin.virtual_camera import Noise
from smolvla_gym.twin.virtual_realsense import camera_size

_JOIN: Final = 1.0
"""Time in s that the end waits for an image that is being rendered."""


def main(parent: Parent) -> int:
    """Run a twin until the parent has ended or closes the channel; return the exit status."""
    begin = next(parent.requests, None)
    if begin is None:
        return 0
    twin = Twin(**unpack_object(begin.arguments["scene"]), faults=Faults(**begin.arguments["faults"]))
    memory: dict[str, int] = begin.arguments["memory"]
    render_workers: dict[str, _RenderWorker] = {}
    try:
        for seed, (camera, descriptor) in enumerate(memory.items()):
            frame = SharedFrame(camera_size(camera), descriptor)
            noise = Noise(begin.arguments["noise"], seed)
            render_workers[camera] = _RenderWorker(twin, camera, noise, frame)
        for worker in render_workers.values():
            worker.start()
        twin.board.start()
        begin.reply(twin.port)
        for request in parent.requests:
            if request.do == "render":
                render_workers[request.arguments["camera"]].requests.put(request)
            else:
                request.reply(_perform(twin, render_workers, request.do, request.arguments))
    finally:
        for worker in render_workers.values():
            worker.requests.put(None)
        for worker in render_workers.values():
            worker.join(_JOIN)
        twin.close()
    return 0


def _perform(twin: Twin, render_workers: Mapping[str, _RenderWorker], do: str, arguments: Mapping[str, Any]) -> Any:
    with twin.lock:
        match do:
            case "snapshot":
                twin.board.service()
                return pack_object(twin.world.snapshot())
            case "board":
                return {"disabled": twin.disabled, "command": int(twin.command), "homed": twin.homed}
            case "faults":
                for name, value in arguments["switches"].items():
                    if value or name != "lost_homing":  # that one goes off by itself
                        setattr(twin.faults, name, value)
                return None
            case "clear":
                twin.clear_table()
                twin.world.settle()  # time goes on until the table is laid
                return pack_object(twin.world.snapshot())
            case "lay":
                snapshot, appearance = unpack_object(arguments["scene"])
                write_appearance(twin.world.model, appearance)
                twin.world.restore(snapshot)
                twin.world.settle()
                return None
            case "reseed":
                for number, render_worker in enumerate(render_workers.values()):
                    render_worker.noise.reseed(arguments["seed"] + number)
                return None
    raise ValueError(f"There is no request {do!r}.")


class _RenderWorker(threading.Thread):
    """Thread that renders what a camera sees on request, so that other requests need not wait.

    Attributes:
        noise: Of the camera.
        requests: What to render; None ends the thread.
    """

    def __init__(self, twin: Twin, camera: str, noise: Noise, frame: SharedFrame) -> None:
        super().__init__(name=f"camera {camera}", daemon=True)
        self.noise = noise
        self.requests = queue.SimpleQueue[Request | None]()
        self._renderer, self._frame = twin.snapshot_renderer(camera), frame

    def run(self) -> None:
        request_background_scheduling()
        try:
            while (request := self.requests.get()) is not None:
                pixels, distance = self._renderer.render()
                self._frame.pixels[:] = self.noise.added(pixels)
                if distance is not None:
                    self._frame.distance[:] = distance
                request.reply()
        finally:
            self._renderer.close()
