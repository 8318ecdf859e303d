"""LeRobot plugins: the arm as an environment, a robot and a teleoperator."""
