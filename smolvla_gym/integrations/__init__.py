"""Integrations of the arm: LeRobot's command line, ROS 2, the browser, Rerun and MCAP."""
