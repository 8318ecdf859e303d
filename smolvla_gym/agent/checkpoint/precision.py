"""The number types of a policy's weights: those that LeRobot's SmolVLA can run with, and how it gets them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from smolvla_gym.errors import CheckpointError

DTYPES: Final = ("auto", "float32", "bfloat16", "float16")
"""What may be asked for. ``"auto"``: as the weights were saved, as far as SmolVLA can run so."""

_SAVED: Final = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Type by its name in a safetensors file."""

# Whatever the rest is in, LeRobot hands these float32: the state, the noise and the expert's last hidden states.
_WIDE: Final = re.compile(r"model\.(state_proj|action_in_proj|action_out_proj|action_time_mlp_(in|out))\.")

# Each of these hands its numbers on without a cast, so it has to be of one type. Between them LeRobot casts.
_PARTS: Final = (
    re.compile(r"\.vlm\.model\.(vision_model|connector)\."),
    re.compile(r"\.vlm\.model\.text_model\."),
    re.compile(r"\.lm_expert\."),
)
_KEYS_AND_VALUES: Final = re.compile(r"\.lm_expert\.layers\.(\d+)\.self_attn\.[kv]_proj\.")


def cast_policy(policy: Any, saved: Mapping[str, str], dtype: str) -> None:
    """Gives the weights of a policy their types, in place.

    A half-precision type is that of all weights but the projections of state and actions, which SmolVLA computes in
    float32. ``policy.to(torch.bfloat16)`` would not run.

    Args:
        policy: A ``SmolVLAPolicy`` with its weights.
        saved: The type of each weight in its file, such as ``"BF16"``. LeRobot, which is kept from fetching the VLM's
            own weights, makes all of them float32 when it loads them.
        dtype: One of ``DTYPES``.
    """
    import torch

    if dtype != "auto":
        wanted = getattr(torch, dtype)
        for key, parameter in policy.named_parameters():
            parameter.data = parameter.data.to(torch.float32 if _WIDE.match(key) else wanted)
        return
    if saved.get("model.action_out_proj.weight") != "F32":
        # LeRobot keeps the projections in float32 whatever the rest is. A file that holds them in half precision was
        # rounded to save space, and nothing was meant to be computed so.
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
    """Returns the part of the network that a weight belongs to; one that may be of any type is its own."""
    layer = _KEYS_AND_VALUES.search(key)
    # Where the expert looks at the prefix, LeRobot casts keys and values. It saves these layers in float32.
    if layer and is_cross_attention_layer(policy.config, int(layer[1])):
        return key
    return next((part.pattern for part in _PARTS if part.search(key)), key)


def is_cross_attention_layer(config: Any, layer: int) -> bool:
    """Tells whether a layer of the expert looks at the prefix alone, and not at its own tokens beside it.

    Args:
        config: A ``SmolVLAConfig``, or the network made of it.
        layer: Number of the layer, from 0 on.
    """
    every = config.self_attn_every_n_layers
    return "cross" in config.attention_mode and not (every > 0 and layer % every == 0)


def count_dtypes(policy: Any) -> dict[str, int]:
    """Returns how many parameters there are of each type, the most frequent one first."""
    counts: dict[str, int] = defaultdict(int)
    for parameter in policy.parameters():
        counts[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def check_language_mask(batch: Mapping[str, Any]) -> None:
    """Refuses a batch whose language mask is not made of truth values; SmolVLA's attention takes nothing else.

    Args:
        batch: What a preprocessor gives to a policy.

    Raises:
        CheckpointError: The mask has numbers in it.
    """
    import torch

    mask = batch["observation.language.attention_mask"]
    if mask.dtype != torch.bool:
        raise CheckpointError(
            f"The checkpoint's preprocessor gives the language mask as {mask.dtype}, and SmolVLA's attention takes "
            "torch.bool. Save the preprocessor again with lerobot 0.6, whose tokenizer step casts it."
        )
