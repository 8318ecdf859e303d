"""A node of a real ROS 2, run by the Python of a virtual environment with rclpy: ``ros2_peer.py DOMAIN``.

It prints what it found as JSON. It imports nothing of this project.
"""

import json
import os
import sys
import threading
import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, Empty, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

JOINTS = [f"joint_{i}" for i in range(1, 7)]

rclpy.init(domain_id=int(sys.argv[1]))
node = rclpy.create_node("peer")
states, images, raw, events, infos = [], [], [], [], []


def age(stamp):
    return time.time() - stamp.sec - 1e-9 * stamp.nanosec


node.create_subscription(JointState, "/joint_states", states.append, 100)
node.create_subscription(
    CompressedImage,
    "/camera/wrist/image/compressed",
    lambda m: images.append((time.time(), age(m.header.stamp), bytes(m.data[:3]).hex(), len(m.data))),
    10,
)
node.create_subscription(
    Image, "/camera/wrist/image", lambda m: raw.append((age(m.header.stamp), m.height, m.width, len(m.data))), 10
)
node.create_subscription(String, "/events", lambda m: events.append(json.loads(m.data)), 100)
commands = node.create_publisher(JointState, "/joint_commands", 10)
trajectories = node.create_publisher(JointTrajectory, "/joint_trajectory", 10)
estop, clear = node.create_publisher(Bool, "/estop", 10), node.create_publisher(Empty, "/clear_fault", 10)
executor = SingleThreadedExecutor()
executor.add_node(node)
threading.Thread(target=executor.spin, daemon=True).start()


def wait(true, seconds):
    end = time.time() + seconds
    while not true() and time.time() < end:
        time.sleep(0.01)
    return bool(true())


def said(kind):
    return [event for event in events if event["event"] == kind]


found = {"discovered": wait(lambda: states and commands.get_subscription_count(), 20)}
if not found["discovered"]:
    print(json.dumps(found), flush=True)
    os._exit(0)  # an error would wait for rclpy's threads, and they do not end
time.sleep(1)  # the other topics are found one after the other

# A stream of commands: joint_1 follows a slow sine, and every state comes.
begin, first = list(states[-1].position), len(states)
at = time.time()
while time.time() - at < 3:
    message = JointState(name=["joint_1"], position=[begin[0] + 0.1 * (time.time() - at)])
    commands.publish(message)
    time.sleep(0.02)
found["states_per_s"] = (len(states) - first) / 3
found["names"] = list(states[-1].name)
found["followed_rad"] = states[-1].position[0] - begin[0]
found["silent"] = wait(lambda: said("commander_silent"), 3)

# Bad ones are refused, and nothing moves.
before = len(said("refused"))
commands.publish(JointState(name=["joint_9"], position=[0.0]))
commands.publish(JointState(name=["joint_1"], position=[float("nan")]))
found["refused"] = wait(lambda: len(said("refused")) >= before + 2, 3)

# A trajectory.
here = list(states[-1].position[:6])
goal = [here[0] - 0.3, here[1] + 0.1, here[2] - 0.1, 0.2, here[4] + 0.1, here[5]]
plan = JointTrajectory(joint_names=JOINTS)
for share in (0.5, 1.0):
    point = JointTrajectoryPoint(positions=[a + share * (b - a) for a, b in zip(here, goal, strict=True)])
    point.time_from_start.sec, point.time_from_start.nanosec = int(2 * share), int(2e9 * share % 1e9)
    plan.points.append(point)
trajectories.publish(plan)
found["trajectory_done"] = wait(lambda: said("trajectory_done"), 6)
time.sleep(1)
found["trajectory_error_deg"] = max(abs(a - b) for a, b in zip(states[-1].position[:6], goal, strict=True)) * 57.29578

# The emergency stop holds it until it is cleared.
estop.publish(Bool(data=True))
found["stopped"] = wait(lambda: said("estop") and said("fault"), 3)
before = len(said("refused"))
commands.publish(JointState(name=["joint_1"], position=[0.0]))
found["refused_while_stopped"] = wait(lambda: len(said("refused")) > before, 3)
clear.publish(Empty())
found["cleared"] = wait(lambda: said("cleared"), 5)

ages = sorted(a for _, a, _, _ in images[-60:])
found["images"] = len(images)
found["jpeg"] = bool(images) and images[-1][2] == "ffd8ff"
found["images_per_s"] = (len(images[-60:]) - 1) / (images[-1][0] - images[-60:][0][0]) if images else 0
found["image_age_ms"] = 1e3 * ages[len(ages) // 2] if ages else None
found["raw"] = raw[-1][1:] if raw else None
print(json.dumps(found), flush=True)
os._exit(0)  # rclpy's threads do not end in an orderly way
