"""ROS 2: transports by CycloneDDS and rclpy, and descriptions of the arm for RViz and MoveIt."""
