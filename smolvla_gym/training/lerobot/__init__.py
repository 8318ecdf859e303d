"""Fine-tuning with LeRobot's training program."""
