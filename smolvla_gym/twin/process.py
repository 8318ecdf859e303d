"""The twin in a process of its own, as a real arm is on a table of its own.

In the same interpreter the board and the drawing of the cameras' pictures make a control loop late by milliseconds. The
program that steps keeps a copy of the scene, which it brings up to date whenever it judges or shows it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import DeviceError
from smolvla_gym.hardware.framing import Intrinsics
from smolvla_gym.hardware.scheduling import be_prompt, give_way
from smolvla_gym.parol6 import Array
from smolvla_gym.sim.randomization import read_looks, write_looks
from smolvla_gym.sim.rendering import QUALITIES, Image, Quality
from smolvla_gym.sim.scene import CUBE, OVERVIEW, ObjectKind
from smolvla_gym.sim.world import World
from smolvla_gym.twin.camera import Noise, VirtualBus, VirtualRealSense, camera_size, named_camera
from smolvla_gym.twin.eye import Eye
from smolvla_gym.twin.faults import NAMES, Faults
from smolvla_gym.twin.twin import OVERVIEW_SIZE, Twin, make_world

_START: Final = 60.0
"""How long the process may take to import what it needs and to set the arm up, in s."""

_ANSWER: Final = 5.0
"""How long any other answer may take in s; it is there within milliseconds."""

_MEMORY: Final = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where a file is memory and never written to a disk."""

_GRACE: Final = 5.0
"""How long the process may take to end in s before it is killed."""


class TwinProcess:
    """One virtual PAROL6 on its table, in real time; what it is made of is as in :class:`smolvla_gym.twin.twin.Twin`.

    The board, the physics and what draws run in the process, the cameras' side of librealsense here.

    Attributes:
        world: A copy of the scene, as it was when :meth:`present` last gave it.
        cameras: The cameras by name.
        bus: Where librealsense finds them.
        faults: What is to go wrong.
        lock: Held while the copy changes.
        overview: What people see of the scene.
    """

    def __init__(
        self,
        *,
        gripper: str = "ssg48",
        kind: ObjectKind = CUBE,
        goal: bool = False,
        cameras: Sequence[str] = (),
        depth: bool = False,
        quality: Quality = QUALITIES["fast"],
        homed: bool = False,
        noise: float = 1.0,
        faults: Faults | None = None,
    ) -> None:
        """Starts the process; see :class:`smolvla_gym.twin.twin.Twin` for the arguments.

        Raises:
            DeviceError: It could not be started.
        """
        self.faults = Faults() if faults is None else faults
        self.lock = threading.RLock()
        self.world = make_world(gripper, kind, goal=goal)
        self.overview = Eye(self.world, self.lock, OVERVIEW, QUALITIES["high"], OVERVIEW_SIZE, self._update)
        self._talk = threading.Lock()
        self._control, control = Pipe()
        pipes = {name: Pipe() for name in cameras}
        canvases = {name: _Canvas(camera_size(name)) for name in cameras}
        ends = [control.fileno()]
        for name, (_, far) in pipes.items():
            ends += [far.fileno(), canvases[name].descriptor]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *map(str, ends)],
            stdin=subprocess.DEVNULL,
            pass_fds=ends,
            start_new_session=True,  # the terminal's Ctrl-C is for the program that steps
        )
        for far in (control, *(far for _, far in pipes.values())):
            far.close()
        for canvas in canvases.values():
            os.close(canvas.descriptor)
        mine = [self._control, *(near for near, _ in pipes.values())]
        self._end = weakref.finalize(self, _end, self._process, mine)
        try:
            options = {"gripper": gripper, "kind": kind, "goal": goal, "homed": homed, "faults": self._switches()}
            self.port: str = self._ask(options, tuple(cameras), quality, noise, timeout=_START)
        except BaseException:
            self.close()
            raise
        self.faults.tell(self._pass_on)
        self.cameras: dict[str, VirtualRealSense] = {
            # The noise is in what arrives.
            name: named_camera(
                name, _Far(near, canvases[name]), depth=depth, noise=0.0, seed=0, faults=self.faults,
                on_start=be_prompt, on_stop=near.close,
            )
            for name, (near, _) in pipes.items()
        }  # fmt: skip
        self.bus = VirtualBus(list(self.cameras.values()))

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @contextmanager
    def present(self) -> Iterator[World]:
        """Gives the world as it is now, or as it was when the process ended; no time passes in it meanwhile."""
        with self.lock:
            with contextlib.suppress(DeviceError):  # the driver tells of an arm that is gone
                self._update()
            yield self.world

    @property
    def joints(self) -> Array:
        """Where the joints really are in rad, shape (6,): what no encoder tells."""
        with self.present() as world:
            return world.measured_joints

    @property
    def disabled(self) -> bool:
        """Whether the board ignores motion commands."""
        return bool(self._ask("board")["disabled"])

    @property
    def command(self) -> int:
        """The command that the board obeys."""
        return int(self._ask("board")["command"])

    @property
    def homed(self) -> bool:
        """Whether all joints know their angle."""
        return bool(self._ask("board")["homed"])

    # -- change ------------------------------------------------------------------------------------------------------

    def lay(self, arrange: Callable[[], object]) -> None:
        """Clears the table and has it laid anew.

        Args:
            arrange: Puts objects into :attr:`world`, and may change how its model looks.
        """
        with self.lock:
            self.world.restore(self._ask("clear"))
            arrange()
            self._ask("lay", self.world.snapshot(), read_looks(self.world.model))

    def start(self) -> None:
        """Lets the cameras deliver pictures."""
        for camera in self.cameras.values():
            camera.start()

    def reseed(self, seed: int) -> None:
        """Makes the cameras' noise depend on a seed alone."""
        self._ask("reseed", seed)

    def close(self) -> None:
        """Ends everything; doing it twice does no harm."""
        self.faults.tell(None)
        for camera in getattr(self, "cameras", {}).values():
            camera.stop()
        self._end()
        self.overview.close()
        self.world.close()

    # -- the process -------------------------------------------------------------------------------------------------

    def _update(self) -> None:
        self.world.restore(self._ask("see"))
        self.world.settle()

    def _pass_on(self) -> None:
        switches = self._switches()
        if self.faults.lost_homing:
            object.__setattr__(self.faults, "lost_homing", False)  # the process has taken it from here on
        with contextlib.suppress(DeviceError):  # an arm that is gone has no faults
            self._ask("fail", switches)

    def _switches(self) -> dict[str, Any]:
        return {name: getattr(self.faults, name) for name in (*NAMES, "seed")}

    def _ask(self, *message: Any, timeout: float = _ANSWER) -> Any:
        """Sends a message and returns the answer.

        Raises:
            DeviceError: The process has ended or does not answer.
        """
        with self._talk:
            try:
                self._control.send(message)
                if self._control.poll(timeout):
                    return self._control.recv()
            except (EOFError, OSError) as error:
                status = self._process.poll()
                raise DeviceError(
                    f"The process of the virtual arm has ended (exit status {status}). Make the env again."
                ) from error
            with contextlib.suppress(OSError):
                self._control.close()  # an answer that comes later would be taken for another one
        raise DeviceError(f"The process of the virtual arm has not answered for {timeout:g} s. Make the env again.")


class _Canvas:
    """Memory that both processes see, for one picture and its distances."""

    def __init__(self, size: tuple[int, int], descriptor: int | None = None) -> None:
        """Makes it, or opens one that the other process has made.

        Args:
            size: Height and width of the picture in px.
            descriptor: Of the one that was made.
        """
        count = size[0] * size[1]
        with contextlib.ExitStack() as stack:
            if descriptor is None:
                # Its name is gone at once; it lives as long as somebody has it open.
                descriptor = stack.enter_context(tempfile.TemporaryFile(dir=_MEMORY)).fileno()
                os.ftruncate(descriptor, 7 * count)
                descriptor = os.dup(descriptor)
            self.descriptor = descriptor
            memory = mmap.mmap(descriptor, 7 * count)
        self.pixels: Image = np.frombuffer(memory, np.uint8, 3 * count).reshape(*size, 3)
        self.distance = np.frombuffer(memory, np.float32, count, offset=3 * count).reshape(size)


class _Far:
    """Pictures that are drawn in the process."""

    def __init__(self, pipe: Connection, canvas: _Canvas) -> None:
        self._pipe, self._canvas = pipe, canvas
        self._talk = threading.Lock()

    def __call__(self, colour: Intrinsics, depth: Intrinsics | None) -> tuple[Image, NDArray[np.float32] | None]:
        with self._talk:
            try:
                self._pipe.send((colour, depth))
                if not self._pipe.poll(_ANSWER):
                    raise DeviceError(f"The process of the virtual arm has drawn nothing for {_ANSWER:g} s.")
                self._pipe.recv_bytes()
            except (EOFError, OSError) as error:
                raise DeviceError("The process of the virtual arm has ended.") from error
            return self._canvas.pixels.copy(), None if depth is None else self._canvas.distance.copy()


def _end(process: subprocess.Popen[bytes], pipes: Sequence[Connection]) -> None:
    for pipe in pipes:
        with contextlib.suppress(OSError):
            pipe.close()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# -- in the process ----------------------------------------------------------------------------------------------------


def main(descriptors: Sequence[int]) -> None:
    """Runs a twin until the program that started it hangs up.

    Args:
        descriptors: Of the pipe for control, and of a pipe and a canvas for each camera.
    """
    control = Connection(descriptors[0])
    try:
        options, cameras, quality, noise = control.recv()
    except EOFError:
        return
    twin = Twin(**{**options, "faults": Faults(**options["faults"])})
    try:
        artists = [
            _Artist(twin, name, quality, Noise(noise, number), Connection(pipe), _Canvas(camera_size(name), canvas))
            for number, (name, pipe, canvas) in enumerate(
                zip(cameras, descriptors[1::2], descriptors[2::2], strict=True)
            )
        ]
        for artist in artists:
            artist.start()
        twin.board.start()
        control.send(twin.port)
        with contextlib.suppress(EOFError, OSError):
            while True:
                control.send(_answer(twin, artists, *control.recv()))
        for artist in artists:
            artist.join(1.0)
    finally:
        twin.close()


class _Artist(threading.Thread):
    """Draws what a camera sees when it is asked to; the OpenGL context belongs to this thread."""

    def __init__(
        self, twin: Twin, camera: str, quality: Quality, noise: Noise, pipe: Connection, canvas: _Canvas
    ) -> None:
        super().__init__(name=f"camera {camera}", daemon=True)
        self.noise = noise
        self._eye, self._pipe, self._canvas = twin.eye(camera, quality), pipe, canvas

    def run(self) -> None:
        give_way()
        try:
            with contextlib.suppress(EOFError, OSError):
                while True:
                    pixels, distance = self._eye.look(*self._pipe.recv())
                    self._canvas.pixels[:] = self.noise.added(pixels)
                    if distance is not None:
                        self._canvas.distance[:] = distance
                    self._pipe.send_bytes(b"drawn")
        finally:
            self._eye.close()


def _answer(twin: Twin, artists: Sequence[_Artist], what: str, *arguments: Any) -> Any:
    with twin.lock:
        match what:
            case "see":
                twin.board.service()
                return twin.world.snapshot()
            case "board":
                return {"disabled": twin.disabled, "command": int(twin.command), "homed": twin.homed}
            case "fail":
                for name, value in arguments[0].items():
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
                for number, artist in enumerate(artists):
                    artist.noise.reseed(arguments[0] + number)
                return None
    raise ValueError(what)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main([int(argument) for argument in sys.argv[1:]])
