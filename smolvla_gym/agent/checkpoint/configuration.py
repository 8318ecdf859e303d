"""Check the fields of a SmolVLA's ``config.json`` and of its processors: allowed names, types and ranges.

LeRobot imports modules and allocates memory as these files say, so they are checked here before any use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from smolvla_gym.utils import schema

STATE: Final = "observation.state"
ACTION: Final = "action"
IMAGES: Final = "observation.images."

MAX_CHUNK: Final = 4096
"""Largest chunk size of a checkpoint, and of a policy server."""

_KINDS: Final = ("STATE", "VISUAL", "ENV", "ACTION", "REWARD", "LANGUAGE")
_MODES: Final = ("IDENTITY", "MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10")
_NORMS: Final = schema.mapping_of(schema.one_of(*_KINDS), schema.one_of(*_MODES), len(_KINDS))
_IMAGE: Final = schema.list_of(schema.whole(1, 4096), 3, 3)
_VECTOR: Final = schema.list_of(schema.whole(1, 4096), 1, 4)


def _feature(value: Any) -> dict[str, Any]:
    checked = schema.check_fields(value, {"type": schema.one_of(*_KINDS), "shape": schema.anything}, ("type", "shape"))
    is_image = checked["type"] == "VISUAL"
    shape = schema.check_field("shape", checked["shape"], _IMAGE if is_image else _VECTOR)
    if is_image and shape[0] != 3:
        raise ValueError(f"the shape is {list(shape)}; expected (3, height, width)")
    return {"type": checked["type"], "shape": list(shape)}


def _features(value: Any) -> dict[str, dict[str, Any]]:
    """Check features, and that features with LeRobot's names have LeRobot's types."""
    features: dict[str, dict[str, Any]] = schema.mapping_of(schema.text(100), _feature, 32)(value)
    for name, feature in features.items():
        kind = {STATE: "STATE", ACTION: "ACTION"}.get(name, "VISUAL" if name.startswith(IMAGES) else feature["type"])
        if feature["type"] != kind:
            raise ValueError(f"{schema.format_value(name)} has the type {feature['type']}; expected {kind}")
    return features


_RATE: Final = schema.number(0.0, 1e6)
_COUNT: Final = schema.whole(0, 2**40)

# The defaults are LeRobot's, of the fields that this package reads.
_FIELDS: Final[Mapping[str, schema.Check]] = {
    "type": schema.one_of("smolvla"),
    "n_obs_steps": schema.one_of(1),
    "input_features": _features,
    "output_features": _features,
    "device": schema.optional(schema.text()),
    "use_amp": schema.flag,
    "use_peft": schema.Default(schema.flag, value=False),
    "push_to_hub": schema.flag,
    "repo_id": schema.optional(schema.text()),
    "private": schema.optional(schema.flag),
    "tags": schema.optional(schema.list_of(schema.text(), 0, 100)),
    "license": schema.optional(schema.text()),
    "pretrained_path": schema.optional(schema.text(4096)),
    "pretrained_revision": schema.optional(schema.text()),
    "chunk_size": schema.whole(1, MAX_CHUNK),
    "n_action_steps": schema.whole(1, MAX_CHUNK),
    "normalization_mapping": schema.Default(_NORMS, {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}),
    "max_state_dim": schema.Default(schema.whole(1, 512), 32),
    "max_action_dim": schema.Default(schema.whole(1, 512), 32),
    "resize_imgs_with_padding": schema.Default(
        schema.optional(schema.list_of(schema.whole(8, 2048), 2, 2)), (512, 512)
    ),
    "empty_cameras": schema.Default(schema.whole(0, 8), 0),
    "adapt_to_pi_aloha": schema.Default(schema.flag, value=False),
    "use_delta_joint_actions_aloha": schema.Default(schema.flag, value=False),
    "tokenizer_max_length": schema.Default(schema.whole(1, 1024), 48),
    "num_steps": schema.whole(1, 1000),
    "use_cache": schema.flag,
    "freeze_vision_encoder": schema.flag,
    "train_expert_only": schema.flag,
    "train_state_proj": schema.flag,
    "optimizer_lr": _RATE,
    "optimizer_betas": schema.list_of(schema.number(0.0, 1.0), 2, 2),
    "optimizer_eps": _RATE,
    "optimizer_weight_decay": _RATE,
    "optimizer_grad_clip_norm": _RATE,
    "scheduler_warmup_steps": _COUNT,
    "scheduler_decay_steps": _COUNT,
    "scheduler_decay_lr": _RATE,
    "vlm_model_name": schema.Default(schema.text(4096), "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"),
    "load_vlm_weights": schema.flag,
    "add_image_special_tokens": schema.flag,
    "attention_mode": schema.Default(schema.one_of("cross_attn", "self_attn"), "cross_attn"),
    "prefix_length": schema.whole(-1, 4096),
    "pad_language_to": schema.one_of("longest", "max_length"),
    "num_expert_layers": schema.Default(schema.whole(-1, 128), -1),
    "num_vlm_layers": schema.Default(schema.whole(-1, 128), 16),
    "self_attn_every_n_layers": schema.Default(schema.whole(-1, 128), 2),
    "expert_width_multiplier": schema.Default(schema.number(0.01, 4.0), 0.75),
    "min_period": schema.Default(schema.number(1e-9, 1e6), 4e-3),
    "max_period": schema.Default(schema.number(1e-9, 1e6), 4.0),
    "rtc_config": schema.optional(schema.mapping_of(schema.text(), schema.anything, 32)),
    "compile_model": schema.flag,
    "compile_mode": schema.text(),
}
_REQUIRED: Final = ("input_features", "output_features", "chunk_size", "n_action_steps", "num_steps")


def check_configuration(content: object) -> dict[str, Any]:
    """Return the checked fields of ``config.json``, with LeRobot's defaults for fields that determine sizes.

    Raises:
        UnknownFieldsError: The file has other fields.
        ValueError: A value is not allowed.
    """
    config = schema.check_fields(content, _FIELDS, _REQUIRED)
    for features, name in (("input_features", STATE), ("output_features", ACTION)):
        if name not in config[features]:
            raise ValueError(f"{name} is missing from {features}")
        if len(config[features][name]["shape"]) != 1:
            raise ValueError(f"{name} is no vector but of shape {config[features][name]['shape']}")
    if config["min_period"] >= config["max_period"]:
        raise ValueError(f"min_period is {config['min_period']:g}; expected less than max_period")
    empty = [f"{IMAGES}empty_camera_{i}" for i in range(config["empty_cameras"])]
    blank = [name for name in config["input_features"] if name.startswith(f"{IMAGES}empty_camera_")]
    if odd := [name for name in blank if name not in empty]:
        raise ValueError(f"{schema.format_value(odd[0])} is a feature, but empty_cameras is {config['empty_cameras']}")
    return config


_STEPS: Final[Mapping[str, Mapping[str, schema.Check]]] = {
    "rename_observations_processor": {"rename_map": schema.mapping_of(schema.text(100), schema.text(100), 32)},
    "to_batch_processor": {},
    "smolvla_new_line_processor": {},
    "tokenizer_processor": {
        "max_length": schema.whole(1, 1024),
        "task_key": schema.one_of("task"),
        "padding_side": schema.one_of("right", "left"),
        "padding": schema.one_of("longest", "max_length"),
        "truncation": schema.flag,
        "tokenizer_name": schema.optional(schema.text(4096)),
    },
    # A narrower type would round the state and the actions.
    "device_processor": {"device": schema.text(), "float_dtype": schema.optional(schema.one_of("float32"))},
    "normalizer_processor": {
        "eps": schema.number(0.0, 1e-3),
        "features": _features,
        "norm_map": _NORMS,
        "normalize_observation_keys": schema.optional(schema.list_of(schema.text(100), 0, 32)),
    },
}
_STEPS_AFTER: Final = {
    "unnormalizer_processor": _STEPS["normalizer_processor"],
    "device_processor": _STEPS["device_processor"],
}
_STATEFUL: Final = ("normalizer_processor", "unnormalizer_processor")


def check_pipeline(content: object, *, before: bool) -> list[tuple[str, dict[str, Any], str | None]]:
    """Return the name, the configuration and the state file of each step of a saved processor.

    Only steps of SmolVLA's own processors are allowed. The class that a step names is never imported.

    Args:
        content: The JSON object.
        before: Whether it is the preprocessor.

    Raises:
        UnknownFieldsError: A step has other fields than LeRobot 0.6 saves.
        ValueError: A step is not allowed, is duplicated, or has no effect at its place.
    """
    checked = schema.check_fields(
        content, {"name": schema.text(), "steps": schema.list_of(schema.anything, 0, 16)}, ("steps",)
    )
    allowed = _STEPS if before else _STEPS_AFTER
    steps = [_check_step(step, allowed) for step in checked["steps"]]
    names = [name for name, _, _ in steps]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"the step {twice[0]} is there twice")
    for first, second in (("smolvla_new_line", "tokenizer"), ("rename_observations", "normalizer")):
        first, second = f"{first}_processor", f"{second}_processor"
        if first in names and second in names and names.index(first) > names.index(second):
            raise ValueError(f"the step {first} comes after {second}, where it has no effect")
    return steps


def _check_step(step: Any, allowed: Mapping[str, Mapping[str, schema.Check]]) -> tuple[str, dict[str, Any], str | None]:
    if isinstance(step, dict) and "class" in step:
        raise ValueError(
            f"a step names the class {schema.format_value(step['class'])}, which LeRobot would import and run. Only "
            f"the steps of SmolVLA's own processors are loaded: {', '.join(allowed)}"
        )
    fields = {
        "registry_name": schema.text(),
        "config": schema.anything,
        "state_file": schema.optional(schema.text(255)),
    }
    outer = schema.check_fields(step, fields, ("registry_name",))
    name = outer["registry_name"]
    if name not in allowed:
        raise schema.UnknownFieldsError(f"unknown step {schema.format_value(name)} (known: {', '.join(allowed)})")
    try:
        config = schema.check_fields({} if (found := outer.get("config")) is None else found, allowed[name])
    except ValueError as err:
        raise type(err)(f"{err}, in the step {name}") from None
    renames = config.get("rename_map", {})
    if len(set(renames.values())) < len(renames):
        raise ValueError("rename_map gives two inputs the same name")
    file = outer.get("state_file")
    if file is not None and (name not in _STATEFUL or "/" in file or not file.endswith(".safetensors")):
        raise ValueError(
            f"state_file is {schema.format_value(file)}; expected the name of a .safetensors file, in a step with state"
        )
    return name, config, file
