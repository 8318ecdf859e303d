"""Bridge: an env that other programs drive with messages.

The bridge does not use the episode runner. It steps the env without an end and at a rate of its own, reads messages
between two steps, changes at any time between an agent and commands, keeps publishing during a fault, and resets the
env in the middle when a message says so: there are no episodes that a callback could follow.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Mapping
from typing import Any, Final

import gymnasium as gym
import numpy as np

from smolvla_gym.agent.protocol import Agent, attach
from smolvla_gym.envs.backends.base import OPERATOR_STOP
from smolvla_gym.errors import ActionError, FaultError, OptionError, SmolVLAGymError
from smolvla_gym.integrations.bridge.publisher import Publisher
from smolvla_gym.integrations.bridge.setpoint import Setpoint
from smolvla_gym.integrations.bridge.topics import FOLLOW, STARTS, STOPS, TAKEN
from smolvla_gym.integrations.bridge.trajectory import ResultCode
from smolvla_gym.integrations.bridge.transport import Transport
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER, NUM_JOINTS
from smolvla_gym.utils.untrusted import printable

_MISSED: Final = 100
"""Messages received during a reset of which each gets a refusal of its own; further ones are dropped."""

_LISTEN_S: Final = 0.02
"""Period in s of the check for stops while the arm drives to its start pose."""

_MAX_INSTRUCTION: Final = 500
"""Characters of the longest instruction that is accepted."""

_FEEDBACK_EVERY: Final = 3
"""Control steps from one feedback of an action to the next."""

_LONGEST_REASON: Final = 500
"""Characters of the longest reason in an event."""

_NEEDS_HOMING: Final = ("homing_lost", "homing_failed", "homing_unverified")
"""Faults after which the arm has to be homed."""


class Bridge:
    """Program that runs an env at its control rate and takes its actions from topics, or from an agent.

    A command becomes an action of the env, so that it passes the safety gate like any other. A message that cannot be
    carried out is refused as a whole, with an event on ``/events``.

    Attributes:
        setpoint: Source of the action where no agent drives.
        running: Whether the agent drives.
        fault: Fault that holds the arm, or None.
        has_action: Whether the action ``FollowJointTrajectory`` is provided.
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
        """Advertise all topics. The arm does not move before :meth:`run`.

        Args:
            env: A ``PAROL6Env``. It stays open.
            transport: Transport that carries the messages. It stays open.
            agent: Agent that drives between ``/start`` and ``/stop``; it is attached to the env.
            seed: Seed of the first scene; each ``/reset`` counts up.
            raw_images: Whether images are also sent as ``sensor_msgs/Image``.
        """
        self._env, self._transport, self._agent, self._seed = env, transport, agent, seed
        if agent is not None:
            attach(agent, env)
        bare: Any = env.unwrapped
        self._bare = bare
        self._period = 1.0 / float(bare.control_hz)
        self._simulated = not env.metadata.get("realtime", False)
        self._publisher = Publisher(env, transport, raw_images=raw_images)
        self.setpoint: Setpoint = Setpoint(env, self._publisher.event, self._answer)
        for topic, datatype in TAKEN.items():
            transport.subscribe(topic, datatype)
        self._motions = {
            "/joint_commands": self.setpoint.command, "/joint_trajectory": self.setpoint.follow,
            FOLLOW: self.setpoint.pursue,
        }  # fmt: skip
        self.has_action: bool = transport.serve_action(FOLLOW, "control_msgs/FollowJointTrajectory")
        self._observation: dict[str, Any] = {}
        self._info: dict[str, Any] = {}
        self.running: bool = False
        self._instruction: str | None = None
        self.fault: str | None = None
        self._steps = 0

    def run(self, stop: threading.Event, duration: float | None = None) -> None:
        """Run until ``stop`` is set.

        Args:
            stop: Event that ends the run.
            duration: Time in s after which it ends by itself; None: never.

        Raises:
            SmolVLAGymError: The env or the agent failed. The arm holds.
        """
        end = None if duration is None else time.monotonic() + duration
        due = time.monotonic()
        try:
            self.begin()
            while not stop.is_set() and (end is None or time.monotonic() < end):
                self.tick()
                if self._simulated or self.fault is not None:  # simulated time follows the clock
                    due = max(due + self._period, time.monotonic() - self._period)
                    stop.wait(max(0.0, due - time.monotonic()))
                self.publish()
        finally:
            self.setpoint.drop("the bridge ended")

    def begin(self) -> None:
        """Reset the env, which moves a real arm to its start pose."""
        self._reset({})
        self._publisher.begin()

    def tick(self) -> None:
        """Carry out or refuse the received messages, then do a control step."""
        for topic, why in self._transport.problems():
            warnings.warn(f"{topic}: {why}", stacklevel=2)
            self._refuse(topic, why)
        for topic, message in self._received():
            try:
                self._take(topic, message)
            except SmolVLAGymError as error:
                self._refuse(topic, str(error), message, getattr(error, "code", ResultCode.INVALID_GOAL))
        if self.fault is None:
            self._step()

    def publish(self) -> None:
        """Publish the result of the last step."""
        self._publisher.publish(
            self._steps, self._observation, self._info, mode=self._mode(), fault=self.fault,
            instruction=self._instruction or str(self._info["instruction"]),
        )  # fmt: skip

    # -- received messages ---------------------------------------------------------------------------------------------

    def _received(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the received messages: stops first, and beside a stop none that may move the arm."""
        received = self._transport.receive()
        stops = [(topic, message) for topic, message in received if _stops(topic, message)]
        if not stops:
            return list(received)
        self._refuse_all(
            [(topic, m) for topic, m in received if topic in STARTS], "it was received together with a stop"
        )
        rest = [(topic, m) for topic, m in received if topic not in STARTS and not _stops(topic, m)]
        return [*dict(stops).items(), *rest]  # a stop may arrive through several readers

    def _take(self, topic: str, message: Mapping[str, Any]) -> None:
        now = self._publisher.now(self._steps)
        if _stops(topic, message):
            if topic == "/estop":
                self._bare.stop()  # first, as the rest may fail; the e-stop button: drivers/board/driver.py
            self._halt("estop" if topic == "/estop" else "stopped", f"{topic} was received")
        elif topic in self._motions:
            self._refuse_in_fault()
            if self.running:
                raise ActionError("the policy drives; /stop takes over")
            self._motions[topic](message, now)
        elif topic == f"{FOLLOW}/cancel":
            self.setpoint.cancel(str(message["goal_id"]))
        elif topic == "/instruction":
            self._instruct(str(message["data"]))
        elif topic == "/start":
            self._start()
        elif topic == "/clear_fault":
            self._clear()
        elif topic == "/reset":
            self._begin_anew()

    def _refuse_in_fault(self) -> None:
        if self.fault is not None:
            raise ActionError(f"the fault {self.fault!r} holds the arm; /clear_fault clears it")

    def _instruct(self, text: str) -> None:
        text = text.strip()
        if not text:
            raise ActionError("the instruction is empty")
        if len(text) > _MAX_INSTRUCTION or not text.isprintable():
            raise ActionError(
                f"an instruction is one line of up to {_MAX_INSTRUCTION} printable characters; got {len(text)}"
            )
        before, self._instruction = self._instruction, text
        if self.running:
            try:
                self._start()
            except SmolVLAGymError:
                self._instruction = before
                raise
        self._publisher.event("instruction", text=text)

    def _start(self) -> None:
        if self._agent is None:
            raise ActionError("there is no policy: start the bridge with --policy")
        self._refuse_in_fault()
        instruction = self._instruction or str(self._info["instruction"])
        try:
            self._agent.reset(instruction, seed=self._seed)
        except SmolVLAGymError as error:
            if self.running:  # a refused instruction leaves the agent without a plan
                self._halt("stopped", str(error))
            raise
        self.running = True
        self.setpoint.drop("the policy drives", "preempted")
        self._publisher.event("started", instruction=instruction)

    def _halt(self, event: str, why: str) -> None:
        self.running = False
        self.setpoint.drop(why)
        self._publisher.event(event)

    def _clear(self) -> None:
        if self.fault is None:
            return
        if self.fault in _NEEDS_HOMING:
            raise ActionError(f"after {self.fault!r} the arm has to be homed: start this program again, with --home")
        self._bare.clear_fault()
        fault, self.fault = self.fault, None
        # It goes on from its present pose.
        here = np.clip(self._bare.backend.commanded, JOINT_LOWER, JOINT_UPPER)
        try:
            arrived = self._reset({"joints": here, "opening": self.setpoint.opening})
        except SmolVLAGymError:
            self.fault = fault  # without a reset nothing may drive the arm
            raise
        if arrived:
            self._publisher.event("cleared")

    def _begin_anew(self) -> None:
        self._refuse_in_fault()
        self._halt("reset", "/reset was received")
        self._seed += 1
        self._reset({})

    def _refuse(
        self, topic: str, why: str, message: Mapping[str, Any] | None = None,
        code: ResultCode = ResultCode.INVALID_GOAL,
    ) -> None:  # fmt: skip
        """Report the refusal of a message on ``/events`` and, of a goal, to its client."""
        why = printable(why, _LONGEST_REASON)
        self._publisher.event("refused", topic=topic, why=why)
        if topic == FOLLOW and message is not None:
            self._answer(str(message["goal_id"]), "abort", code, why)

    def _refuse_all(self, messages: list[tuple[str, Mapping[str, Any]]], why: str) -> None:
        """Refuse messages, with one event for each topic and a result for each goal."""
        refused: set[str] = set()
        for topic, message in messages:
            if topic == FOLLOW or topic not in refused:
                self._refuse(topic, why, message)
            refused.add(topic)

    def _answer(self, goal: str, status: str, code: ResultCode, why: str) -> None:
        result = {"goal_id": goal, "status": status, "error_code": int(code), "error_string": why}
        self._transport.publish(f"{FOLLOW}/result", result)

    # -- control steps -------------------------------------------------------------------------------------------------

    def _mode(self) -> str:
        if self.fault is not None:
            return "fault"
        return "policy" if self.running else self.setpoint.mode

    def _reset(self, options: dict[str, Any]) -> bool:
        """Reset the env, which moves a real arm to its start pose; return whether it arrived.

        Stops are carried out meanwhile. Messages that would move the arm are refused, all others are dropped.
        """
        arrived, stopped = threading.Event(), threading.Event()
        missed: list[tuple[str, Mapping[str, Any]]] = []

        def listen() -> None:
            while not arrived.wait(_LISTEN_S):
                received = self._transport.receive()
                missed.extend((topic, message) for topic, message in received[:_MISSED] if topic in STARTS)
                del missed[_MISSED:]
                if any(_stops(topic, message) for topic, message in received):
                    stopped.set()
                    self._bare.stop()

        listener = threading.Thread(target=listen, name="stops", daemon=True)
        listener.start()
        try:
            self._observation, self._info = self._env.reset(seed=self._seed, options=options)
        except FaultError as error:
            if not stopped.is_set() or not self._observation:
                raise
            self.fault = OPERATOR_STOP
            self._publisher.event("fault", why=str(error))
            return False
        finally:
            arrived.set()
            listener.join()
            self._refuse_all(missed, "the arm was driving to the beginning of an episode")
        opening = float(np.clip(self._observation["agent_pos"][NUM_JOINTS], 0.0, 1.0))
        self.setpoint.opening = float(options.get("opening", opening))
        if not options:
            self._publisher.event("ready", instruction=self._info["instruction"])
        return True

    def _step(self) -> None:
        if self.running:
            assert self._agent is not None  # noqa: S101 - narrows a type
            try:
                action = np.asarray(self._agent.act(self._observation), np.float32)
            except OptionError as error:  # a policy in another process checks the instruction with its first chunk
                self._halt("stopped", str(error))
                self._refuse("/instruction", str(error))
                action = self.setpoint.next_action()
        else:
            action = self.setpoint.next_action()
        space = self._env.action_space
        action = np.clip(action, space.low, space.high).astype(np.float32)  # type: ignore[attr-defined]
        self._observation, _, _, _, self._info = self._env.step(action)
        self.setpoint.opening = float(action[NUM_JOINTS])
        self._steps += 1
        if self._info["fault"] is None:
            measured = np.asarray(self._observation["agent_pos"][:NUM_JOINTS], np.float64)
            self.setpoint.judge(measured, self._info["safety"])
            if self._steps % _FEEDBACK_EVERY == 0:
                feedback = self.setpoint.feedback(self._publisher.now(self._steps), measured)
                if feedback is not None:
                    self._transport.publish(f"{FOLLOW}/feedback", feedback)
        if self._info["fault"] is not None:
            self.fault = str(self._info["fault"])
            self._halt("fault", f"the fault {self.fault!r} holds the arm")


def _stops(topic: str, message: Mapping[str, Any]) -> bool:
    return topic in STOPS and (topic != "/estop" or bool(message["data"]))
