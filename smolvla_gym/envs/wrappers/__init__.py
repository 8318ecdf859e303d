"""Wrappers of the environment."""
