"""Backends of the environment: simulated, real and virtual arm."""
