"""Check that a policy's weights and its configuration describe the same network, down to the last layer.

LeRobot builds the network of the configuration and loads weights by name with ``strict=False``. The sizes are compared
before that, from the header of the file, so that no memory is allocated beyond the file's weights.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any, Final

from smolvla_gym.agent.checkpoint.safetensors_file import SavedTensor, read_header
from smolvla_gym.agent.checkpoint.spec import CONFIG, EXPORTED, WEIGHTS, CheckpointSpec
from smolvla_gym.agent.checkpoint.vlm_files import VLMFiles
from smolvla_gym.errors import CheckpointError
from smolvla_gym.utils.untrusted import reading_as

_TYPES: Final = ("F32", "BF16", "F16")
_NETWORK: Final = "model.vlm_with_expert."
_TEXT: Final = f"{_NETWORK}vlm.model.text_model."
_VISION: Final = f"{_NETWORK}vlm.model.vision_model."
_EXPERT: Final = f"{_NETWORK}lm_expert."
_OLD: Final = re.compile(r"(un)?normalize_(inputs|targets|outputs)\.")
_MAX_PATCHES: Final = 4096
_MAX_PREFIX: Final = 4096


def read_weights(spec: CheckpointSpec) -> dict[str, SavedTensor]:
    """Return the descriptions of a checkpoint's weights, without reading the weights.

    Raises:
        CheckpointError: The file is missing or broken, or has tensors that are no weights of a SmolVLA.
    """
    path = spec.directory / WEIGHTS
    missing = (
        f"{path.parent} is not a complete checkpoint: {path.name} is missing. Checkpoints of adapters (PEFT) or in "
        "several files are not supported: merge them into one, or take another copy."
    )
    if (spec.directory / EXPORTED).exists():
        missing = (
            f"{path.parent} is a policy that was exported to ONNX, which rollout, eval, serve and "
            "SmolVLAAgent.from_pretrained can run. Give the checkpoint that it was exported from."
        )
    with reading_as(CheckpointError, path, "Take another copy of the checkpoint.", missing):
        header = read_header(path)
    for name, tensor in header.items():
        if _OLD.match(name):
            raise CheckpointError(
                f"{path} holds {name!r}, the normalisation as LeRobot before 0.4 saved it. Convert the checkpoint with "
                "lerobot's migrate_policy_normalization.py."
            )
        if tensor.dtype not in _TYPES:
            raise CheckpointError(
                f"{path} holds {name!r:.200} as {tensor.dtype}; expected {', '.join(_TYPES)}. Quantised weights are "
                "not supported: take the checkpoint that LeRobot saved."
            )
    return header


def check_weights(spec: CheckpointSpec, vlm: VLMFiles, header: Mapping[str, SavedTensor]) -> None:
    """Refuse weights of another network than the configuration describes, before the network is built.

    Args:
        spec: The checkpoint.
        vlm: Its vision-language model.
        header: Descriptions of its weights.

    Raises:
        CheckpointError: The first difference, or sizes that cannot run, or more weights than this machine's memory.
    """
    _check_images(spec, vlm)
    layers = text_layers(spec, vlm)
    expert = int(spec.config["num_expert_layers"])
    if expert > 0 and layers % expert:
        raise _mismatch(spec, f"num_expert_layers is {expert}, and {layers} layers of the VLM are no multiple of that")
    counts = {
        _TEXT: ("layers of the language model (num_vlm_layers)", layers),
        _VISION: ("layers of the vision tower", int(vlm.vision["num_hidden_layers"])),
        _EXPERT: ("layers of the action expert (num_expert_layers)", expert if expert > 0 else layers),
    }
    for prefix, (name, expected) in counts.items():
        pattern = re.compile(re.escape(prefix) + r"(?:encoder\.)?layers\.(\d{1,4})\.")
        numbers = {int(found[1]) for key in header if (found := pattern.match(key))}
        if numbers != set(range(expected)):
            raise _mismatch(spec, f"{CONFIG} describes {expected} {name}, and the weights have {len(numbers)}")
    shapes = _expected_shapes(spec, vlm, {prefix: expected for prefix, (_, expected) in counts.items()})
    # Tied weights are saved once. check_network() finds other missing weights, which are small.
    tied = {f"{_TEXT}embed_tokens.weight": f"{_NETWORK}vlm.lm_head.weight"}
    _check_shapes(spec, shapes, {**{name: header[same] for name, same in tied.items() if same in header}, **header})
    needed, memory = 4 * sum(tensor.size for tensor in header.values()), _memory()
    if needed > memory:
        raise CheckpointError(
            f"{spec.directory / WEIGHTS} needs {needed / 1e9:.1f} GB of memory while it is loaded, and this machine "
            f"has {memory / 1e9:.1f} GB. Load it on a machine with more memory."
        )


def check_network(spec: CheckpointSpec, state: Mapping[str, Any], header: Mapping[str, SavedTensor]) -> None:
    """Refuse a file with missing or unexpected weights, or with weights of another shape.

    Args:
        spec: The checkpoint.
        state: The network's weights by name, before the file is loaded.
        header: Descriptions of the file's weights.

    Raises:
        CheckpointError: The first difference.
    """
    # Tied weights are saved once. SmolVLA never uses the language head.
    tied = {tensor.data_ptr() for key, tensor in state.items() if key in header}
    shapes = {
        key: tuple(tensor.shape)
        for key, tensor in state.items()
        if key in header or not (tensor.data_ptr() in tied or "lm_head" in key)
    }
    unexpected = [key for key in header if key not in state]
    if unexpected:
        raise CheckpointError(
            f"{spec.directory / WEIGHTS} has {len(unexpected)} weights that the policy of {CONFIG} does not have, such "
            f"as {unexpected[0]!r:.200}; they would be ignored. Take the config.json that belongs to these weights, "
            "and merge adapters into them."
        )
    _check_shapes(spec, shapes, header)


def _check_shapes(
    spec: CheckpointSpec, shapes: Mapping[str, tuple[int, ...]], header: Mapping[str, SavedTensor]
) -> None:
    """Refuse a file that lacks a weight, or has it in another shape."""
    if missing := [name for name in shapes if name not in header]:
        raise CheckpointError(
            f"{spec.directory / WEIGHTS} lacks {len(missing)} weights that {CONFIG} describes, such as {missing[0]!r}; "
            "they would be random. Take another copy of the checkpoint, or the config.json of these weights."
        )
    for name, shape in shapes.items():
        if (saved := header[name].shape) != shape:
            raise _mismatch(spec, f"{CONFIG} asks for {name} of shape {shape}, and the weights have {saved}")


def text_layers(spec: CheckpointSpec, vlm: VLMFiles) -> int:
    """Return the number of layers of the language model that a policy uses, from the first on."""
    available, used = int(vlm.text["num_hidden_layers"]), int(spec.config["num_vlm_layers"])
    return min(available, used) if used > 0 else available


def _mismatch(spec: CheckpointSpec, difference: str) -> CheckpointError:
    return CheckpointError(
        f"LeRobot could not load {spec.directory}: its configuration and its weights do not match: {difference}. "
        "Take another copy of the checkpoint, or the config.json and the VLM's files that belong to these weights."
    )


def _check_images(spec: CheckpointSpec, vlm: VLMFiles) -> None:
    """Refuse image sizes with which the vision tower's tokens are not a square, or too many."""
    resize = spec.config["resize_imgs_with_padding"]
    sizes = [(resize[1], resize[0])] if resize is not None else list(spec.cameras.values())
    patch, scale = int(vlm.vision["patch_size"]), int(vlm.top["scale_factor"])
    tokens = 0
    for height, width in sizes:
        patches = (height // patch) * (width // patch)
        side = math.isqrt(patches)
        if side < 1 or side * side != patches or side % scale or patches > _MAX_PATCHES:
            raise _mismatch(
                spec,
                f"images of {height} x {width} give {patches} patches of {patch} px; expected the square of a multiple "
                f"of {scale}, at most {_MAX_PATCHES}",
            )
        tokens = max(tokens, (side // scale) ** 2)
    prefix = tokens * (len(spec.cameras) + int(spec.config["empty_cameras"])) + spec.text_length + 1
    if prefix > _MAX_PREFIX:
        raise _mismatch(spec, f"images and text make {prefix} tokens, of which at most {_MAX_PREFIX} can be computed")


def _expected_shapes(spec: CheckpointSpec, vlm: VLMFiles, layers: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the large weights that the configuration describes.

    Args:
        spec: The checkpoint.
        vlm: Its vision-language model.
        layers: Number of layers of each part of the network, by the prefix of its names.
    """
    config, language, vision, scale = spec.config, vlm.text, vlm.vision, int(vlm.top["scale_factor"])
    width, ffn, seeing = language["hidden_size"], language["intermediate_size"], vision["hidden_size"]
    heads, keys, depth = language["num_attention_heads"], language["num_key_value_heads"], language["head_dim"]
    expert = int(width * config["expert_width_multiplier"])
    if expert < 2 or expert % 2:
        raise _mismatch(spec, f"the action expert would be {expert} wide; expected an even number")
    expert_ffn = 256 * math.ceil(int(4 * int(2 * expert / 3)) / 256)
    patch, side = vision["patch_size"], vision["image_size"] // vision["patch_size"]
    vlm_model = f"{_NETWORK}vlm.model."
    each = {
        f"{_TEXT}layers.{{}}.mlp.gate_proj.weight": (ffn, width),
        f"{_TEXT}layers.{{}}.self_attn.q_proj.weight": (heads * depth, width),
        f"{_TEXT}layers.{{}}.self_attn.k_proj.weight": (keys * depth, width),
        f"{_EXPERT}layers.{{}}.mlp.gate_proj.weight": (expert_ffn, expert),
        f"{_EXPERT}layers.{{}}.self_attn.q_proj.weight": (heads * depth, expert),
        f"{_VISION}encoder.layers.{{}}.mlp.fc1.weight": (vision["intermediate_size"], seeing),
    }
    counted = {name: next(count for prefix, count in layers.items() if name.startswith(prefix)) for name in each}
    return {
        **{name.format(i): shape for name, shape in each.items() for i in range(counted[name])},
        "model.state_proj.weight": (width, config["max_state_dim"]),
        "model.action_in_proj.weight": (expert, config["max_action_dim"]),
        "model.action_out_proj.weight": (config["max_action_dim"], expert),
        f"{_TEXT}embed_tokens.weight": (language["vocab_size"], width),
        f"{_VISION}embeddings.patch_embedding.weight": (seeing, 3, patch, patch),
        f"{_VISION}embeddings.position_embedding.weight": (side * side, seeing),
        f"{vlm_model}connector.modality_projection.proj.weight": (width, seeing * scale * scale),
    }


def _memory() -> float:
    """Return this machine's memory in bytes, or infinity if the system does not report it."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf
