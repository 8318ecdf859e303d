"""Bridge to other programs: commands arrive as messages, over ROS 2 or from the page of ``smolvla-gym view``."""
