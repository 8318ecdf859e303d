"""Checks of a dataset: each module finds one kind of defects, and none computes a quality score."""
