"""A sender of emergency stops on another computer: ``ros2_stranger.py DOMAIN ADDRESS SECONDS``, in its own network.

With ``ROS_STATIC_PEERS`` it finds also who announces himself on the loopback alone. It imports nothing of this project.
"""

import os
import sys
import time

os.environ["ROS_STATIC_PEERS"] = sys.argv[2]

import rclpy
from std_msgs.msg import Bool

rclpy.init(domain_id=int(sys.argv[1]))
node = rclpy.create_node("stranger")
estop = node.create_publisher(Bool, "/estop", 10)
end = time.time() + float(sys.argv[3])
while time.time() < end:
    estop.publish(Bool(data=True))
    rclpy.spin_once(node, timeout_sec=0.1)
os._exit(0)  # rclpy's threads do not end in an orderly way
