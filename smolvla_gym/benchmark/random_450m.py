"""Make an untrained SmolVLA of the usual size in memory, without the hub, to measure speed and memory."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from smolvla_gym.agent.checkpoint.load import LoadedCheckpoint, check_options, checkpoint_from_policy
from smolvla_gym.agent.checkpoint.new_policy import Geometry, make_policy
from smolvla_gym.agent.checkpoint.new_vlm import VLMGeometry
from smolvla_gym.agent.checkpoint.saving import save_small_files
from smolvla_gym.data.statistics import Stats, compute_stats
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER

RANDOM_450M: Final = "random-450m"
"""Name of the policy."""

SMOLVLA_450M: Final = Geometry(
    vlm=VLMGeometry(
        width=960,
        ffn=2560,
        layers=32,
        heads=15,
        kv_heads=5,
        head_dim=64,
        positions=8192,
        embeddings=49280,
        vision_width=768,
        vision_ffn=3072,
        vision_layers=12,
        vision_heads=12,
        image_size=512,
        patch=16,
        scale_factor=4,
        activation="gelu_pytorch_tanh",
    ),
    layers=16,
    image_size=256,
    chunk_size=50,
    n_action_steps=50,
    num_steps=10,
    padded_width=32,
    padded_text=True,
    frozen=True,
)
"""Sizes of ``lerobot/smolvla_base``, which is based on SmolVLM2-500M, with actions of width 7."""


def build_random_450m(
    cameras: int = 1,
    *,
    absent: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    geometry: Geometry = SMOLVLA_450M,
) -> LoadedCheckpoint:
    """Make the policy in memory, which takes 3 GB and about 15 s.

    The policy is checked like a checkpoint that is loaded. Its actions have no meaning.

    Args:
        cameras: Number of cameras, from 1: ``"wrist"``, ``"scene"``, ``"camera3"`` and so on.
        absent: Number of additional cameras without images: LeRobot computes black images in their place.
        device: As for :func:`smolvla_gym.agent.checkpoint.load.load_checkpoint`.
        dtype: As there; ``"auto"`` is float32.
        seed: Seed of the weights.
        geometry: Sizes of the policy.

    Raises:
        OptionError: An option has a value that is not allowed.
        MissingExtraError: torch, transformers or lerobot is not installed.
    """
    check_options(dtype)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder, RANDOM_450M)
        policy, preprocessor, postprocessor = make_policy(
            directory,
            geometry,
            cameras=camera_names(cameras),
            stats=full_range_stats(),
            sentences=("pick up the red cube",),
            vocabulary=384,
            seed=seed,
        )
        policy.config.empty_cameras = absent
        policy.config.validate_features()  # names them
        save_small_files(directory, policy.config, preprocessor, postprocessor)
        return checkpoint_from_policy(policy, directory, device=device, dtype=dtype)


def camera_names(count: int) -> tuple[str, ...]:
    """Return the names of a number of cameras."""
    names = itertools.chain(("wrist", "scene"), (f"camera{number}" for number in itertools.count(3)))
    return tuple(itertools.islice(names, count))


def full_range_stats() -> Stats:
    """Return statistics of actions over the whole range of the arm."""
    lower, upper = np.append(JOINT_LOWER, 0.0), np.append(JOINT_UPPER, 1.0)
    actions = np.linspace(lower, upper, 101, dtype=np.float32)
    return compute_stats(actions, actions)
