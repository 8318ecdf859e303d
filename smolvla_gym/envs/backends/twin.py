"""Backend of the virtual arm: the drivers of the real arm, connected to virtual hardware and simulated physics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import override

import numpy as np

from smolvla_gym.drivers.board.client import BoardClient
from smolvla_gym.drivers.cameras.camera import Camera, Frame
from smolvla_gym.drivers.clock import Clock
from smolvla_gym.envs.backends.base import Reading, draw_scene
from smolvla_gym.envs.backends.real import RealBackend
from smolvla_gym.envs.env_options import EnvOptions
from smolvla_gym.envs.real_options import RealOptions
from smolvla_gym.envs.reset_options import SCENE_OPTIONS, ResetOptions
from smolvla_gym.parol6 import Array
from smolvla_gym.safety import Guard
from smolvla_gym.tasks import Stage
from smolvla_gym.twin.process import TwinProcess
from smolvla_gym.twin.twin import Twin

_FRAME_TIMEOUT = 2.0  # s of real time for an image to pass librealsense

_PAUSE = 1.0
"""Simulated time in s that passes in ``clear_fault()``: any stop is over by then."""


class TwinBackend(RealBackend):
    """Virtual arm, driven by the drivers of the real one, on a table whose objects are simulated.

    Attributes:
        twin: The virtual board, cameras and physics behind the drivers.
        stage: The task on its table.
    """

    reset_options: tuple[str, ...] = SCENE_OPTIONS

    def __init__(
        self,
        twin: Twin | TwinProcess,
        stage: Stage,
        link: BoardClient,
        cameras: Mapping[str, Camera],
        clock: Clock,
        options: EnvOptions,
        arm: RealOptions,
        guard: Guard,
    ) -> None:
        """Keep a twin; :meth:`close` closes it.

        Args:
            twin: The twin.
            stage: The task on its table.
            link: Client of its board; it is connected.
            cameras: The cameras by name; they are started, and frame their images.
            clock: Clock of all of them.
            options: Options of the environment.
            arm: Options of the arm. Without ``realtime`` the twin runs in lockstep: images are taken in each step.
            guard: Collision check of the start pose and the route to it.
        """
        super().__init__(link, cameras, clock, twin.overview, options, arm, guard)
        self.twin: Twin | TwinProcess = twin
        self.stage: Stage = stage
        self._lockstep = not arm.realtime
        self._privileged = options.privileged
        self._stop_requested = False
        self.realtime: bool = arm.realtime

    @override
    def _plan(self, rng: np.random.Generator, options: ResetOptions) -> None:
        stands = self.approach.stands(self.link.state(), options)
        with self.twin.lock:
            draw_scene(self.stage, rng, options, stands)

    @override
    def _begin(self, rng: np.random.Generator) -> None:
        if self._lockstep:
            # Enabled anew, at the same moment between two exchanges with the board: only the seed makes a difference.
            self.link.disable()
            self.link.enable()
            self.clock.sleep_until(round(self.clock.now() + 0.35, 1))
            self.link.events()
        self.twin.lay(lambda: self.stage.arrange(rng))
        self._instruction = self.stage.layout.instruction
        self.twin.reseed(int(rng.integers(2**31)))

    @override
    def _await_images(self) -> None:
        if not self._lockstep:
            super()._await_images()

    @override
    def _renew_images(self) -> None:
        if not self._lockstep:
            super()._renew_images()
            return
        for name in self._cameras:
            self._frame(name)

    @override
    def stop(self) -> None:
        if self._lockstep:
            self._stop_requested = True  # the driver runs in the thread that steps
        else:
            super().stop()

    @override
    def step(self, action: object, dt: float) -> Reading:
        if self._stop_requested:
            self._stop_requested = False
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
        camera, virtual = self._cameras[name], self.twin.cameras[name]
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
            # No step runs now, and the driver needs time to find the cause gone.
            self.clock.sleep_until(self.clock.now() + _PAUSE)
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
