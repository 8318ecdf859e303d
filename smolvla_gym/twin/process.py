"""The twin in a worker process, so that it runs beside the control loop as a real arm does.

In the same interpreter the virtual board and the rendering of camera images make a control loop late by milliseconds.
The parent keeps a copy of the scene, and updates it whenever it evaluates or shows the scene.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.scheduling import request_low_latency_scheduling
from smolvla_gym.errors import DeviceError
from smolvla_gym.ipc import (
    SharedFrame,
    Worker,
    WorkerExitedError,
    WorkerTimeoutError,
    make_frame_memory,
    pack_object,
    unpack_object,
)
from smolvla_gym.parol6 import Array
from smolvla_gym.sim.extras import NO_EXTRAS, Extras
from smolvla_gym.sim.randomization import read_appearance
from smolvla_gym.sim.rendering import QUALITIES, Image, Quality
from smolvla_gym.sim.scene import CUBE, ObjectKind
from smolvla_gym.sim.world import World
from smolvla_gym.twin.faults import NAMES, Faults
from smolvla_gym.twin.joint_error import JointError
from smolvla_gym.twin.snapshot_renderer import SnapshotRenderer
from smolvla_gym.twin.twin import make_world
from smolvla_gym.twin.virtual_camera import MJPEG, REALSENSE, Render, VirtualCamera
from smolvla_gym.twin.virtual_mjpeg import ServedCameras
from smolvla_gym.twin.virtual_realsense import VirtualBus, VirtualRealSense, camera_size, named_camera

_START: Final = 60.0
"""How long the process may take to import what it needs and to set the arm up, in s."""

_REPLY: Final = 5.0
"""Time limit of a reply in s; it usually comes within milliseconds."""

_SOON: Final = 0.5
"""The same for a request for which a control loop waits."""

_FAULT_PERIOD: Final = 0.02
"""Period in s at which the switches of the faults are compared with those of the worker."""

_GRACE: Final = 5.0
"""How long the process may take to end in s before it is killed."""


class TwinProcess:
    """One virtual PAROL6 on its table, in real time, with the members of :class:`smolvla_gym.twin.twin.Twin`.

    The board, the physics and the render workers run in the worker process, the software devices of librealsense here.

    Attributes:
        world: A copy of the scene, as :meth:`present` last updated it.
        cameras: The cameras by name.
        served: The server of cameras that are no RealSense cameras, None without.
        bus: Makes the librealsense context with the cameras that are.
        faults: The injected faults.
        lock: Held while the copy changes.
        overview: Renders the scene for people.
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
        extras: Extras = NO_EXTRAS,
        transport: str = REALSENSE,
        joint_error: JointError | None = None,
    ) -> None:
        """Start the worker; see :class:`smolvla_gym.twin.twin.Twin` for the arguments.

        Raises:
            DeviceError: The worker could not be started.
        """
        self.faults: Faults = Faults() if faults is None else faults
        self.lock: threading.RLock = threading.RLock()
        self.world: World = make_world(gripper, kind, goal=goal, extras=extras)
        self.overview: SnapshotRenderer = SnapshotRenderer(self.world, self.lock, update=self._update)
        self.cameras: Mapping[str, VirtualCamera] = {}
        self.served: ServedCameras | None = None
        self._closing, self._messenger = threading.Event(), threading.Thread(target=self._send_faults, daemon=True)
        memory: dict[str, int] = {}
        try:
            for name in cameras:
                memory[name] = make_frame_memory(camera_size(name))
            frames = {name: SharedFrame(camera_size(name), descriptor) for name, descriptor in memory.items()}
            self._worker = Worker(
                "smolvla_gym.twin.worker",
                descriptors=tuple(memory.values()),
                on_start=request_low_latency_scheduling,
            )
        except OSError as error:
            raise DeviceError(f"The process of the virtual arm could not be started: {error}.") from error
        finally:
            for descriptor in memory.values():
                os.close(descriptor)
        self._end = weakref.finalize(self, self._worker.close, _GRACE)
        try:
            self._sent = self._switches()
            scene = {
                "gripper": gripper, "kind": kind, "goal": goal, "depth": depth, "quality": quality, "homed": homed,
                "extras": extras, "joint_error": joint_error,
            }  # fmt: skip
            arguments = {"scene": pack_object(scene), "noise": noise, "faults": self._sent, "memory": memory}
            self.port: str = self._ask("begin", timeout=_START, **arguments)
        except BaseException:
            self.close()
            raise
        self._forget_homing()
        self._messenger.start()
        renders: dict[str, Render] = {
            name: partial(_render, self._worker, name, frame, depth) for name, frame in frames.items()
        }
        # The worker adds the noise.
        options: dict[str, Any] = {
            "noise": 0.0, "faults": self.faults, "on_start": request_low_latency_scheduling
        }  # fmt: skip
        sensors: dict[str, VirtualRealSense] = {}
        if transport == MJPEG and renders:
            self.served = ServedCameras(renders, **options)
            self.cameras = self.served.cameras
        else:
            sensors = {name: named_camera(name, render, **options) for name, render in renders.items()}
            self.cameras = sensors
        self.bus: VirtualBus = VirtualBus(list(sensors.values()))

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Return the process id of the worker."""
        return self._worker.pid

    @contextmanager
    def present(self) -> Iterator[World]:
        """Yield the world as it is now, or as it was when the worker ended; no time passes in it meanwhile."""
        with self.lock:
            self._update()
            yield self.world

    @property
    def joints(self) -> Array:
        """Return the true joint angles in rad, shape (6,); the arm has no encoders."""
        with self.present() as world:
            return world.measured_joints

    @property
    def disabled(self) -> bool:
        """Return whether the board ignores motion commands."""
        return bool(self._ask("board")["disabled"])

    @property
    def command(self) -> int:
        """Return the command in force."""
        return int(self._ask("board")["command"])

    @property
    def homed(self) -> bool:
        """Return whether all joints are homed."""
        return bool(self._ask("board")["homed"])

    # -- change ------------------------------------------------------------------------------------------------------

    def lay(self, arrange: Callable[[], object]) -> None:
        """Clear the table and lay it anew.

        Args:
            arrange: Puts objects into :attr:`world`, and may change the appearance of its model.
        """
        with self.lock:
            self.world.restore(unpack_object(self._ask("clear")))
            arrange()
            self._ask("lay", scene=pack_object((self.world.snapshot(), read_appearance(self.world.model))))

    def start(self) -> None:
        """Have the cameras deliver images."""
        for camera in self.cameras.values():
            camera.start()

    def reseed(self, seed: int) -> None:
        """Make the cameras' noise depend on a seed alone."""
        self._ask("reseed", seed=seed)

    def close(self) -> None:
        """End everything; doing it twice does no harm."""
        self._closing.set()
        if self._messenger.is_alive():
            self._messenger.join()
        for camera in self.cameras.values():
            camera.stop()
        if self.served is not None:
            self.served.close()
        self._end()
        self.overview.close()
        self.world.close()

    # -- the worker --------------------------------------------------------------------------------------------------

    def _update(self) -> None:
        """Update the copy; where the worker is gone it stays as it was, and the driver reports that."""
        with contextlib.suppress(DeviceError):
            self.world.restore(unpack_object(self._ask("snapshot", timeout=_SOON)))
            self.world.settle()

    def _send_faults(self) -> None:
        """Send the switches of ``faults`` to the worker whenever one was changed."""
        while not self._closing.wait(_FAULT_PERIOD):
            switches = self._switches()
            if switches != self._sent:
                with contextlib.suppress(DeviceError):
                    self._ask("faults", switches=switches, timeout=_SOON)
                    self._sent = switches
                    self._forget_homing()

    def _forget_homing(self) -> None:
        """Turn the switch off that goes off by itself, once the worker has it."""
        if self._sent["lost_homing"]:
            self.faults.lost_homing = self._sent["lost_homing"] = False

    def _switches(self) -> dict[str, Any]:
        return {name: getattr(self.faults, name) for name in (*NAMES, "seed")}

    def _ask(self, do: str, *, timeout: float = _REPLY, **arguments: Any) -> Any:
        """Send a request and return the value of its reply.

        Raises:
            DeviceError: The process has ended or does not answer.
        """
        try:
            return self._worker.request(do, timeout=timeout, **arguments)
        except WorkerExitedError as error:
            how = "is gone" if error.status is None else f"has ended with status {error.status}"
            raise DeviceError(f"The process of the virtual arm {how}. Make the env again.") from None
        except WorkerTimeoutError:
            raise DeviceError(
                f"The process of the virtual arm has not answered for {timeout:g} s. Make the env again."
            ) from None


def _render(worker: Worker, camera: str, frame: SharedFrame, depth: bool) -> tuple[Image, NDArray[np.float32] | None]:
    """Have the worker render what a camera sees; return copies of the image and, with ``depth``, of the distances.

    Raises:
        DeviceError: The worker has ended or does not answer.
    """
    try:
        worker.request("render", timeout=_REPLY, camera=camera)
    except (WorkerExitedError, WorkerTimeoutError) as error:
        raise DeviceError(f"The virtual camera {camera!r} renders no image: {error}") from error
    return frame.pixels.copy(), frame.distance.copy() if depth else None
