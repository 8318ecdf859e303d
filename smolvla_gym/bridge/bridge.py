"""The arm as a program that others drive: it tells where it is and what it sees, and goes where it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import gymnasium as gym
import numpy as np

from smolvla_gym.bridge.publisher import Publisher
from smolvla_gym.bridge.setpoint import Setpoint
from smolvla_gym.bridge.topics import STARTS, TAKEN
from smolvla_gym.bridge.transport import Transport
from smolvla_gym.envs.backend import OPERATOR_STOP
from smolvla_gym.errors import FaultError, SmolVLAGymError
from smolvla_gym.evaluation.scripted import Agent
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER, NUM_JOINTS

_LISTEN_S: Final = 0.02
"""Seconds from one look for stops to the next while the arm drives by itself."""

_NEEDS_HOMING: Final = ("homing_lost", "homing_failed", "homing_unverified")
"""Faults after which the arm would have to move by itself to go on."""


class Bridge:
    """Runs an env at its control rate and takes its actions from topics, or from an agent.

    A command becomes an action of the env, so that it passes the safety gate like any other. What cannot be carried
    out is refused as a whole and told on ``/events``.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        transport: Transport,
        *,
        agent: Agent | None = None,
        seed: int = 0,
        raw_images: bool = False,
    ) -> None:
        """Advertises everything; the arm is not moved before :meth:`run`.

        Args:
            env: A ``PAROL6Env``. It stays open.
            transport: The way to whoever drives. It stays open.
            agent: What drives between ``/start`` and ``/stop``.
            seed: Of the first scene; each ``/reset`` counts up.
            raw_images: Whether pictures are sent as ``sensor_msgs/Image`` too.
        """
        self._env, self._transport, self._agent, self._seed = env, transport, agent, seed
        bare: Any = env.unwrapped
        self._bare = bare
        self._period = 1.0 / float(bare.control_hz)
        self._simulated = not env.metadata.get("realtime", False)
        self._publisher = Publisher(env, transport, raw_images=raw_images)
        self._setpoint = Setpoint(env, self._publisher.event)
        for topic, datatype in TAKEN.items():
            transport.subscribe(topic, datatype)
        self._observation: dict[str, Any] = {}
        self._info: dict[str, Any] = {}
        self._running = False
        self._instruction: str | None = None
        self._fault: str | None = None
        self._steps = 0

    def run(self, stop: threading.Event, duration: float | None = None) -> None:
        """Runs until ``stop`` is set.

        Args:
            stop: Ends it.
            duration: Seconds after which it ends by itself; None: never.

        Raises:
            SmolVLAGymError: The env or the agent failed. The arm holds.
        """
        self._reset({})
        self._publisher.begin()
        end = None if duration is None else time.monotonic() + duration
        due = time.monotonic()
        while not stop.is_set() and (end is None or time.monotonic() < end):
            for topic, message in self._received():
                try:
                    self._take(topic, message)
                except SmolVLAGymError as error:
                    self._refuse(topic, str(error))
            if self._fault is None:
                self._step()
            if self._simulated or self._fault is not None:  # what was simulated is told when it is the time
                due = max(due + self._period, time.monotonic() - self._period)
                stop.wait(max(0.0, due - time.monotonic()))
            self._publisher.publish(
                self._steps, self._observation, self._info, mode=self._mode(), fault=self._fault,
                instruction=self._instruction or str(self._info["instruction"]),
            )  # fmt: skip

    # -- what comes ------------------------------------------------------------------------------------------------

    def _received(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Returns what came: stops first, and nothing that would move the arm beside them."""
        came = self._transport.receive()
        stops = [(topic, message) for topic, message in came if _stops(topic, message)]
        if not stops:
            return list(came)
        for topic in dict.fromkeys(topic for topic, _ in came if topic in STARTS):
            self._refuse(topic, "it came together with a stop")
        return [*stops, *((topic, m) for topic, m in came if topic not in STARTS and not _stops(topic, m))]

    def _take(self, topic: str, message: Mapping[str, Any]) -> None:
        if _stops(topic, message):
            if topic == "/estop":
                self._bare.stop()  # first of all, whatever becomes of the rest
            self._halt("estop" if topic == "/estop" else "stopped")
        elif topic == "/joint_commands":
            if self._may_move(topic):
                self._setpoint.command(message)
        elif topic == "/joint_trajectory":
            if self._may_move(topic):
                self._setpoint.follow(message)
        elif topic == "/instruction":
            self._instruct(str(message["data"]))
        elif topic == "/start":
            self._start()
        elif topic == "/clear_fault":
            self._clear()
        elif topic == "/reset":
            self._begin_anew()

    def _may_move(self, topic: str) -> bool:
        if self._fault is not None:
            self._refuse(topic, f"the fault {self._fault!r} holds the arm; /clear_fault clears it")
        elif self._running:
            self._refuse(topic, "the policy drives; /stop takes over")
        return self._fault is None and not self._running

    def _instruct(self, text: str) -> None:
        if not text.strip():
            self._refuse("/instruction", "the instruction is empty")
            return
        self._instruction = text
        self._publisher.event("instruction", text=text)
        if self._running:
            self._start()

    def _start(self) -> None:
        if self._agent is None:
            self._refuse("/start", "there is no policy: start the bridge with --policy")
            return
        if self._fault is not None:
            self._refuse("/start", f"the fault {self._fault!r} holds the arm")
            return
        instruction = self._instruction or str(self._info["instruction"])
        self._agent.reset(instruction, seed=self._seed)
        self._running = True
        self._setpoint.drop()
        self._publisher.event("started", instruction=instruction)

    def _halt(self, event: str) -> None:
        self._running = False
        self._setpoint.drop()
        self._publisher.event(event)

    def _clear(self) -> None:
        if self._fault is None:
            return
        if self._fault in _NEEDS_HOMING:
            why = f"after {self._fault!r} the arm has to be homed: start this program again, with --home"
            self._refuse("/clear_fault", why)
            return
        self._bare.clear_fault()
        self._fault = None
        # It goes on from where it stands.
        here = np.clip(self._bare.backend.commanded, JOINT_LOWER, JOINT_UPPER)
        if self._reset({"joints": here, "opening": self._setpoint.opening}):
            self._publisher.event("cleared")

    def _begin_anew(self) -> None:
        if self._fault is not None:
            self._refuse("/reset", f"the fault {self._fault!r} holds the arm; /clear_fault first")
            return
        self._halt("reset")
        self._seed += 1
        self._reset({})

    def _refuse(self, topic: str, why: str) -> None:
        self._publisher.event("refused", topic=topic, why=why)

    # -- what is done ----------------------------------------------------------------------------------------------

    def _mode(self) -> str:
        if self._fault is not None:
            return "fault"
        return "policy" if self._running else self._setpoint.mode

    def _reset(self, options: dict[str, Any]) -> bool:
        """Begins an episode, which a real arm drives to by itself; returns whether it got there.

        Stops are heard meanwhile. Whatever else comes is not kept for later.
        """
        arrived, stopped = threading.Event(), threading.Event()

        def listen() -> None:
            while not arrived.wait(_LISTEN_S):
                if any(_stops(topic, message) for topic, message in self._transport.receive()):
                    stopped.set()
                    self._bare.stop()

        listener = threading.Thread(target=listen, name="stops", daemon=True)
        listener.start()
        try:
            self._observation, self._info = self._env.reset(seed=self._seed, options=options)
        except FaultError as error:
            if not stopped.is_set() or not self._observation:
                raise
            self._fault = OPERATOR_STOP
            self._publisher.event("fault", why=str(error))
            return False
        finally:
            arrived.set()
            listener.join()
        opening = float(np.clip(self._observation["agent_pos"][NUM_JOINTS], 0.0, 1.0))
        self._setpoint.opening = float(options.get("opening", opening))
        if not options:
            self._publisher.event("ready", instruction=self._info["instruction"])
        return True

    def _step(self) -> None:
        if self._running:
            assert self._agent is not None
            action = np.asarray(self._agent.act(self._observation), np.float32)
        else:
            action = self._setpoint.next_action()
        space = self._env.action_space
        action = np.clip(action, space.low, space.high).astype(np.float32)  # type: ignore[attr-defined]
        self._observation, _, _, _, self._info = self._env.step(action)
        self._setpoint.opening = float(action[NUM_JOINTS])
        self._steps += 1
        if self._info["fault"] is not None:
            self._fault = str(self._info["fault"])
            self._halt("fault")


def _stops(topic: str, message: Mapping[str, Any]) -> bool:
    return topic == "/stop" or (topic == "/estop" and bool(message["data"]))
