"""Measure speed, memory and numerical agreement of policies."""
