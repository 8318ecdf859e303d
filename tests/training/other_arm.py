"""A small SmolVLA that is for another arm, as ``lerobot/smolvla_base`` is."""

from dataclasses import replace

import numpy as np

from smolvla_gym.agent.checkpoint.new_policy import make_policy
from smolvla_gym.agent.checkpoint.saving import save_checkpoint
from smolvla_gym.training.tiny.checkpoint import tiny_geometry


def build_other_arm(folder, sentences):
    """Save a policy with random weights: six dimensions padded to 32, and cameras of other names."""
    geometry = replace(
        tiny_geometry(chunk_size=4, n_action_steps=2, num_steps=2), padded_width=32, action_dim=6, state_dim=6
    )
    six = {name: np.full(6, value, np.float32) for name, value in (("mean", 0), ("std", 1), ("min", -1), ("max", 1))}
    parts = make_policy(
        folder, geometry, cameras=("camera1", "camera2"), stats={"observation.state": six, "action": six},
        sentences=sentences, vocabulary=384, seed=0,
    )  # fmt: skip
    save_checkpoint(folder, *parts)
    return folder
