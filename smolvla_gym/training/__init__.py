"""Training runs. They need the extra ``smolvla``.

The modules here are common to all runs: checks before a run, its folder, its log, its trials and the provenance of
its policy. :mod:`smolvla_gym.training.tiny` is the recipe of the bundled policy, with all frames in memory.
:mod:`smolvla_gym.training.lerobot` fine-tunes any SmolVLA with LeRobot's own training program.
"""
