"""Demonstrations as LeRobot datasets."""
