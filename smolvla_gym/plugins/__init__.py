"""What makes the arm known to other programs: LeRobot's command line and ROS 2."""
