"""Small datasets, recorded as ``smolvla-gym record`` does."""

import json

import numpy as np

from smolvla_gym.data.dataset import Dataset, Episode
from smolvla_gym.data.spec import DatasetSpec


def make_dataset(root, instruction="lift the red cube", fps=30, frames=20, seeds=(7, 8)):
    """Record noise through two cameras, an episode a seed; returns the folder."""
    spec = DatasetSpec(fps, ("wrist", "scene"), (64, 64), "ssg48")
    dataset = Dataset(root, spec)
    rng = np.random.default_rng(0)
    for seed in seeds:
        episode = Episode.begin(instruction, seed, "expert", spec.cameras)
        for _ in range(frames):
            pixels = {camera: rng.integers(0, 255, (64, 64, 3), np.uint8) for camera in spec.cameras}
            position = rng.uniform(-1, 1, 7).astype(np.float32)
            position[-1] = rng.uniform()  # the gripper's opening
            episode.note({"pixels": pixels, "agent_pos": position}, position)
        dataset.add(episode)
    return root


def edit_json(path, **changes):
    """Change entries of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
