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

from smolvla_gym.drivers.scheduling import give_way
from smolvla_gym.sim.randomization import write_looks
from smolvla_gym.sim.rendering import Quality
from smolvla_gym.twin.faults import Faults
from smolvla_gym.twin.shared_frame import Canvas
from smolvla_gym.twin.twin import Twin
from smolvla_gym.twin.virtual_realsense import Noise, camera_size

_LOOK: Final = 1.0
"""How often in s to look whether the program that started this is there; a fork of it may hold the pipe open."""


def main(descriptors: Sequence[int]) -> None:
    """Runs a twin until the program that started it hangs up.

    Args:
        descriptors: Of the pipe for control, and of a pipe and a canvas for each camera.
    """
    control, parent = Connection(descriptors[0]), os.getppid()
    number, _, (options, cameras, quality, noise) = control.recv()
    twin = Twin(**{**options, "faults": Faults(**options["faults"])})
    try:
        artists = [
            _Artist(twin, name, quality, Noise(noise, seed), Connection(pipe), Canvas(camera_size(name), canvas))
            for seed, (name, pipe, canvas) in enumerate(zip(cameras, descriptors[1::2], descriptors[2::2], strict=True))
        ]
        for artist in artists:
            artist.start()
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
                answer = _answer(twin, artists, what, arguments)
    finally:
        twin.close()


def _answer(twin: Twin, artists: Sequence[_Artist], what: str, arguments: Any) -> Any:
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
                write_looks(twin.world.model, looks)
                twin.world.restore(snapshot)
                twin.world.settle()
                return None
            case "reseed":
                (seed,) = arguments
                for number, artist in enumerate(artists):
                    artist.noise.reseed(seed + number)
                return None
    raise ValueError(what)


class _Artist(threading.Thread):
    """Draws what a camera sees when it is asked to; the OpenGL context belongs to this thread.

    Attributes:
        noise: Of the camera.
    """

    def __init__(
        self, twin: Twin, camera: str, quality: Quality, noise: Noise, pipe: Connection, canvas: Canvas
    ) -> None:
        super().__init__(name=f"camera {camera}", daemon=True)
        self.noise = noise
        self._eye, self._pipe, self._canvas = twin.eye(camera, quality), pipe, canvas

    def run(self) -> None:
        give_way()
        try:
            while True:
                try:
                    colour, depth = self._pipe.recv()
                except (EOFError, ConnectionResetError):
                    return
                pixels, distance = self._eye.look(colour, depth)
                self._canvas.pixels[:] = self.noise.added(pixels)
                if distance is not None:
                    self._canvas.distance[:] = distance
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self._pipe.send_bytes(b"drawn")
        finally:
            self._pipe.close()
            self._eye.close()
