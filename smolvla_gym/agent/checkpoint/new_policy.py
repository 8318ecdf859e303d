"""Make a SmolVLA with random weights, of given sizes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.checkpoint.new_vlm import VLMGeometry, save_vlm
from smolvla_gym.agent.checkpoint.spec import VLM_FOLDER
from smolvla_gym.errors import needs_extra
from smolvla_gym.parol6 import ACTION_NAMES


@dataclass(frozen=True)
class Geometry:
    """Sizes of a SmolVLA.

    Attributes:
        vlm: Sizes of the vision-language model.
        layers: Used layers of the language model, from the first on; the action expert has as many.
        image_size: Side in px of the square images of the env.
        chunk_size: Actions in a chunk.
        n_action_steps: Execution horizon: actions that are executed before the next chunk is requested.
        num_steps: Flow steps a chunk.
        padded_width: Width to which states and actions are padded; None: they are not padded.
        padded_text: Whether instructions are padded to 48 tokens.
        frozen: Whether training leaves the vision-language model unchanged.
        action_dim: Width of an action. Values other than 7 are for tests.
        state_dim: Width of the state. Values other than 7 are for tests.
    """

    vlm: VLMGeometry
    layers: int
    image_size: int
    chunk_size: int
    n_action_steps: int
    num_steps: int
    padded_width: int | None
    padded_text: bool
    frozen: bool
    action_dim: int = len(ACTION_NAMES)
    state_dim: int = len(ACTION_NAMES)


def make_policy(
    directory: Path,
    geometry: Geometry,
    *,
    cameras: Sequence[str],
    stats: Mapping[str, Mapping[str, NDArray[np.float32]]],
    sentences: Sequence[str],
    vocabulary: int,
    seed: int,
    compile_mode: str | None = None,
) -> tuple[Any, Any, Any]:
    """Make a randomly initialised SmolVLA with LeRobot's own class, on the CPU.

    Args:
        directory: Folder in which ``vlm/``, the VLM's configuration and tokenizer, is written.
        geometry: Sizes of the policy.
        cameras: Names of the env's cameras that the policy uses, in order.
        stats: Normalisation statistics, see :func:`smolvla_gym.data.statistics.compute_stats`.
        sentences: Instructions from which the tokenizer is trained, so that they take few tokens.
        vocabulary: Size of the tokenizer's vocabulary.
        seed: Seed of the weights. The global random state is not changed.
        compile_mode: A mode of ``torch.compile``; None: the policy is not compiled.

    Returns:
        The policy, its preprocessor and its postprocessor.

    Raises:
        MissingExtraError: torch, transformers or lerobot is not installed.
    """
    with needs_extra("Building a SmolVLA checkpoint", "smolvla"):
        import torch
        from lerobot.configs.types import FeatureType, PolicyFeature
        from lerobot.policies.factory import make_pre_post_processors
        from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
        from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    save_vlm(directory / VLM_FOLDER, geometry.vlm, sentences, vocabulary)
    image = PolicyFeature(type=FeatureType.VISUAL, shape=(3, geometry.image_size, geometry.image_size))
    compiled = {} if compile_mode is None else {"compile_model": True, "compile_mode": compile_mode}
    config = SmolVLAConfig(
        input_features={
            "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(geometry.state_dim,)),
            **{f"observation.images.{name}": image for name in cameras},
        },
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(geometry.action_dim,))},
        chunk_size=geometry.chunk_size,
        n_action_steps=geometry.n_action_steps,
        num_steps=geometry.num_steps,
        max_state_dim=geometry.padded_width or geometry.state_dim,
        max_action_dim=geometry.padded_width or geometry.action_dim,
        resize_imgs_with_padding=(geometry.vlm.image_size, geometry.vlm.image_size),
        pad_language_to="max_length" if geometry.padded_text else "longest",
        vlm_model_name=str(directory / VLM_FOLDER),
        load_vlm_weights=False,
        num_vlm_layers=geometry.layers,
        freeze_vision_encoder=geometry.frozen,
        train_expert_only=geometry.frozen,
        device="cpu",
        push_to_hub=False,
        **compiled,
    )
    # LeRobot prints to standard output, which is for the results of the caller.
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(sys.stderr):
        torch.manual_seed(seed)
        policy = SmolVLAPolicy(config)
    tensors = {key: {name: torch.as_tensor(value) for name, value in of.items()} for key, of in stats.items()}
    preprocessor, postprocessor = make_pre_post_processors(config, dataset_stats=tensors)
    return policy, preprocessor, postprocessor
