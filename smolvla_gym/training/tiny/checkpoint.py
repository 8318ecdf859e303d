"""Make the tiny SmolVLA, which trains on two CPU cores and fits into the wheel: LeRobot's code with small sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from smolvla_gym.agent.checkpoint.new_policy import Geometry, make_policy
from smolvla_gym.agent.checkpoint.new_vlm import VLMGeometry
from smolvla_gym.agent.checkpoint.saving import save_checkpoint
from smolvla_gym.data.statistics import Stats
from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import ACTION_NAMES

DEFAULT_SENTENCES: Final = ("Pick up the red cube.", "Pick up the blue cube.", "Pick up the green cube.")
"""Default sentences from which the tokenizer is trained. Other text works too, with more tokens a word."""

_PATCH: Final = 8
_SCALE_FACTOR: Final = 2
_TEXT_LAYERS: Final = 4


def build_tiny_checkpoint(
    directory: str | Path,
    *,
    cameras: Sequence[str],
    stats: Stats,
    image_size: int = 64,
    chunk_size: int = 16,
    n_action_steps: int = 8,
    num_steps: int = 5,
    sentences: Sequence[str] = DEFAULT_SENTENCES,
    vocabulary: int = 384,
    action_dim: int = len(ACTION_NAMES),
    state_dim: int = len(ACTION_NAMES),
    seed: int = 0,
) -> Path:
    """Make a randomly initialised SmolVLA of 1.6 M parameters and save it as a self-contained checkpoint.

    Args:
        directory: Folder of the checkpoint: config.json, model.safetensors, both processors and ``vlm/``.
        cameras: Names of the env's cameras that the policy uses, in order.
        stats: Normalisation statistics, see :func:`smolvla_gym.data.statistics.compute_stats`.
        image_size: Side of the square images in px; a multiple of 16.
        chunk_size: Actions in a chunk.
        n_action_steps: Execution horizon: actions that are executed before the next chunk is requested.
        num_steps: Flow steps a chunk.
        sentences: Instructions from which the tokenizer is trained, so that they take few tokens.
        vocabulary: Size of the tokenizer's vocabulary, at least 300.
        action_dim: Width of an action. Values other than 7 are for tests.
        state_dim: Width of the state. Values other than 7 are for tests.
        seed: Seed of the weights. The global random state is not changed.

    Returns:
        The directory.

    Raises:
        OptionError: An option has a value that is not allowed.
        MissingExtraError: torch, transformers or lerobot is not installed.
    """
    if image_size % (_PATCH * _SCALE_FACTOR) or image_size <= 0:
        raise OptionError("image_size", image_size, f"a positive multiple of {_PATCH * _SCALE_FACTOR}")
    if vocabulary < 300:
        raise OptionError("vocabulary", vocabulary, "at least 300: 256 bytes and the special tokens")
    if not cameras:
        raise OptionError("cameras", cameras, "at least one name")
    directory = Path(directory)
    geometry = tiny_geometry(
        image_size=image_size, chunk_size=chunk_size, n_action_steps=n_action_steps, num_steps=num_steps,
        action_dim=action_dim, state_dim=state_dim,
    )  # fmt: skip
    policy, preprocessor, postprocessor = make_policy(
        directory, geometry, cameras=cameras, stats=stats, sentences=sentences, vocabulary=vocabulary, seed=seed
    )
    save_checkpoint(directory, policy, preprocessor, postprocessor)
    return directory


def tiny_geometry(
    *,
    image_size: int = 64,
    chunk_size: int = 16,
    n_action_steps: int = 8,
    num_steps: int = 5,
    action_dim: int = len(ACTION_NAMES),
    state_dim: int = len(ACTION_NAMES),
) -> Geometry:
    """Return the sizes of the tiny policy; see :func:`build_tiny_checkpoint`."""
    return Geometry(
        vlm=VLMGeometry(
            width=128,
            ffn=256,
            layers=_TEXT_LAYERS,
            heads=4,
            kv_heads=2,
            head_dim=32,
            positions=512,
            embeddings=None,
            vision_width=128,
            vision_ffn=256,
            vision_layers=3,
            vision_heads=4,
            image_size=image_size,
            patch=_PATCH,
            scale_factor=_SCALE_FACTOR,
            activation="relu",  # Cheaper than GELU on a CPU, and as good here.
        ),
        layers=_TEXT_LAYERS,
        image_size=image_size,
        chunk_size=chunk_size,
        n_action_steps=n_action_steps,
        num_steps=num_steps,
        # No padding to 32: the padded components carry no loss, so their flow would wander off at inference.
        padded_width=None,
        padded_text=False,
        frozen=False,
        action_dim=action_dim,
        state_dim=state_dim,
    )
