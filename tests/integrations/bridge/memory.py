"""A bridge without network and clock: messages go in, control steps are done one by one, messages come out."""

from __future__ import annotations

import json
from collections import deque

import gymnasium as gym
import numpy as np

import smolvla_gym
from smolvla_gym.integrations import ros_messages as ros
from smolvla_gym.integrations.bridge.bridge import Bridge
from smolvla_gym.integrations.bridge.topics import FOLLOW
from smolvla_gym.integrations.bridge.transport import Transport


class MemoryTransport(Transport):
    """Keeps what is sent, and hands over what a test puts in."""

    name = "memory"

    def __init__(self, actions=True):
        self.inbox, self.sent, self.topics, self.actions = deque(), [], {}, actions

    def advertise(self, topic, datatype, depth=1):
        self.topics[topic] = datatype

    def subscribe(self, topic, datatype):
        self.topics[topic] = datatype

    def publish(self, topic, message):
        self.sent.append((topic, message))

    def receive(self):
        # One by one: while the arm drives by itself a test puts messages in from another thread.
        return [self.inbox.popleft() for _ in range(len(self.inbox))]

    def serve_action(self, name, datatype):
        return self.actions

    def close(self):
        """Nothing to leave."""


class Arm:
    """The simulated arm behind a bridge."""

    def __init__(self, make_env=None, agent=None):
        self.env = (
            make_env() if make_env else gym.make(smolvla_gym.SIM_ID, cameras=(), task="reach", max_episode_steps=-1)
        )
        self.transport = MemoryTransport()
        self.bridge = Bridge(self.env, self.transport, agent=agent and agent(self.env), seed=3)
        self.bridge.begin()

    @property
    def commanded(self):
        """Where the arm was sent to, in rad."""
        return np.array(self.env.unwrapped.backend.commanded)

    @property
    def measured(self):
        """Where the arm is by /joint_states, in rad."""
        self.bridge.publish()
        return np.array(self.last("/joint_states")["position"][:6])

    @property
    def now(self):
        """The time of ``/clock`` in s."""
        self.bridge.publish()
        stamp = self.last("/clock")["clock"]
        return stamp["sec"] + 1e-9 * stamp["nanosec"]

    @property
    def status(self):
        self.transport.sent.clear()
        while not any(topic == "/status" for topic, _ in self.transport.sent):
            self.steps(1)
            self.bridge.publish()
        return json.loads(self.last("/status")["data"])

    def last(self, topic):
        return [message for name, message in self.transport.sent if name == topic][-1]

    def send(self, topic, message):
        self.transport.inbox.append((topic, message))

    def steps(self, count):
        for _ in range(count):
            self.bridge.tick()

    def until(self, true, seconds):
        """Does control steps until something is true, for so many s of the control steps at most."""
        for _ in range(round(seconds * self.env.unwrapped.control_hz)):
            if true():
                return
            self.steps(1)
        assert true(), self.events()[-5:]

    def events(self, *kinds):
        """Events of some kinds on /events."""
        events = [json.loads(message["data"]) for topic, message in self.transport.sent if topic == "/events"]
        return [event for event in events if not kinds or event["event"] in kinds]

    def results(self):
        return [message for topic, message in self.transport.sent if topic == f"{FOLLOW}/result"]

    def rest(self):
        """Stops the arm, lets it come to rest and forgets its messages."""
        self.send("/stop", {})
        before = None
        while before is None or np.abs(self.commanded - before).max() > 0:
            before = self.commanded
            self.steps(1)
        self.transport.sent.clear()


def command(joints, stamp=0.0):
    """A ``sensor_msgs/JointState``."""
    message = ros.joint_state(0.0, joints, joints.values())
    message["header"] = ros.header(stamp)
    return message


def goal(name, trajectory, path=(), end=(), time=0.0):
    """A goal of ``FollowJointTrajectory``; tolerances are names and rad."""

    def tolerances(given):
        return [
            {"name": joint, "position": value, "velocity": 0.0, "acceleration": 0.0}
            for joint, value in dict(given).items()
        ]

    return {
        "goal_id": name,
        "trajectory": trajectory,
        "path_tolerance": tolerances(path),
        "goal_tolerance": tolerances(end),
        "goal_time_tolerance": {"sec": int(np.floor(time)), "nanosec": round(time % 1 * 1e9)},
    }
