"""Scenes of tasks, start poses and runs of the experts."""

import numpy as np

from smolvla_gym.parol6 import GRIPPERS
from smolvla_gym.parol6.inverse_kinematics import solve
from smolvla_gym.tasks import TASKS


def layouts(task, gripper="ssg48", num_objects=2, seeds=200):
    return [TASKS[task].layout(np.random.default_rng(seed), gripper, num_objects, 1) for seed in range(seeds)]


def scene(env):
    backend = env.unwrapped.backend
    return backend.world, backend.layout


def hold(world, opening=1.0):
    """An action that changes nothing."""
    return np.append(world.joints, opening).astype(np.float32)


def anywhere(rng):
    """Joint angles with the fingers down, somewhere above the objects."""
    while True:
        spot = rng.uniform((0.12, -0.14, 0.10), (0.30, 0.14, 0.20))
        joints = solve(spot, rng.uniform(-np.pi, np.pi), GRIPPERS["ssg48"], near_j6=rng.uniform(0, 2 * np.pi))
        if joints is not None:
            return joints


def run_expert(env, limit=450):
    """Follows the expert; returns the steps it took, or None."""
    for step in range(1, limit + 1):
        *_, terminated, truncated, info = env.step(env.unwrapped.expert_action())
        if terminated:
            return step if info["is_success"] else None
        if truncated:
            return None
    return None
