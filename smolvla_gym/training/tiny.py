"""A SmolVLA small enough to be trained on two CPU cores and shipped in the wheel: LeRobot's code, tiny geometry."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from smolvla_gym.errors import MissingExtraError, OptionError
from smolvla_gym.parol6 import ACTION_NAMES
from smolvla_gym.training.saving import VLM_FOLDER, save_checkpoint
from smolvla_gym.training.stats import Stats

DEFAULT_SENTENCES: Final = ("Pick up the red cube.", "Pick up the blue cube.", "Pick up the green cube.")
"""What the tokenizer is made for when nothing else is said. Other text still works, with more tokens a word."""

_SPECIAL_TOKENS: Final = {
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
}
# SmolVLM's processor and SmolVLA itself look these up as attributes of the tokenizer.
_IMAGE_TOKENS: Final = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
    "video_token": "<video>",
}
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
    """Makes a randomly initialised SmolVLA of 1.6 M parameters and saves it, complete and self-contained.

    Args:
        directory: Where to. It gets config.json, model.safetensors, both processors and ``vlm/``.
        cameras: Names of the env's cameras that the policy sees, in order.
        stats: Normalisation statistics, see :func:`smolvla_gym.training.stats.compute_stats`.
        image_size: Side of the square pictures in pixels; a multiple of 16.
        chunk_size: Actions a chunk.
        n_action_steps: How many of them are executed before the next chunk is asked for.
        num_steps: Flow steps a chunk.
        sentences: Instructions that the tokenizer should spell with few tokens.
        vocabulary: Size of the tokenizer's vocabulary, at least 300.
        action_dim: Width of an action. Anything but 7 is for tests.
        state_dim: Width of the state. Anything but 7 is for tests.
        seed: Seed of the weights. The global random state is left as it was.

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
    try:
        import torch
        from lerobot.configs.types import FeatureType, PolicyFeature
        from lerobot.policies.factory import make_pre_post_processors
        from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
        from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
    except ImportError as err:
        raise MissingExtraError("Building a SmolVLA checkpoint", "smolvla", err) from err

    directory = Path(directory)
    _save_vlm(directory / VLM_FOLDER, sentences, vocabulary, image_size)
    picture = PolicyFeature(type=FeatureType.VISUAL, shape=(3, image_size, image_size))
    config = SmolVLAConfig(
        input_features={
            "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(state_dim,)),
            **{f"observation.images.{name}": picture for name in cameras},
        },
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(action_dim,))},
        chunk_size=chunk_size,
        n_action_steps=n_action_steps,
        num_steps=num_steps,
        # No padding to 32: the padded components carry no loss, so their flow would wander off at inference.
        max_state_dim=state_dim,
        max_action_dim=action_dim,
        resize_imgs_with_padding=(image_size, image_size),
        vlm_model_name=str(directory / VLM_FOLDER),
        load_vlm_weights=False,
        num_vlm_layers=_TEXT_LAYERS,
        freeze_vision_encoder=False,
        train_expert_only=False,
        device="cpu",
        push_to_hub=False,
    )
    # LeRobot prints while it builds; standard output belongs to the caller.
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(sys.stderr):
        torch.manual_seed(seed)
        policy = SmolVLAPolicy(config)
    tensors = {key: {name: torch.as_tensor(value) for name, value in of.items()} for key, of in stats.items()}
    preprocessor, postprocessor = make_pre_post_processors(config, dataset_stats=tensors)
    save_checkpoint(directory, policy, preprocessor, postprocessor)
    return directory


def _save_vlm(directory: Path, sentences: Sequence[str], vocabulary: int, image_size: int) -> None:
    """Writes the configuration, tokenizer and processor of the vision-language model."""
    from transformers import SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    tokenizer = _train_tokenizer(sentences, vocabulary)
    text = {
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": _TEXT_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": image_size,
        "patch_size": _PATCH,
        "hidden_act": "relu",  # Cheaper than GELU on a CPU, and as good here.
    }
    config = SmolVLMConfig(
        text_config=text,
        vision_config=vision,
        scale_factor=_SCALE_FACTOR,
        image_token_id=tokenizer.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # SmolVLA freezes the head by its name and does not find it when it is tied.
        tie_word_embeddings=False,
    )
    size = {"longest_edge": image_size}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(size=size, max_image_size=size, do_image_splitting=False),
        tokenizer,
        SmolVLMVideoProcessor(size=size, max_image_size=size),
        image_seq_len=(image_size // _PATCH // _SCALE_FACTOR) ** 2,
    )
    config.save_pretrained(directory)
    processor.save_pretrained(directory)


def _train_tokenizer(sentences: Sequence[str], vocabulary: int) -> Any:
    """Trains a byte-level BPE: any text can be spelt, the given sentences in few tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # type: ignore[import-untyped]
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*_SPECIAL_TOKENS.values(), *_IMAGE_TOKENS.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((sentence + "\n" for sentence in sentences), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=128,
        padding_side="right",
        extra_special_tokens=dict(_IMAGE_TOKENS),
        **_SPECIAL_TOKENS,
    )
