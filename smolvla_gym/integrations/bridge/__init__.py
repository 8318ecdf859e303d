"""The arm driven from outside: commands come as messages, over ROS 2 or from the page of ``smolvla-gym view``."""
