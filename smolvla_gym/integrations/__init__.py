"""What makes the arm known to other programs: LeRobot's command line, ROS 2 and the browser."""
