"""The arm as a node of a ROS 2 graph, with or without an installation of ROS 2."""
