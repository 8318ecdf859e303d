"""The sizes of a SmolVLA, and making one of them with random weights."""

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
from smolvla_gym.agent.checkpoint.saving import VLM_FOLDER
from smolvla_gym.errors import MissingExtraError
from smolvla_gym.parol6 import ACTION_NAMES


@dataclass(frozen=True)
class Geometry:
    """The sizes of a SmolVLA.

    Attributes:
        vlm: Those of its vision-language model.
        layers: Layers of the language model that are used, from the first on; the action expert has as many.
        image_size: Side in px of the square pictures that the env gives.
        chunk_size: Actions a chunk.
        n_action_steps: How many of them are executed before the next chunk is asked for.
        num_steps: Flow steps a chunk.
        padded_width: Width that states and actions are padded to; None: they are not padded.
        padded_text: Whether sentences are padded to 48 tokens.
        frozen: Whether training would leave the vision-language model alone.
        action_dim: Width of an action. Anything but 7 is for tests.
        state_dim: Width of the state. Anything but 7 is for tests.
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
    """Makes a randomly initialised SmolVLA with LeRobot's own class, on the CPU.

    Args:
        directory: Gets the folder ``vlm/``, where the policy looks for its VLM's configuration and tokenizer.
        geometry: Its sizes.
        cameras: Names of the env's cameras that it sees, in order.
        stats: Normalisation statistics, see :func:`smolvla_gym.data.statistics.compute_stats`.
        sentences: Instructions that the tokenizer should spell with few tokens.
        vocabulary: Size of the tokenizer's vocabulary.
        seed: Seed of the weights. The global random state is left as it was.
        compile_mode: A mode of ``torch.compile``; None: it is not compiled.

    Returns:
        The policy, its preprocessor and its postprocessor.

    Raises:
        MissingExtraError: torch, transformers or lerobot is not installed.
    """
    try:
        import torch
        from lerobot.configs.types import FeatureType, PolicyFeature
        from lerobot.policies.factory import make_pre_post_processors
        from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
        from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
    except ImportError as err:
        raise MissingExtraError("Building a SmolVLA checkpoint", "smolvla", err) from err

    save_vlm(directory / VLM_FOLDER, geometry.vlm, sentences, vocabulary)
    picture = PolicyFeature(type=FeatureType.VISUAL, shape=(3, geometry.image_size, geometry.image_size))
    compiled = {} if compile_mode is None else {"compile_model": True, "compile_mode": compile_mode}
    config = SmolVLAConfig(
        input_features={
            "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(geometry.state_dim,)),
            **{f"observation.images.{name}": picture for name in cameras},
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
    # LeRobot prints while it builds; standard output belongs to the caller.
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(sys.stderr):
        torch.manual_seed(seed)
        policy = SmolVLAPolicy(config)
    tensors = {key: {name: torch.as_tensor(value) for name, value in of.items()} for key, of in stats.items()}
    preprocessor, postprocessor = make_pre_post_processors(config, dataset_stats=tensors)
    return policy, preprocessor, postprocessor
