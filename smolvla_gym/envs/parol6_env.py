"""The environment of the PAROL6, the same class for every backend."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from smolvla_gym.envs.backends.base import Backend, Image, Reading
from smolvla_gym.envs.env_options import RENDER_MODES, EnvOptions
from smolvla_gym.envs.reset_options import ResetOptions
from smolvla_gym.errors import FaultError, OptionError
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER, Gripper
from smolvla_gym.tasks.privileged import privileged_space

Observation = dict[str, Any]
Action = NDArray[np.float32]


class PAROL6Env(gym.Env[Observation, Action]):
    """A PAROL6 with a gripper and cameras.

    Observation: ``agent_pos``, float32 (7,): six joint angles in rad in the control board's convention and the
    gripper's opening, 0 closed to 1 open; ``pixels``: a uint8 (H, W, 3) image of each camera; with ``depth`` also
    ``depth``: uint16 (H, W, 1) of each camera, in units of 0.1 mm, 0 where nothing was measured; with ``privileged``
    also ``privileged``, the ground truth of the scene, see :mod:`smolvla_gym.tasks.privileged`.
    :class:`~smolvla_gym.envs.FlatObservation` flattens the nested dictionaries.

    Action: float32 (7,): absolute joint targets in rad within the soft limits, and the gripper's opening. Targets may
    lie far away: the arm goes there at its limits of speed and acceleration. ``info["shaping"]`` has the number of
    joints that each limit slowed down. ``info["safety"]`` has the interventions of the safety functions, each an
    :class:`~smolvla_gym.safety.Intervention`; a normal episode has none.

    Every step lasts exactly ``1 / control_hz`` s. ``terminated`` means that the task succeeded. A fault holds the arm:
    ``truncated`` with ``info["fault"]``; then ``clear_fault()`` and ``reset()``.

    Attributes:
        backend: The backend.
        task: Name of the task.
        gripper: The gripper that is mounted.
        control_hz: Control rate in Hz.
        max_episode_s: Time in s after which ``gym.make`` truncates an episode, or None.
    """

    # Gymnasium declares it an instance variable; every instance gets its own render_fps.
    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 30, "realtime": False}  # noqa: RUF012

    def __init__(
        self,
        backend: Backend,
        options: EnvOptions,
        recipe: tuple[Callable[..., PAROL6Env], dict[str, Any]],
    ) -> None:
        """Make an environment of a backend.

        Args:
            backend: The backend; :meth:`close` closes it.
            options: Options of the environment.
            recipe: The factory and its options, from which a pickle makes the environment anew: a pickle carries no
                open device.
        """
        self.backend: Backend = backend
        self._recipe = recipe
        self.task: str = options.task.name
        self.gripper: Gripper = options.gripper
        self.max_episode_s: float | None = options.max_episode_s
        self.control_hz: float = options.control_hz
        self.render_mode: str | None = options.render_mode
        self.metadata = {**type(self).metadata, "render_fps": options.control_hz, "realtime": backend.realtime}
        self.metadata["gripper"] = options.gripper.name
        self._dt = 1.0 / options.control_hz
        self._fault: str | None = None
        self._closed, self._closing = False, threading.RLock()
        self._ready = False

        self._lower = np.append(JOINT_LOWER, 0.0).astype(np.float32)
        self._upper = np.append(JOINT_UPPER, 1.0).astype(np.float32)
        self.action_space: spaces.Box[np.float32] = spaces.Box(self._lower, self._upper)
        turn = np.full(6, 2 * np.pi + 0.01)  # before homing the board counts from zero, outside the soft limits
        parts: dict[str, spaces.Space[Any]] = {
            "agent_pos": spaces.Box(np.append(-turn, 0.0).astype(np.float32), np.append(turn, 1.0).astype(np.float32))
        }
        (height, width), cameras = options.image_size, options.cameras
        if cameras:
            parts["pixels"] = spaces.Dict({c: spaces.Box(0, 255, (height, width, 3), np.uint8) for c in cameras})
        if cameras and options.depth:
            parts["depth"] = spaces.Dict({c: spaces.Box(0, 65535, (height, width, 1), np.uint16) for c in cameras})
        if options.privileged:
            parts["privileged"] = privileged_space(options.scene_objects)
        self.observation_space: spaces.Dict = spaces.Dict(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (*self._recipe, self.spec)

    @property
    def task_description(self) -> str:
        """Instruction of the present episode."""
        return self.backend.instruction

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Seed of everything that is drawn; the same seed gives the same episode.
            options: Start pose: ``"joints"``, six angles in rad, and ``"opening"``, 0..1; ``"home"``, whether to home
                a real arm first; ``"instruction"`` of the episode. With a simulated scene (simulation and twin) also
                ``"target"``, the colour of the object to name, and ``"instruction_template"``, a sentence with the
                field ``{color}``.

        Returns:
            The first observation and info.

        Raises:
            FaultError: A fault was not cleared, or no route without contacts leads to the start pose.
            NotHomedError: The arm has to be homed, and no option allows it.
            OptionError: A value is not allowed: a start pose outside the soft limits, or one with contacts; a colour
                that is not in the scene. Nothing moved, and the present episode goes on.
            UnknownNameError: There is no such option.
        """
        self._refuse_if_closed()
        self._refuse_if_faulty()
        checked = ResetOptions.check(options, self.gripper, self.backend.reset_options)
        before = self._np_random, self._np_random_seed
        if seed is None:
            before = copy.deepcopy(self.np_random), self._np_random_seed
        super().reset(seed=seed)
        try:
            reading = self.backend.reset(self.np_random, checked)
        except OptionError:
            self._np_random, self._np_random_seed = before
            raise
        self._ready = True
        if self.render_mode == "human":
            self.backend.show()
        return reading.observation, self._info(reading)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move for ``1 / control_hz`` s.

        Args:
            action: Absolute joint targets in rad and gripper opening 0..1, float32, shape (7,).

        Raises:
            ActionError: The action is malformed or not finite. Nothing moved, no time passed.
            FaultError: A fault holds the arm.
            gymnasium.error.ResetNeeded: There was no reset.
        """
        self._refuse_if_closed()
        self._refuse_if_faulty()
        if not self._ready:
            raise gym.error.ResetNeeded("Call env.reset() before env.step().")
        reading = self.backend.step(action, self._dt)
        self._fault = reading.fault
        if self.render_mode == "human":
            self.backend.show()
        info = self._info(reading)
        return reading.observation, reading.reward, reading.is_success, reading.fault is not None, info

    def expert_action(self) -> Action:
        """Return the action of the task's scripted expert in the present state, float32, shape (7,)."""
        return np.clip(self.backend.expert().astype(np.float32), self._lower, self._upper)

    def stop(self) -> None:
        """Stop the arm at once; may be called from any thread.

        The next step ends the episode with the fault ``"operator_stop"``, which stays until :meth:`clear_fault`.
        """
        self.backend.stop()

    def clear_fault(self) -> None:
        """Clear the fault, so that ``reset`` works again.

        Raises:
            FaultError: The cause of the fault is still there.
            DeviceError: The serial port was lost and cannot be opened.
        """
        self._refuse_if_closed()
        self.backend.clear_fault()
        self._fault = None

    def render(self) -> Image | None:
        """Return an image of the scene, uint8 (480, 640, 3); None in the mode ``"human"``, which has a window."""
        with self._closing:  # an OpenGL context that is made after close() would never be freed
            self._refuse_if_closed()
            return self.backend.render() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Hold the arm and free everything; may be called from any thread, and twice."""
        self._closed = True
        with self._closing:
            self.backend.close()

    def _info(self, reading: Reading) -> dict[str, Any]:
        return {
            "instruction": self.backend.instruction,
            "is_success": reading.is_success,
            "safety": reading.safety,
            "shaping": reading.shaping,
            "fault": reading.fault,
            "timing": reading.timing,
            "frame_age_s": reading.frame_age_s,
            "state_age_s": reading.state_age_s,
        }

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise gym.error.ClosedEnvironmentError("This env was closed; make a new one.")

    def _refuse_if_faulty(self) -> None:
        if self._fault is not None:
            raise FaultError(
                f"The arm is held by the fault {self._fault!r}: remove its cause, then call "
                "env.unwrapped.clear_fault()."
            )


def _remake(factory: Callable[..., PAROL6Env], options: dict[str, Any], spec: EnvSpec | None) -> PAROL6Env:
    env = factory(**options)
    env.spec = spec
    return env
