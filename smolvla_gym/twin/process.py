"""The twin in a process of its own, as a real arm is on a table of its own.

In the same interpreter the board and the drawing of the cameras' pictures make a control loop late by milliseconds. The
program that steps keeps a copy of the scene, which it brings up to date whenever it judges or shows it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.drivers.scheduling import request_low_latency_scheduling
from smolvla_gym.errors import DeviceError
from smolvla_gym.parol6 import Array
from smolvla_gym.sim.randomization import read_appearance
from smolvla_gym.sim.rendering import QUALITIES, Image, Quality
from smolvla_gym.sim.scene import CUBE, OVERVIEW, ObjectKind
from smolvla_gym.sim.world import World
from smolvla_gym.twin.faults import NAMES, Faults
from smolvla_gym.twin.shared_frame import SharedFrame, make_memory
from smolvla_gym.twin.snapshot_renderer import SnapshotRenderer
from smolvla_gym.twin.twin import OVERVIEW_SIZE, make_world
from smolvla_gym.twin.virtual_realsense import VirtualBus, VirtualRealSense, camera_size, named_camera

_START: Final = 60.0
"""How long the process may take to import what it needs and to set the arm up, in s."""

_ANSWER: Final = 5.0
"""How long an answer may take in s; it is there within milliseconds."""

_SOON: Final = 0.5
"""The same for what a control loop waits for."""

_LOOK: Final = 0.02
"""How often in s to look whether a switch was turned."""

_GRACE: Final = 5.0
"""How long the process may take to end in s before it is killed."""

# Whatever this interpreter can import the other can, and a file in the current folder cannot get in between.
# What libraries print is no output of the program that started it.
_PROGRAM: Final = """\
import os, sys
os.dup2(2, 1)
sys.path.append(sys.argv[1])
from smolvla_gym.twin.worker import main
main([int(descriptor) for descriptor in sys.argv[2:]])
"""


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
        self.overview = SnapshotRenderer(
            self.world, self.lock, OVERVIEW, QUALITIES["high"], OVERVIEW_SIZE, self._update
        )
        self.cameras: dict[str, VirtualRealSense] = {}
        self._talk, self._numbers = threading.Lock(), itertools.count()
        self._closing, self._messenger = threading.Event(), threading.Thread(target=self._tell, daemon=True)
        self._control, control = Pipe()
        pipes = {name: Pipe() for name in cameras}
        memory: list[int] = []
        try:
            memory += [make_memory(camera_size(name)) for name in cameras]
            shared_frames = {
                name: SharedFrame(camera_size(name), part) for name, part in zip(cameras, memory, strict=True)
            }
            ends = [control.fileno()]
            for (_, far), part in zip(pipes.values(), memory, strict=True):
                ends += [far.fileno(), part]
            self._process = subprocess.Popen(  # noqa: S603 - this Python, no shell
                [sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parents[2]), *map(str, ends)],
                stdin=subprocess.DEVNULL,
                pass_fds=ends,
                start_new_session=True,  # the terminal's Ctrl-C is for the program that steps
            )
        except OSError as error:
            raise DeviceError(f"The process of the virtual arm could not be started: {error}.") from error
        finally:
            for far in (control, *(far for _, far in pipes.values())):
                far.close()
            for part in memory:
                os.close(part)
        near = [near for near, _ in pipes.values()]
        self._end = weakref.finalize(self, _end, self._process, self._control, near, os.getpid())
        try:
            self._told = self._switches()
            options = {"gripper": gripper, "kind": kind, "goal": goal, "homed": homed, "faults": self._told}
            self.port: str = self._ask("begin", options, tuple(cameras), quality, noise, timeout=_START)
        except BaseException:
            self.close()
            raise
        self._forget_homing()
        self._messenger.start()
        for name, (pipe, _) in pipes.items():
            # The noise is in what arrives.
            self.cameras[name] = named_camera(
                name,
                _Far(pipe, shared_frames[name]),
                depth=depth,
                noise=0.0,
                seed=0,
                faults=self.faults,
                on_start=request_low_latency_scheduling,
            )
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
            self._ask("lay", self.world.snapshot(), read_appearance(self.world.model))

    def start(self) -> None:
        """Lets the cameras deliver pictures."""
        for camera in self.cameras.values():
            camera.start()

    def reseed(self, seed: int) -> None:
        """Makes the cameras' noise depend on a seed alone."""
        self._ask("reseed", seed)

    def close(self) -> None:
        """Ends everything; doing it twice does no harm."""
        self._closing.set()
        if self._messenger.is_alive():
            self._messenger.join()
        for camera in self.cameras.values():
            camera.stop()
        self._end()
        self.overview.close()
        self.world.close()

    # -- the process -------------------------------------------------------------------------------------------------

    def _update(self) -> None:
        """Brings the copy up to date; where the process is gone it stays as it was, and the driver tells of that."""
        with contextlib.suppress(DeviceError):
            self.world.restore(self._ask("see", timeout=_SOON))
            self.world.settle()

    def _tell(self) -> None:
        """Tells the process which switches were turned, again and again."""
        while not self._closing.wait(_LOOK):
            switches = self._switches()
            if switches != self._told:
                with contextlib.suppress(DeviceError):
                    self._ask("fail", switches, timeout=_SOON)
                    self._told = switches
                    self._forget_homing()

    def _forget_homing(self) -> None:
        """Turns the switch off that goes off by itself, once the process knows of it."""
        if self._told["lost_homing"]:
            self.faults.lost_homing = self._told["lost_homing"] = False

    def _switches(self) -> dict[str, Any]:
        return {name: getattr(self.faults, name) for name in (*NAMES, "seed")}

    def _ask(self, what: str, *arguments: Any, timeout: float = _ANSWER) -> Any:
        """Asks for something and returns the answer.

        Raises:
            DeviceError: The process has ended or does not answer.
        """
        with self._talk:
            number, end = next(self._numbers), time.monotonic() + timeout
            try:
                self._control.send((number, what, arguments))
                while self._control.poll(max(0.0, end - time.monotonic())):
                    answered, answer = self._control.recv()
                    if answered == number:  # an earlier one came too late, or nobody waited for it
                        return answer
            except (EOFError, OSError) as error:
                raise DeviceError(f"{self._exit_reason()} Make the env again.") from error
        raise DeviceError(f"The process of the virtual arm has not answered for {timeout:g} s. Make the env again.")

    def _exit_reason(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"The process of the virtual arm has ended with status {self._process.wait(1.0)}."
        return "The process of the virtual arm has hung up."


class _Far:
    """Pictures that are drawn in the process."""

    def __init__(self, pipe: Connection, shared_frame: SharedFrame) -> None:
        self._pipe, self._shared_frame = pipe, shared_frame
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
            return self._shared_frame.pixels.copy(), None if depth is None else self._shared_frame.distance.copy()


def _end(process: subprocess.Popen[bytes], control: Connection, pipes: Sequence[Connection], owner: int) -> None:
    mine = os.getpid() == owner  # not that of a fork
    with contextlib.suppress(OSError):
        if mine:
            control.send((-1, "end", ()))  # a fork may hold the pipes open
    for pipe in (control, *pipes):
        with contextlib.suppress(OSError):
            pipe.close()
    if not mine:
        return
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
