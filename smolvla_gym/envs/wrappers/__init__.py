"""Wrappers of the environment: other actions, and flat observations."""
