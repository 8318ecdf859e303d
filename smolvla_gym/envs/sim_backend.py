"""The simulated body."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, override

import numpy as np

from smolvla_gym.envs.backend import Backend, Image, Reading
from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER, NUM_JOINTS, STEPS_PER_RAD, Array
from smolvla_gym.sim.randomization import Randomizer
from smolvla_gym.sim.rendering import QUALITIES, check_display
from smolvla_gym.sim.world import World, start_pose
from smolvla_gym.tasks import Layout, Task

REWARDS = ("dense", "sparse")


class SimBackend(Backend):
    """MuJoCo in lockstep: a step takes exactly one control period of simulated time, as fast as it can."""

    def __init__(
        self, world: World, task: Task, *, control_hz: float, randomization: int, num_objects: int, reward: str
    ) -> None:
        """Takes over a world.

        Args:
            world: The simulated arm and its objects.
            task: What is to be done there.
            control_hz: Control steps a second.
            randomization: 0 none, 1 object poses, 2 also colours, lights, cameras, friction and a small delay.
            num_objects: How many objects lie on the table.
            reward: ``"dense"`` or ``"sparse"``.
        """
        self.world, self.task = world, task
        self._randomization, self._num_objects, self._reward = randomization, num_objects, reward
        self._randomizer = Randomizer(world.model)
        self._needed = max(1, round(task.hold_time * control_hz))
        self._held = 0
        self._layout: Layout | None = None
        self._pending: deque[Array] = deque()
        self._commanded = start_pose(world.gripper)
        self._viewer: Any = None
        self._window: list[threading.Thread] = []
        self._period, self._next_picture = 1.0 / control_hz, 0.0

    @property
    def layout(self) -> Layout:
        """The scene of the present episode.

        Raises:
            RuntimeError: There was no reset yet.
        """
        if self._layout is None:
            raise RuntimeError("There is no episode yet: call env.reset() first.")
        return self._layout

    @property
    @override
    def instruction(self) -> str:
        return self.layout.instruction

    @property
    @override
    def commanded(self) -> Array:
        return self._commanded

    @override
    def reset(self, rng: np.random.Generator, options: dict[str, Any]) -> Reading:
        # Checked first: a bad option leaves the present episode as it is.
        joints, opening = self._start(options)
        layout = self.task.layout(rng, self.world.gripper.name, self._num_objects, self._randomization)
        self._layout = layout
        self.world.reset(joints, opening)
        delay = self._randomizer.apply(rng, layout.colors, self._randomization)
        self.task.arrange(self.world, layout)
        self.world.settle()
        self._commanded = joints
        # A delayed setpoint is one that the arm gets a control step later.
        self._pending = deque(np.append(joints, opening) for _ in range(delay))
        self._held = 0
        return self._reading(success=False)

    def _start(self, options: dict[str, Any]) -> tuple[Array, float]:
        joints = _numbers(options.get("joints", start_pose(self.world.gripper)))
        opening = _numbers(options.get("opening", 1.0))
        # A pose that was read back is rounded to float32 and to whole microsteps.
        slack = 1.0 / STEPS_PER_RAD
        if joints.shape != (NUM_JOINTS,) or not np.all(
            (joints >= JOINT_LOWER - slack) & (joints <= JOINT_UPPER + slack)
        ):
            raise OptionError('options["joints"]', options["joints"], "six angles in rad within the soft limits")
        if opening.shape != () or not 0.0 <= opening <= 1.0:
            raise OptionError('options["opening"]', options["opening"], "0 (closed) to 1 (open)")
        return np.clip(joints, JOINT_LOWER, JOINT_UPPER), float(opening)

    @override
    def step(self, setpoint: Array, dt: float) -> Reading:
        self._pending.append(setpoint)
        self.world.advance(self._pending.popleft())
        self._commanded = setpoint[:NUM_JOINTS]
        self._held = self._held + 1 if self.task.achieved(self.world, self.layout) else 0
        reading = self._reading(success=self._held >= self._needed)
        reading.timing["step"] = dt
        return reading

    def _reading(self, *, success: bool) -> Reading:
        observed = self.world.observe()
        observation: dict[str, Any] = {"agent_pos": observed.agent_pos}
        if observed.pixels:
            observation["pixels"] = observed.pixels
        if observed.depth:
            observation["depth"] = observed.depth
        progress = self.task.progress(self.world, self.layout) if self._reward == "dense" else 0.0
        return Reading(observation, 1.0 if success else progress, success)

    @override
    def expert(self) -> Array:
        return self.task.expert(self.world, self.layout)

    @override
    def render(self) -> Image:
        return self.world.overview(QUALITIES["high"])

    @override
    def show(self) -> None:
        if self._viewer is None:
            check_display()
            from mujoco import viewer

            others = threading.enumerate()
            self._viewer = viewer.launch_passive(
                self.world.model, self.world.data, show_left_ui=False, show_right_ui=False
            )
            self._window = [thread for thread in threading.enumerate() if thread not in others]
            camera = self._viewer.cam
            camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = (0.15, 0.0, 0.1), 0.9, 145.0, -25.0
        # For the eye, simulated time must not run faster than the clock; after a pause it does not catch up.
        now = time.monotonic()
        if now < self._next_picture:
            time.sleep(self._next_picture - now)
        self._next_picture = max(now, self._next_picture) + self._period
        self._viewer.sync()

    @override
    def clear_fault(self) -> None:
        pass  # Nothing holds a simulated arm.

    @override
    def close(self) -> None:
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None
            # It only asks the window to close. The process must not end while that thread still draws.
            for thread in self._window:
                thread.join(timeout=5.0)
        self.world.close()


def _numbers(value: Any) -> Array:
    """Returns numbers as an array, and what is none as a single NaN."""
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return np.array(np.nan)
