"""What runs in the process of a :class:`smolvla_gym.twin.process.TwinProcess`: the twin, and what draws its pictures.

Each message is a number, what is asked for and its arguments, and the answer the number and a value. The first one says
what to set up.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

from smolvla_gym.drivers.scheduling import request_background_scheduling
from smolvla_gym.sim.randomization import write_appearance
from smolvla_gym.sim.rendering import Quality
from smolvla_gym.twin.faults import Faults
from smolvla_gym.twin.shared_frame import SharedFrame
from smolvla_gym.twin.twin import Twin
from smolvla_gym.twin.virtual_realsense import Noise, camera_size

_LOOK: Final = 1.0
"""How often in s to look whether the program that started this is there; a fork of it may hold the pipe open."""


def main(descriptors: Sequence[int]) -> None:
    """Runs a twin until the program that started it hangs up.

    Args:
        descriptors: Of the pipe for control, and of a pipe and a shared frame for each camera.
    """
    control, parent = Connection(descriptors[0]), os.getppid()
    number, _, (options, cameras, quality, noise) = control.recv()
    twin = Twin(**{**options, "faults": Faults(**options["faults"])})
    try:
        render_workers = [
            _RenderWorker(
                twin, name, quality, Noise(noise, seed), Connection(pipe), SharedFrame(camera_size(name), shared_frame)
            )
            for seed, (name, pipe, shared_frame) in enumerate(
                zip(cameras, descriptors[1::2], descriptors[2::2], strict=True)
            )
        ]
        for render_worker in render_workers:
            render_worker.start()
        twin.board.start()
        answer: Any = twin.port
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:
                control.send((number, answer))
                while not control.poll(_LOOK):
                    if os.getppid() != parent:
                        return
                try:
                    number, what, arguments = control.recv()
                except (EOFError, ConnectionResetError):
                    return
                if what == "end":
                    return
                answer = _answer(twin, render_workers, what, arguments)
    finally:
        twin.close()


def _answer(twin: Twin, render_workers: Sequence[_RenderWorker], what: str, arguments: Any) -> Any:
    with twin.lock:
        match what:
            case "see":
                twin.board.service()
                return twin.world.snapshot()
            case "board":
                return {"disabled": twin.disabled, "command": int(twin.command), "homed": twin.homed}
            case "fail":
                (switches,) = arguments
                for name, value in switches.items():
                    if value or name != "lost_homing":  # that one goes off by itself
                        setattr(twin.faults, name, value)
                return None
            case "clear":
                twin.clear_table()
                twin.world.settle()  # time goes on until the table is laid
                return twin.world.snapshot()
            case "lay":
                snapshot, looks = arguments
                write_appearance(twin.world.model, looks)
                twin.world.restore(snapshot)
                twin.world.settle()
                return None
            case "reseed":
                (seed,) = arguments
                for number, render_worker in enumerate(render_workers):
                    render_worker.noise.reseed(seed + number)
                return None
    raise ValueError(what)


class _RenderWorker(threading.Thread):
    """Draws what a camera sees when it is asked to; the OpenGL context belongs to this thread.

    Attributes:
        noise: Of the camera.
    """

    def __init__(
        self, twin: Twin, camera: str, quality: Quality, noise: Noise, pipe: Connection, shared_frame: SharedFrame
    ) -> None:
        super().__init__(name=f"camera {camera}", daemon=True)
        self.noise = noise
        self._eye, self._pipe, self._shared_frame = twin.eye(camera, quality), pipe, shared_frame

    def run(self) -> None:
        request_background_scheduling()
        try:
            while True:
                try:
                    colour, depth = self._pipe.recv()
                except (EOFError, ConnectionResetError):
                    return
                pixels, distance = self._eye.look(colour, depth)
                self._shared_frame.pixels[:] = self.noise.added(pixels)
                if distance is not None:
                    self._shared_frame.distance[:] = distance
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self._pipe.send_bytes(b"drawn")
        finally:
            self._pipe.close()
            self._eye.close()
