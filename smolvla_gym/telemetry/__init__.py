"""Episodes as others look at them: in Rerun's viewer, and as files of ROS 2 messages."""
