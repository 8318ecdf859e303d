"""Teleoperation: the keyboard or a gamepad moves the arm, and a window shows its cameras."""
