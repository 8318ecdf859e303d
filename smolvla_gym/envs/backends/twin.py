"""The body of the virtual arm: a real one all the way down to the wire, on a table whose objects are known."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, override

import numpy as np

from smolvla_gym.drivers.board.client import BoardClient
from smolvla_gym.drivers.board.driver import Board
from smolvla_gym.drivers.board.event_log import EventLog
from smolvla_gym.drivers.board.inline import InlineBoard
from smolvla_gym.drivers.board.process import BoardProcess
from smolvla_gym.drivers.board.serial_port import SerialPort
from smolvla_gym.drivers.board.state import BoardSettings, BoardState
from smolvla_gym.drivers.cameras.framing import Framing, Intrinsics
from smolvla_gym.drivers.cameras.realsense import Frame, RealSenseCamera
from smolvla_gym.drivers.clock import Clock, SystemClock
from smolvla_gym.envs.backends.base import Image, Reading
from smolvla_gym.envs.backends.real import CameraRig, RealBackend
from smolvla_gym.envs.env_options import EnvOptions
from smolvla_gym.envs.reset_options import SCENE_OPTIONS, ResetOptions
from smolvla_gym.parol6 import Array
from smolvla_gym.safety import SafetyGate
from smolvla_gym.safety.collision import Box, CollisionGuard
from smolvla_gym.sim.scene import DEPTH_RANGES
from smolvla_gym.sim.window import Window
from smolvla_gym.tasks import Stage
from smolvla_gym.twin.lockstep import WRITE_TIMEOUT, LockstepClock, LockstepPort
from smolvla_gym.twin.process import TwinProcess
from smolvla_gym.twin.twin import Twin
from smolvla_gym.twin.virtual_realsense import SERIALS

_FRAME_TIMEOUT = 2.0  # s of real time for a picture to pass librealsense

_PAUSE = 1.0
"""Simulated time in s that removing the cause of a fault takes: any stop is over by then."""


class TwinView:
    """The virtual arm with its objects, as they really are."""

    def __init__(self, twin: Twin | TwinProcess) -> None:
        """Looks at a twin.

        Args:
            twin: The twin; it stays its owner's.
        """
        self._twin = twin
        self._window = Window(twin.world.model, twin.overview.data)

    def draw(self, state: BoardState) -> Image:
        """Returns a picture, uint8, shape (480, 640, 3)."""
        return self._twin.overview.render(None, None)[0]

    def show(self, state: BoardState) -> None:
        """Brings the window up to date."""
        self._twin.overview.copy_state()
        self._window.sync()

    def close(self) -> None:
        """Closes the window."""
        self._window.close()


class TwinBackend(RealBackend):
    """The virtual arm.

    Attributes:
        twin: What is below the drivers.
        stage: The task on its table.
    """

    reset_options = SCENE_OPTIONS

    def __init__(
        self, twin: Twin | TwinProcess, stage: Stage, *, lockstep: bool, privileged: bool = False, **options: Any
    ) -> None:
        """Takes over a twin.

        Args:
            twin: The twin.
            stage: The task on its table.
            lockstep: Whether images are taken when they are wanted.
            privileged: Whether the observation has the scene's ground truth.
            **options: Those of ``RealBackend``.
        """
        super().__init__(**options, view=TwinView(twin))
        self.twin, self.stage, self._lockstep = twin, stage, lockstep
        self._privileged = privileged
        self._stop_wanted = False
        self.realtime = not lockstep

    @override
    def _plan(self, rng: np.random.Generator, options: ResetOptions) -> None:
        stands = self._approach.stands(self._link.state(), options)
        start = (options.joints, options.opening) if options.chosen and not stands else None
        with self.twin.lock:
            self.stage.draw(
                rng, target=options.target, phrasing=options.phrasing, instruction=options.instruction, start=start
            )

    @override
    def _begin(self, rng: np.random.Generator) -> None:
        if self._lockstep:
            # Woken afresh, at the same moment between two exchanges with the board: only the seed makes a difference.
            self._link.disable()
            self._link.enable()
            self._clock.sleep_until(round(self._clock.now() + 0.35, 1))
            self._link.events()
        self.twin.lay(lambda: self.stage.arrange(rng))
        self._instruction = self.stage.layout.instruction
        self.twin.reseed(int(rng.integers(2**31)))

    @override
    def _await_pictures(self) -> None:
        if not self._lockstep:
            super()._await_pictures()

    @override
    def stop(self) -> None:
        if self._lockstep:
            self._stop_wanted = True  # its driver belongs to the thread that steps
        else:
            super().stop()

    @override
    def step(self, action: object, dt: float) -> Reading:
        if self._stop_wanted:
            self._stop_wanted = False
            super().stop()
        reading = super().step(action, dt)
        with self.twin.present():
            reading.reward, reading.is_success = self.stage.judge()
        return reading

    @override
    def _reading(self, now: float) -> Reading:
        reading = super()._reading(now)
        if self._privileged:
            with self.twin.present():
                reading.observation["privileged"] = self.stage.privileged()
        return reading

    @override
    def _frame(self, name: str) -> Frame:
        if not self._lockstep:
            return super()._frame(name)
        camera, virtual = self._cameras[name].camera, self.twin.cameras[name]
        before, number = virtual.number, virtual.push()
        latest = camera.latest()
        if latest is not None and (number == before or virtual.plugged is None):
            return latest
        return camera.wait_newer(number - 1, _FRAME_TIMEOUT)

    @override
    def expert(self) -> Array:
        with self.twin.present():
            return self.stage.expert()

    @override
    def clear_fault(self) -> None:
        if self._lockstep:
            # No step lets time pass now, and the driver has to hear that the cause is gone.
            self._clock.sleep_until(self._clock.now() + _PAUSE)
            assert isinstance(self.twin, Twin)  # noqa: S101 - narrows a type
            self.twin.board.service()
            for name in self._cameras:
                self._frame(name)
        super().clear_fault()

    @override
    def close(self) -> None:
        try:
            super().close()
        finally:
            self.twin.close()


def make_twin_backend(
    options: EnvOptions,
    settings: BoardSettings,
    references: Mapping[str, Intrinsics],
    *,
    speed_scale: float,
    workspace: Box,
    home: bool,
    log: Path | None,
    realtime: bool,
    own_process: bool,
    camera_options: dict[str, Any],
    twin_options: dict[str, Any],
) -> TwinBackend:
    """Puts a twin together with the drivers of the real arm.

    Args:
        options: What the env is made with.
        settings: How the driver judges the board.
        references: The view of each camera by name.
        speed_scale: Share of the speed limits that may be used.
        workspace: Box in m that the tool centre point stays in.
        home: Whether ``reset`` homes.
        log: File that keeps the events, or None.
        realtime: Whether it runs by the computer's clock or in lockstep.
        own_process: Whether the twin has a process of its own; not in lockstep.
        camera_options: Of ``RealSenseCamera``.
        twin_options: Of ``Twin``.
    """
    lockstep = LockstepClock()
    clock: Clock = SystemClock() if realtime else lockstep
    task, gripper, depth, period = options.task, options.gripper, options.depth, 1.0 / options.control_hz
    scene = {
        "gripper": gripper.name, "kind": task.kind, "goal": task.has_goal, "cameras": options.cameras, "depth": depth,
        "quality": options.quality, **twin_options,
    }  # fmt: skip
    twin = TwinProcess(**scene) if own_process else Twin(**scene, clock=clock)
    with ExitStack() as undo:
        undo.callback(twin.close)
        stage = Stage(
            twin.world, task, control_hz=options.control_hz, randomization=options.randomization,
            num_objects=options.num_objects, reward=options.reward,
        )  # fmt: skip
        if realtime:
            twin.start()
        eyes = {}
        for name, reference in references.items():
            camera = RealSenseCamera(
                SERIALS[name], depth=depth, context_factory=twin.bus.context_factory, clock=clock, **camera_options
            )
            camera.start()
            undo.callback(camera.close)
            eyes[name] = CameraRig(
                camera, Framing(camera.intrinsics, reference, options.image_size, DEPTH_RANGES[name])
            )
        guard = CollisionGuard(gripper.name, workspace)
        link: BoardClient
        if realtime:
            link = BoardProcess(
                twin.port, settings, period=period, speed_scale=speed_scale, workspace=workspace, log=log
            )
        else:
            gate = SafetyGate(period, speed_scale=speed_scale, guard=guard)
            assert isinstance(twin, Twin)  # noqa: S101 - narrows a type
            link = _inline(twin, gate, settings, lockstep, log)
        undo.pop_all()
    return TwinBackend(
        twin, stage, lockstep=not realtime, privileged=options.privileged, link=link, cameras=eyes, clock=clock,
        gripper=gripper, depth=depth, instruction=task.phrasings[0], home=home, period=period, guard=guard,
        speed_scale=speed_scale,
    )  # fmt: skip


def _inline(
    twin: Twin, gate: SafetyGate, settings: BoardSettings, clock: LockstepClock, log: Path | None
) -> InlineBoard:
    port = partial(SerialPort, twin.board.path, write_timeout=WRITE_TIMEOUT)
    board = Board(lambda: LockstepPort(port(), twin.board), gate, settings)
    link = InlineBoard(board, settings, clock, EventLog(log) if log is not None else None)

    def run_until(moment: float) -> None:
        link.run_until(moment, clock.set)
        clock.set(moment)
        twin.advance()

    clock.run_until = run_until
    link.connect()
    return link
