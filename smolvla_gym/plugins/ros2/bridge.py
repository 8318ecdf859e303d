"""The arm as a node: it tells where it is and what it sees, and goes where it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.envs.backend import OPERATOR_STOP
from smolvla_gym.errors import FaultError, SmolVLAGymError
from smolvla_gym.evaluation.scripted import Agent
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_NAMES, JOINT_UPPER, NUM_JOINTS, STEPS_PER_RAD
from smolvla_gym.plugins.ros2.trajectory import Trajectory
from smolvla_gym.plugins.ros2.transport import Transport
from smolvla_gym.telemetry import ros_messages as ros
from smolvla_gym.telemetry.pose import Puppet

JAWS: Final = ("jaw_left", "jaw_right")
"""The gripper's joints in the URDF: what each jaw has travelled from closed, in m."""

GRIPPER: Final = "gripper"
"""In commands also the opening, 0 to 1."""

SILENCE_S: Final = 0.5
"""A stream of ``/joint_commands`` that pauses for longer is a commander that is gone: the arm stops where it is."""

PUBLISHED: Final = {
    "/joint_states": "sensor_msgs/JointState",
    "/tf": "tf2_msgs/TFMessage",
    "/status": "std_msgs/String",
    "/events": "std_msgs/String",
}

TAKEN: Final = {
    "/joint_commands": "sensor_msgs/JointState",
    "/joint_trajectory": "trajectory_msgs/JointTrajectory",
    "/instruction": "std_msgs/String",
    "/start": "std_msgs/Empty",
    "/stop": "std_msgs/Empty",
    "/estop": "std_msgs/Bool",
    "/clear_fault": "std_msgs/Empty",
    "/reset": "std_msgs/Empty",
}

_LISTEN_S: Final = 0.02
"""Seconds from one look for stops to the next."""

_ARRIVED: Final = 1e-3
"""How near in rad every joint has to be commanded to its target to count as there."""

_SLACK: Final = 2.0 / STEPS_PER_RAD
"""What was read back from the arm is rounded to whole steps."""

_STOPS: Final = ("/estop", "/stop")
"""What is looked at first, and also while the arm drives by itself."""

_STARTS: Final = ("/start", "/reset", "/clear_fault", "/joint_commands", "/joint_trajectory")
"""What does not count where somebody stops at the same time."""

_EVENTS_WAITING: Final = 100

_NEEDS_HOMING: Final = ("homing_lost", "homing_failed", "homing_unverified")
"""Faults after which the arm would have to move by itself to go on."""

_STATUS_EVERY: Final = 3
"""Steps from one ``/status`` to the next."""


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
            transport: The way to the graph. It stays open.
            agent: What drives between ``/start`` and ``/stop``.
            seed: Of the first scene; each ``/reset`` counts up.
            raw_images: Whether pictures are sent as ``sensor_msgs/Image`` too.
        """
        self._env, self._transport, self._agent, self._seed = env, transport, agent, seed
        bare: Any = env.unwrapped
        self._bare = bare
        self._period = 1.0 / float(bare.control_hz)
        self._simulated = not env.metadata.get("realtime", False)
        self._stroke = float(bare.gripper.stroke)
        self._puppet = Puppet(env)
        self._raw = raw_images
        self._cameras = tuple(env.observation_space["pixels"]) if "pixels" in env.observation_space.spaces else ()  # type: ignore[attr-defined, index]
        for topic, datatype in PUBLISHED.items():
            transport.advertise(topic, datatype, depth=_EVENTS_WAITING if topic == "/events" else 1)
        for camera in self._cameras:
            transport.advertise(f"/camera/{camera}/image/compressed", "sensor_msgs/CompressedImage")
            transport.advertise(f"/camera/{camera}/camera_info", "sensor_msgs/CameraInfo")
            if raw_images:
                transport.advertise(f"/camera/{camera}/image", "sensor_msgs/Image")
        if self._simulated:
            transport.advertise("/clock", "rosgraph_msgs/Clock")
        for topic, datatype in TAKEN.items():
            transport.subscribe(topic, datatype)

        self._observation: dict[str, Any] = {}
        self._info: dict[str, Any] = {}
        self._target: NDArray[np.float32] | None = None  # None: the arm stops, and stays
        self._opening = 1.0
        self._commanded_at: float | None = None
        self._trajectory: Trajectory | None = None
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
        self._began = time.time()
        end = None if duration is None else time.monotonic() + duration
        due = time.monotonic()
        while not stop.is_set() and (end is None or time.monotonic() < end):
            for topic, message in self._received():
                try:
                    self._take(topic, message)
                except SmolVLAGymError as error:
                    self._event("refused", topic=topic, why=str(error))
            if self._fault is None:
                self._step()
            if self._simulated or self._fault is not None:  # what was simulated is told when it is the time
                due = max(due + self._period, time.monotonic() - self._period)
                stop.wait(max(0.0, due - time.monotonic()))
            self._publish()

    # -- what comes ------------------------------------------------------------------------------------------------

    def _take(self, topic: str, message: Mapping[str, Any]) -> None:
        if topic == "/joint_commands":
            self._command(message)
        elif topic == "/joint_trajectory":
            self._follow(message)
        elif topic == "/instruction":
            self._instruct(str(message["data"]))
        elif topic == "/start":
            self._start()
        elif topic == "/stop":
            self._halt("stopped")
        elif topic == "/estop":
            if message["data"]:
                self._halt("estop")
                self._bare.stop()
        elif topic == "/clear_fault":
            self._clear()
        elif topic == "/reset":
            self._begin_anew()

    def _may_move(self, topic: str) -> bool:
        if self._fault is not None:
            self._event("refused", topic=topic, why=f"the fault {self._fault!r} holds the arm; /clear_fault clears it")
        elif self._running:
            self._event("refused", topic=topic, why="the policy drives; /stop takes over")
        return self._fault is None and not self._running

    def _command(self, message: Mapping[str, Any]) -> None:
        if not self._may_move("/joint_commands"):
            return
        names, positions = list(message["name"]), [float(p) for p in message["position"]]
        wrong = self._wrong(names, positions)
        if wrong:
            self._event("refused", topic="/joint_commands", why=wrong)
            return
        target = self._hold() if self._target is None else self._target.copy()
        for name, position in zip(names, positions, strict=True):
            if name in JOINT_NAMES:
                target[JOINT_NAMES.index(name)] = position
            else:
                target[NUM_JOINTS] = position if name == GRIPPER else position / self._stroke
        space = self._env.action_space
        target = np.clip(target, space.low, space.high)  # type: ignore[attr-defined]
        self._target, self._trajectory, self._commanded_at = target, None, time.monotonic()

    def _wrong(self, names: list[str], positions: list[float]) -> str:
        known = {joint: (low, high) for joint, low, high in zip(JOINT_NAMES, JOINT_LOWER, JOINT_UPPER, strict=True)}
        known |= {GRIPPER: (0.0, 1.0), **dict.fromkeys(JAWS, (0.0, self._stroke))}
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            return f"no joint is called {', '.join(unknown) or '(none given)'}; there are {', '.join(known)}"
        if len(names) != len(positions) or len(set(names)) != len(names):
            return f"{len(names)} names and {len(positions)} positions; one of each joint is wanted"
        if not np.isfinite(positions).all():
            return f"positions that are not finite: {positions}"
        for name, position in zip(names, positions, strict=True):
            low, high = known[name]
            slack = float(_SLACK.max()) if name in JOINT_NAMES else 0.01 * high
            if not low - slack <= position <= high + slack:
                return f"{name} cannot go to {position:g}; from {low:.4f} to {high:.4f} it can (rad, or m of a jaw)"
        return ""

    def _follow(self, message: Mapping[str, Any]) -> None:
        if not self._may_move("/joint_trajectory"):
            return
        begin = self._hold()  # wherever an earlier command would have led
        self._trajectory = Trajectory(message, np.asarray(begin[:NUM_JOINTS], np.float64))
        self._target, self._commanded_at = begin, None
        self._event("trajectory", points=len(message["points"]), seconds=self._trajectory.duration)

    def _instruct(self, text: str) -> None:
        if not text.strip():
            self._event("refused", topic="/instruction", why="the instruction is empty")
            return
        self._instruction = text
        self._event("instruction", text=text)
        if self._running:
            self._start()

    def _start(self) -> None:
        if self._agent is None:
            self._event("refused", topic="/start", why="there is no policy: start the bridge with --policy")
            return
        if self._fault is not None:
            self._event("refused", topic="/start", why=f"the fault {self._fault!r} holds the arm")
            return
        instruction = self._instruction or str(self._info["instruction"])
        self._agent.reset(instruction, seed=self._seed)
        self._running, self._trajectory, self._commanded_at = True, None, None
        self._event("started", instruction=instruction)

    def _halt(self, event: str) -> None:
        self._running, self._trajectory, self._commanded_at = False, None, None
        self._target = None
        self._event(event)

    def _clear(self) -> None:
        if self._fault is None:
            return
        if self._fault in _NEEDS_HOMING:
            why = f"after {self._fault!r} the arm has to be homed: start this program again, with --home"
            self._event("refused", topic="/clear_fault", why=why)
            return
        self._bare.clear_fault()
        self._fault = None
        # It goes on from where it stands.
        here = np.clip(self._bare.backend.commanded, JOINT_LOWER, JOINT_UPPER)
        if self._reset({"joints": here, "opening": self._opening}):
            self._event("cleared")

    def _begin_anew(self) -> None:
        if self._fault is not None:
            self._event("refused", topic="/reset", why=f"the fault {self._fault!r} holds the arm; /clear_fault first")
            return
        self._halt("reset")
        self._seed += 1
        self._reset({})

    # -- what is done ----------------------------------------------------------------------------------------------

    def _reset(self, options: dict[str, Any]) -> bool:
        """Begins an episode, which a real arm drives to by itself; returns whether it got there.

        Stops are heard meanwhile. Whatever else comes is not kept for later.
        """
        arrived, stopped = threading.Event(), threading.Event()

        def listen() -> None:
            while not arrived.wait(_LISTEN_S):
                for topic, message in self._transport.receive():
                    if topic == "/stop" or (topic == "/estop" and message["data"]):
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
            self._event("fault", why=str(error))
            return False
        finally:
            arrived.set()
            listener.join()
        self._opening = float(np.clip(self._observation["agent_pos"][NUM_JOINTS], 0.0, 1.0))
        if "opening" in options:
            self._opening = float(options["opening"])
        if not options:
            self._event("ready", instruction=self._info["instruction"])
        return True

    def _received(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Returns what came: stops first, and nothing that would move the arm beside them."""
        came = self._transport.receive()
        stops = [(topic, m) for topic, m in came if topic == "/stop" or (topic == "/estop" and m["data"])]
        if not stops:
            return list(came)
        for topic in dict.fromkeys(topic for topic, _ in came if topic in _STARTS):
            self._event("refused", topic=topic, why="it came together with a stop")
        return [*stops, *((topic, m) for topic, m in came if topic not in (*_STARTS, *_STOPS))]

    def _hold(self) -> NDArray[np.float32]:
        """Returns the action that stops the arm where it was sent to; the jaws keep what they hold."""
        return np.append(self._bare.backend.commanded, self._opening).astype(np.float32)

    def _next_action(self) -> NDArray[np.float32]:
        if self._running:
            assert self._agent is not None
            return np.asarray(self._agent.act(self._observation), np.float32)
        if self._commanded_at is not None and time.monotonic() - self._commanded_at > SILENCE_S:
            self._commanded_at = None
            assert self._target is not None
            moving = np.abs(self._hold() - self._target)[:NUM_JOINTS].max() > _ARRIVED
            if moving:  # one that has arrived may be silent
                self._target = None
            self._event("commander_silent", stopped=bool(moving), seconds=SILENCE_S)
        if self._trajectory is not None:
            assert self._target is not None
            self._target[:NUM_JOINTS] = self._trajectory.advance(self._period)
            # A slow arm is later than its trajectory.
            if self._trajectory.done and np.abs(self._hold()[:NUM_JOINTS] - self._trajectory.end).max() < _ARRIVED:
                self._trajectory = None
                self._event("trajectory_done")
        # Without a target it is asked anew in each step, so that an arm that brakes does not come back.
        return self._hold() if self._target is None else self._target

    def _step(self) -> None:
        space = self._env.action_space
        action = np.clip(self._next_action(), space.low, space.high)  # type: ignore[attr-defined]
        self._observation, _, _, _, self._info = self._env.step(action.astype(np.float32))
        self._opening = float(action[NUM_JOINTS])
        self._steps += 1
        if self._info["fault"] is not None:
            self._fault = str(self._info["fault"])
            self._halt("fault")

    # -- what is told ----------------------------------------------------------------------------------------------

    def _event(self, kind: str, **details: Any) -> None:
        self._transport.publish("/events", {"data": json.dumps({"event": kind, **details})})

    def _now(self) -> float:
        """Returns the time that messages carry: of the simulation, which began with the clock's, or the clock's."""
        return self._began + self._steps * self._period if self._simulated else time.time()

    def _publish(self) -> None:
        send, now = self._transport.publish, self._now()
        state = np.asarray(self._observation["agent_pos"], np.float64)
        if self._fault is not None:  # no step brings an observation, and an old picture is worth nothing
            state = np.append(self._bare.backend.commanded, state[NUM_JOINTS])
        if self._simulated:
            send("/clock", {"clock": ros.header(now)["stamp"]})
        jaw = float(state[NUM_JOINTS]) * self._stroke
        send("/joint_states", ros.joint_state(now, (*JOINT_NAMES, *JAWS), [*state[:NUM_JOINTS], jaw, jaw]))
        frames = self._puppet.frames(state)
        wanted = ("base", "tool", *(f"{camera}_camera" for camera in self._cameras))
        send("/tf", {"transforms": [ros.transform(now, "world", name, *frames[name]) for name in wanted]})
        seen = now - float(self._info.get("frame_age_s") or 0.0)
        pictures = {} if self._fault is not None else self._observation.get("pixels", {})
        for camera, picture in pictures.items():
            frame, topic = f"{camera}_camera", f"/camera/{camera}"
            send(f"{topic}/image/compressed", ros.compressed_image(seen, frame, picture))
            if self._raw:
                send(f"{topic}/image", ros.image(seen, frame, picture))
            intrinsics = self._puppet.intrinsics(camera, picture.shape[:2])
            send(f"{topic}/camera_info", ros.camera_info(seen, frame, intrinsics))
        if self._steps % _STATUS_EVERY == 0 or self._fault is not None:
            status = {
                "mode": "fault" if self._fault else "policy" if self._running else "trajectory" if self._trajectory
                else "commands" if self._commanded_at is not None else "idle",
                "fault": self._fault, "instruction": self._instruction or self._info["instruction"],
                "is_success": bool(self._info["is_success"]), "opening": float(state[NUM_JOINTS]),
                "safety": sorted({str(event["rule"]) for event in self._info["safety"]}),
            }  # fmt: skip
            send("/status", {"data": json.dumps(status)})
