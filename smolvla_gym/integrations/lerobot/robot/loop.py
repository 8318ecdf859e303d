"""Control loop of an env in a thread of its own, for a program that observes and commands at another rate.

The loop does not use the episode runner. It steps the env without an end, as LeRobot keeps a robot connected over many
of its episodes: the target comes from another thread, and a new scene follows a success without an end of anything.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.envs.parol6_env import PAROL6Env
from smolvla_gym.errors import DeviceError, FaultError
from smolvla_gym.integrations.lerobot.robot.units import LOWER, UPPER
from smolvla_gym.parol6 import NUM_JOINTS

_PATIENCE = 120.0
"""Timeout in s of connecting: the arm homes for half a minute, and drives to its start pose."""

_SOON = 1.0
"""Time in s within which a running loop ends."""

_STOP_WITHIN = 10.0
"""Time in s within which homing or the drive to the start pose ends after a stop."""


@dataclass(frozen=True)
class Snapshot:
    """State of the arm after a control step.

    Attributes:
        observation: Observation of the env.
        instruction: Instruction of the scene.
        scene: Number of the scene, from 0.
        time: Time of the observation, of ``time.monotonic()``.
    """

    observation: dict[str, Any]
    instruction: str
    scene: int
    time: float


class EnvLoop:
    """Thread that makes, steps and closes an env, since OpenGL contexts belong to the thread that made them.

    The arm follows a target until the next one arrives. Without a new one for ``hold_after`` s it stops. If this
    thread or its process ends, the real env's own watchdog stops the arm.

    Attributes:
        env: The env once it is made; None before. Other threads may only read it and call its ``stop``.
    """

    def __init__(
        self,
        make: Callable[[], PAROL6Env],
        *,
        seed: int = 0,
        instruction: str | None = None,
        hold_after: float = 0.5,
        renew_after: float | None = None,
        prepare: Callable[[PAROL6Env], Callable[[], None]] | None = None,
    ) -> None:
        """Create a loop; nothing is opened before :meth:`start`.

        Args:
            make: Function that makes the env, without wrappers.
            seed: Seed of the first scene.
            instruction: Instruction of every scene; None: it is drawn.
            hold_after: Time in s without a new target after which the arm stops.
            renew_after: Time in s from a success to the next scene; None: the scene stays.
            prepare: Called with the env before the arm moves. What it returns is called once the arm has reached its
                start pose, before the first step.
        """
        self._prepare = prepare
        self._make, self._seed = make, seed
        self._options = {} if instruction is None else {"instruction": instruction}
        self._hold_after, self._renew_after = hold_after, renew_after
        self._lock = threading.Condition()
        self._target: NDArray[np.float32] | None = None
        self._expert: NDArray[np.float32] | None = None
        self._given = 0.0
        self._snapshot: Snapshot | None = None
        self._error: BaseException | None = None
        self._wants_expert = False
        self.env: PAROL6Env | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="parol6-env", daemon=True)

    def start(self) -> None:
        """Open the arm and wait for its first observation.

        Raises:
            SmolVLAGymError: Error of the env.
            DeviceError: There was no observation in time.
        """
        self._thread.start()
        try:
            with self._lock:
                there = self._lock.wait_for(lambda: self._snapshot is not None or self._error is not None, _PATIENCE)
            if self._error is not None:
                raise self._error
            if not there:
                raise DeviceError(f"The arm gave no observation within {_PATIENCE:g} s.")
        except BaseException:  # Ctrl-C too: the arm must not go on to its start pose
            self.stop()
            raise

    @property
    def running(self) -> bool:
        """Return whether the arm is connected."""
        return self._thread.is_alive() and not self._stop.is_set()

    def latest(self) -> Snapshot:
        """Return the state after the last control step.

        Raises:
            SmolVLAGymError: Error that ended the loop, such as a fault.
        """
        with self._lock:
            self._check()
            assert self._snapshot is not None  # noqa: S101 - narrows a type
            return self._snapshot

    def command(self, action: NDArray[np.float32]) -> None:
        """Set a new target, shape (7,), and return at once.

        Raises:
            SmolVLAGymError: Error that ended the loop, such as a fault.
        """
        with self._lock:
            self._check()
            self._target, self._given = action, time.monotonic()

    def expert(self) -> NDArray[np.float32]:
        """Return the scripted expert's action in the present state, shape (7,).

        Raises:
            SmolVLAGymError: Error that ended the loop.
        """
        with self._lock:
            self._wants_expert = True
            self._lock.wait_for(lambda: self._expert is not None or self._error is not None, _STOP_WITHIN)
            self._check()
            if self._expert is None:
                raise DeviceError("The expert gave no action.")
            return self._expert

    def stop(self) -> None:
        """End the loop: the env holds the arm and frees everything. A second call does nothing.

        Raises:
            DeviceError: The loop did not end.
        """
        self._stop.set()
        if self._thread.ident is None or self._thread is threading.current_thread():
            return
        self._thread.join(_SOON)
        if self._thread.is_alive():
            if self.env is not None:  # the arm homes, or drives to its start pose
                with contextlib.suppress(DeviceError):  # the loop may be closing the env, which takes a moment
                    self.env.stop()
            self._thread.join(_STOP_WITHIN)
        if self._thread.is_alive():
            raise DeviceError(
                "The control loop of the arm does not end. Use the emergency stop, then end this program."
            )

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if not self.running:
            raise DeviceError("The arm is not connected.")

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        env: PAROL6Env | None = None
        try:
            env = self.env = self._make()
            if not self._stop.is_set():
                self._loop(env)
        except BaseException as error:
            with self._lock:
                self._error = error
                self._lock.notify_all()
        finally:
            if env is not None:
                env.close()

    def _loop(self, env: PAROL6Env) -> None:
        paced = not env.metadata["realtime"]  # simulated time has to follow the clock
        period, scene, succeeded_at = 1.0 / env.control_hz, 0, None
        at_start = None if self._prepare is None else self._prepare(env)
        observation, _ = env.reset(seed=self._seed, options=self._options)
        if at_start is not None:
            at_start()
        self._publish(env, observation, scene)
        due = time.monotonic()
        while not self._stop.is_set():
            observation, _, _, _, info = env.step(self._next_target(env))
            now = time.monotonic()
            if info["fault"] is not None:
                raise FaultError(
                    f"The arm is held by the fault {info['fault']!r}: remove its cause, then connect again."
                )
            if info["is_success"] and succeeded_at is None:
                succeeded_at = now
            if succeeded_at is not None and self._renew_after is not None and now - succeeded_at >= self._renew_after:
                scene, succeeded_at = scene + 1, None
                observation, _ = env.reset(seed=self._seed + scene, options=self._options)
                with self._lock:
                    self._target = None
            self._publish(env, observation, scene)
            if paced:
                due = max(due + period, time.monotonic() - period)
                self._stop.wait(max(0.0, due - time.monotonic()))

    def _next_target(self, env: PAROL6Env) -> NDArray[np.float32]:
        with self._lock:
            if self._target is None or time.monotonic() - self._given > self._hold_after:
                # The setpoint and not the measured state: a loaded arm sags and would creep.
                opening = self._target[NUM_JOINTS] if self._target is not None else self._opening()
                still = np.append(env.backend.commanded, opening)
                return np.clip(still, LOWER, UPPER).astype(np.float32)
            return self._target

    def _opening(self) -> float:
        assert self._snapshot is not None  # noqa: S101 - narrows a type
        return float(self._snapshot.observation["agent_pos"][NUM_JOINTS])

    def _publish(self, env: PAROL6Env, observation: dict[str, Any], scene: int) -> None:
        expert = env.expert_action() if self._wants_expert else None
        with self._lock:
            self._snapshot = Snapshot(observation, env.task_description, scene, time.monotonic())
            self._expert = expert
            self._lock.notify_all()
