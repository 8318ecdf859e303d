"""Backend of the simulated arm."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import Any, override

import numpy as np

from smolvla_gym.envs.backends.base import OPERATOR_STOP, Backend, Image, Reading, draw_scene
from smolvla_gym.envs.reset_options import STANDS, ResetOptions
from smolvla_gym.parol6 import Array
from smolvla_gym.safety import SafetyGate
from smolvla_gym.safety.collision import refuse_contact
from smolvla_gym.safety.report import fault_intervention
from smolvla_gym.sim.motion import MotionLaw
from smolvla_gym.sim.rendering import QUALITIES
from smolvla_gym.sim.window import Window
from smolvla_gym.sim.world import World
from smolvla_gym.tasks import Layout, Stage


class SimBackend(Backend):
    """Simulation in MuJoCo: a step takes one control period of simulated time, and as little real time as it can.

    Attributes:
        stage: The task in its world.
        world: The arm and its objects.
        window: Window of ``render_mode="human"``.
    """

    def __init__(self, stage: Stage, gate: SafetyGate, *, control_hz: float, privileged: bool = False) -> None:
        """Keep a task in its world.

        Args:
            stage: The task in its world.
            gate: Safety gate between actions and motors.
            control_hz: Control rate in Hz.
            privileged: Whether the observation has the scene's ground truth.
        """
        self._privileged = privileged
        self.stage: Stage = stage
        self.world: World = stage.world
        self._gate, self._motion = gate, MotionLaw()
        self._pending: deque[tuple[Array, Array, float]] = deque()
        self._hold = self.world.steps // self.world.ticks
        self.window: Window = Window(self.world.model, self.world.data)
        self._period, self._next_image = 1.0 / control_hz, 0.0
        self._stopped = False

    @property
    def layout(self) -> Layout:
        """Scene of the present episode."""
        return self.stage.layout

    @property
    @override
    def instruction(self) -> str:
        return self.stage.layout.instruction

    @property
    @override
    def commanded(self) -> Array:
        return self._gate.position

    @override
    def reset(self, rng: np.random.Generator, options: ResetOptions) -> Reading:
        # Checked first: a bad option leaves the present episode as it is.
        joints, opening = options.joints, options.opening
        refuse_contact(joints, [violation.where for violation in self._gate.violations(joints, opening)])
        draw_scene(self.stage, rng, options, bool(np.abs(self._gate.position - joints).max() < STANDS))
        self.world.reset(joints, opening)
        variation = self.stage.arrange(rng)
        self.world.misplace_zero(variation.zero_error)
        self._gate.reset(joints, opening)
        self._motion.reset(joints)
        # A delayed setpoint reaches the arm a control step later.
        still = np.tile(joints, (self.world.ticks, 1))
        self._pending = deque((still, np.zeros_like(still), opening) for _ in range(variation.delay))
        return self._reading()

    @override
    def step(self, action: object, dt: float) -> Reading:
        if self._stopped:
            action = np.append(self._gate.position, self._gate.opening)
        report = self._gate.aim(action)
        targets, speeds, stops = self._gate.travel(dt, self.world.ticks)
        self._pending.append((targets, speeds, self._gate.opening))
        targets, speeds, opening = self._pending.popleft()
        self.world.drive(self._motion.follow(targets, speeds, self.world.timestep, self._hold), opening)
        reading = self._reading()
        reading.reward, reading.is_success = self.stage.judge()
        reading.safety, reading.shaping = report.interventions + stops, report.shaping
        reading.timing["step"] = dt
        if self._stopped:
            reading.fault = OPERATOR_STOP
            reading.safety += (fault_intervention(OPERATOR_STOP, "The program stopped the arm."),)
        return reading

    def _reading(self) -> Reading:
        observed = self.world.observe()
        observation: dict[str, Any] = {"agent_pos": observed.agent_pos}
        if observed.pixels:
            observation["pixels"] = observed.pixels
        if observed.depth:
            observation["depth"] = observed.depth
        if self._privileged:
            observation["privileged"] = self.stage.privileged()
        return Reading(observation)

    @override
    def expert(self) -> Array:
        return self.stage.expert()

    @override
    def render(self) -> Image:
        return self.world.overview(QUALITIES["high"])

    @override
    def show(self) -> None:
        # In the window simulated time must not run faster than the clock; after a pause it does not catch up.
        now = time.monotonic()
        if now < self._next_image:
            time.sleep(self._next_image - now)
        self._next_image = max(now, self._next_image) + self._period
        self.window.sync()

    @override
    def stop(self) -> None:
        self._stopped = True

    @override
    def clear_fault(self) -> None:
        self._stopped = False

    @override
    def close(self) -> None:
        with contextlib.ExitStack() as each:  # if one fails to close, the rest is freed
            each.callback(self.world.close)
            each.callback(self.window.close)
