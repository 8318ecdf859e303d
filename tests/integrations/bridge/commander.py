"""The other end of a bridge, over DDS as ROS 2 talks."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

pytest.importorskip("cyclonedds")

from smolvla_gym.integrations import ros_messages as ros
from smolvla_gym.integrations.bridge.topics import PUBLISHED, TAKEN
from smolvla_gym.integrations.ros2.cyclone import CycloneTransport


class Commander(CycloneTransport):
    """Takes what the bridge sends, and keeps it."""

    def __init__(self, domain):
        super().__init__(domain)
        self.seen = {}
        self.events = []
        for topic, datatype in TAKEN.items():
            self.advertise(topic, datatype)
        for topic, datatype in {**PUBLISHED, "/clock": "rosgraph_msgs/Clock"}.items():
            self.subscribe(topic, datatype)

    def look(self):
        for topic, message in self.receive():
            self.seen[topic] = message
            if topic == "/events":
                self.events.append(json.loads(message["data"]))

    def wait(self, true, seconds=15.0):
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, self.events[-5:]
            self.look()
            time.sleep(0.01)

    def events_of(self, kind):
        return [event for event in self.events if event["event"] == kind]

    @property
    def joints(self):
        return np.array(self.seen["/joint_states"]["position"][:6])

    @property
    def status(self):
        return json.loads(self.seen["/status"]["data"])

    def joint_command(self, **joints):
        self.publish("/joint_commands", ros.joint_state(0.0, joints, joints.values()))
