"""Evaluation of policies in the simulation: success rates, failure modes and their comparison."""
