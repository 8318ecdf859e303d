"""Checks of this machine: what is missing or does not work, and what to do about it."""
