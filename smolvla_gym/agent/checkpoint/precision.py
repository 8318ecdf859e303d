"""Cast a policy's weights to number types (dtypes) with which LeRobot's SmolVLA can run."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from smolvla_gym.errors import CheckpointError

DTYPES: Final = ("auto", "float32", "bfloat16", "float16")
"""Allowed values of ``dtype``. ``"auto"``: as the weights were saved, as far as SmolVLA can run with it."""

_SAVED: Final = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Type by its name in a safetensors file."""

# LeRobot passes float32 to these in any case: the state, the noise and the expert's last hidden states.
_WIDE: Final = re.compile(r"model\.(state_proj|action_in_proj|action_out_proj|action_time_mlp_(in|out))\.")

# LeRobot casts between these parts but not within one, so each must have one type.
_PARTS: Final = (
    re.compile(r"\.vlm\.model\.(vision_model|connector)\."),
    re.compile(r"\.vlm\.model\.text_model\."),
    re.compile(r"\.lm_expert\."),
)
_KEYS_AND_VALUES: Final = re.compile(r"\.lm_expert\.layers\.(\d+)\.self_attn\.[kv]_proj\.")


def cast_policy(policy: Any, saved: Mapping[str, str], dtype: str) -> None:
    """Cast the weights of a policy, in place.

    A half-precision type applies to all weights but the projections of state and actions, which SmolVLA computes in
    float32. ``policy.to(torch.bfloat16)`` would not run.

    Args:
        policy: A ``SmolVLAPolicy`` with its weights.
        saved: The type of each weight in its file, such as ``"BF16"``. LeRobot loads all weights as float32, because it
            does not load the VLM's own weights here.
        dtype: One of ``DTYPES``.
    """
    import torch

    if dtype != "auto":
        wanted = getattr(torch, dtype)
        for key, parameter in policy.named_parameters():
            parameter.data = parameter.data.to(torch.float32 if _WIDE.match(key) else wanted)
        return
    if saved.get("model.action_out_proj.weight") != "F32":
        # LeRobot keeps the projections in float32 in any case. A file that has them in half precision was rounded to
        # save space, and its policy was not meant to compute in half precision.
        policy.to(torch.float32)
        return
    types = {key: _SAVED.get(saved.get(key, "F32"), "float32") for key, _ in policy.named_parameters()}
    of_part: dict[str, set[str]] = defaultdict(set)
    for key, name in types.items():
        of_part[_part(policy, key)].add(name)
    for key, parameter in policy.named_parameters():
        mixed = len(of_part[_part(policy, key)]) > 1
        parameter.data = parameter.data.to(torch.float32 if mixed or _WIDE.match(key) else getattr(torch, types[key]))


def _part(policy: Any, key: str) -> str:
    """Return the part of the network that a weight belongs to; a weight that may have any type is its own part."""
    layer = _KEYS_AND_VALUES.search(key)
    # In cross-attention layers of the expert LeRobot casts keys and values. It saves these layers in float32.
    if layer and is_cross_attention_layer(policy.config, int(layer[1])):
        return key
    return next((part.pattern for part in _PARTS if part.search(key)), key)


def is_cross_attention_layer(config: Any, layer: int) -> bool:
    """Return whether a layer of the expert attends to the prefix alone, and not to the expert's own tokens.

    Args:
        config: A ``SmolVLAConfig``, or the network built from it.
        layer: Number of the layer, from 0 on.
    """
    every = config.self_attn_every_n_layers
    return "cross" in config.attention_mode and not (every > 0 and layer % every == 0)


def count_dtypes(policy: Any) -> dict[str, int]:
    """Return the number of parameters of each type, the most frequent type first."""
    counts: dict[str, int] = defaultdict(int)
    for parameter in policy.parameters():
        counts[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def check_language_mask(batch: Mapping[str, Any]) -> None:
    """Refuse a batch whose language mask is not boolean, as SmolVLA's attention requires.

    Args:
        batch: Output of a preprocessor.

    Raises:
        CheckpointError: The mask has another type.
    """
    import torch

    mask = batch["observation.language.attention_mask"]
    if mask.dtype != torch.bool:
        raise CheckpointError(
            f"The checkpoint's preprocessor returns the language mask as {mask.dtype}; SmolVLA's attention requires "
            "torch.bool. Save the preprocessor again with lerobot 0.6, whose tokenizer step casts it."
        )
