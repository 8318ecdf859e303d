"""A client of ``FollowJointTrajectory`` as MoveIt is one, in a real ROS 2: ``ros2_action_peer.py DOMAIN NAMESPACE``.

It prints what it found as JSON. It imports nothing of this project.
"""

import json
import os
import sys
import threading
import time

import rclpy
from control_msgs.action import FollowJointTrajectory
from control_msgs.msg import JointTolerance
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Empty, String
from trajectory_msgs.msg import JointTrajectoryPoint

ARM = sys.argv[2]
rclpy.init(domain_id=int(sys.argv[1]))
node = rclpy.create_node("planner")
states, events = [], []
node.create_subscription(JointState, f"/{ARM}/joint_states", states.append, 100)
node.create_subscription(String, f"/{ARM}/events", lambda m: events.append(json.loads(m.data)), 100)
best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
estop, clear = (
    node.create_publisher(Bool, f"/{ARM}/estop", best_effort),
    node.create_publisher(Empty, f"/{ARM}/clear_fault", 1),
)
client = ActionClient(node, FollowJointTrajectory, f"/{ARM}/joint_trajectory_controller/follow_joint_trajectory")
executor = SingleThreadedExecutor()
executor.add_node(node)
threading.Thread(target=executor.spin, daemon=True).start()


def wait(true, seconds):
    end = time.time() + seconds
    while not true() and time.time() < end:
        time.sleep(0.01)
    return bool(true())


def goal(offset, seconds, joint="joint_1", tolerance=0.0, stamp=0):
    made = FollowJointTrajectory.Goal()
    made.trajectory.joint_names = [joint]
    made.trajectory.header.stamp.sec = stamp
    point = JointTrajectoryPoint(positions=[states[-1].position[0] + offset])
    point.time_from_start.sec, point.time_from_start.nanosec = int(seconds), int(seconds % 1 * 1e9)
    made.trajectory.points = [point]
    if tolerance:
        made.path_tolerance = [JointTolerance(name=joint, position=tolerance)]
    return made


def send(made, feedback=None):
    sent = client.send_goal_async(made, feedback_callback=feedback)
    assert wait(sent.done, 5), "the goal was not answered"
    return sent.result(), sent.result().get_result_async()


def result(future, seconds=10):
    if not wait(future.done, seconds):
        return None
    return [future.result().status, future.result().result.error_code, future.result().result.error_string]


found = {"server": client.wait_for_server(timeout_sec=20) and wait(lambda: states, 10)}
if found["server"]:
    wait(estop.get_subscription_count, 10)
    time.sleep(1)
    begin, feedback = states[-1].position[0], []
    found["success"] = result(send(goal(0.4, 1.5), feedback.append)[1])
    time.sleep(0.3)
    found["moved"] = states[-1].position[0] - begin
    found["feedback"] = len(feedback)
    found["feedback_joints"] = list(feedback[-1].feedback.joint_names)
    handle, ended = send(goal(-0.6, 3.0))
    time.sleep(1)
    handle.cancel_goal_async()
    found["canceled"] = result(ended, 5)
    time.sleep(0.5)
    held = states[-1].position[0]
    time.sleep(0.5)
    found["held"] = abs(states[-1].position[0] - held)
    first = send(goal(-0.3, 3.0))[1]
    time.sleep(0.5)
    second = send(goal(0.2, 1.0))[1]
    found["preempted"], found["second"] = result(first), result(second)
    found["joints"] = result(send(goal(0.1, 1.0, "elbow"))[1])
    found["old"] = result(send(goal(0.1, 1.0, stamp=1_600_000_000))[1])
    found["path"] = result(send(goal(-0.5, 0.6, tolerance=0.001))[1])
    ended = send(goal(-0.3, 3.0))[1]
    time.sleep(0.5)
    estop.publish(Bool(data=True))
    found["estop"] = result(ended, 3)
    found["faulty"] = result(send(goal(0.1, 1.0))[1])
    clear.publish(Empty())
    found["cleared"] = wait(lambda: any(event["event"] == "cleared" for event in events), 5)
    found["after"] = result(send(goal(0.1, 1.0))[1])
print(json.dumps(found), flush=True)
os._exit(0)  # rclpy's threads do not end in an orderly way
