"""Read the files of a vision-language model (VLM) that a checkpoint needs: configuration and tokenizer, no weights.

transformers imports modules and allocates memory as these files say (``auto_map`` and other fields). So they are read
and checked here, and transformers gets a private copy with the known fields of ``config.json``, ``tokenizer.json`` and
``tokenizer_config.json``. The processor's files are not read, because SmolVLA prepares its images itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from smolvla_gym.agent.checkpoint.tokenizer_checks import check_tokenizer, check_tokenizer_config
from smolvla_gym.errors import CheckpointError
from smolvla_gym.utils import schema
from smolvla_gym.utils.untrusted import parse_json_object, read_file, reading_as

CONFIG: Final = "config.json"
TOKENIZER: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
VLM_FILES: Final = (CONFIG, TOKENIZER, TOKENIZER_CONFIG)

_OTHER_COPY: Final = "Take another copy of the VLM's files."

_MAX_BYTES: Final[Mapping[str, int]] = {CONFIG: 1 << 18, TOKENIZER: 6 << 20, TOKENIZER_CONFIG: 1 << 18}
"""Largest sizes. SmolVLM2's tokenizer.json has 3.5 MB."""

_MAX_BRACKETS: Final = 200_000
"""Most lists and objects in a file: parsing time depends on them. SmolVLM2's tokenizer.json has 49 000 for merges."""

_FORBIDDEN: Final = ("auto_map", "trust_remote_code", "custom_pipelines", "quantization_config")
"""Fields with which transformers loads code, or weights of another kind."""

_ACTIVATIONS: Final = ("silu", "relu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu")
_TOKEN: Final = schema.optional(schema.whole(0, 2**20))
_LAYERS, _HEADS, _WIDTH = schema.whole(1, 128), schema.whole(1, 256), schema.whole(1, 16384)

# The defaults are transformers', of fields that SmolVLM2's own files lack.
_TEXT: Final[Mapping[str, schema.Check]] = {
    "model_type": schema.one_of("llama"),
    "hidden_size": _WIDTH,
    "intermediate_size": schema.whole(1, 65536),
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": schema.Default(_HEADS, 32),
    "num_key_value_heads": _HEADS,
    "head_dim": schema.whole(2, 1024),
    "vocab_size": schema.whole(1, 2**20),
    "max_position_embeddings": schema.whole(1, 2**20),
    "hidden_act": schema.one_of(*_ACTIVATIONS),
    "rms_norm_eps": schema.number(1e-12, 1e-2),
    "attention_bias": schema.flag,
    "attention_dropout": schema.number(0.0, 1.0),
    "mlp_bias": schema.flag,
    "initializer_range": schema.number(0.0, 10.0),
    "pad_token_id": _TOKEN,
    "bos_token_id": _TOKEN,
    "eos_token_id": _TOKEN,
    "tie_word_embeddings": schema.flag,
    "use_cache": schema.flag,
}
_VISION: Final[Mapping[str, schema.Check]] = {
    "model_type": schema.one_of("smolvlm_vision", "smolvlm"),
    "hidden_size": _WIDTH,
    "intermediate_size": schema.Default(schema.whole(1, 65536), 3072),
    "num_hidden_layers": schema.Default(_LAYERS, 12),
    "num_attention_heads": schema.Default(_HEADS, 16),
    "num_channels": schema.one_of(3),
    "image_size": schema.whole(8, 2048),
    "patch_size": schema.whole(1, 256),
    "hidden_act": schema.one_of(*_ACTIVATIONS),
    "layer_norm_eps": schema.number(1e-12, 1e-2),
    "attention_dropout": schema.number(0.0, 1.0),
    "initializer_range": schema.number(0.0, 10.0),
}
_CONFIG: Final[Mapping[str, schema.Check]] = {
    "model_type": schema.one_of("smolvlm"),
    "scale_factor": schema.Default(schema.whole(1, 32), 2),
    "image_token_id": schema.whole(0, 2**20),
    "pad_token_id": _TOKEN,
    "tie_word_embeddings": schema.flag,
    "use_cache": schema.flag,
    # Configurations of transformers have many more fields, which change nothing here.
    "text_config": schema.object_of(
        _TEXT, ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"), others=True
    ),
    "vision_config": schema.object_of(_VISION, ("hidden_size", "image_size", "patch_size"), others=True),
}


@dataclass(frozen=True)
class VLMFiles:
    """The checked files of a vision-language model.

    Attributes:
        text: Fields of the language model's configuration.
        vision: Fields of the vision tower's configuration.
        top: The other fields.
        tokenizer: The tokenizer.
        tokenizer_config: The tokenizer's special tokens and options.
    """

    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    top: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]

    def write(self, directory: Path, text_layers: int) -> None:
        """Write the files for transformers.

        Args:
            directory: An empty folder.
            text_layers: Number of layers of the language model to build.
        """
        patches = self.vision["image_size"] // self.vision["patch_size"] // self.top["scale_factor"]
        size = {"longest_edge": self.vision["image_size"]}
        kind = "SmolVLM{}Processor".format
        contents: dict[str, Mapping[str, Any]] = {
            CONFIG: {
                **self.top,
                "text_config": {**self.text, "num_hidden_layers": text_layers},
                "vision_config": self.vision,
            },
            TOKENIZER: self.tokenizer,
            TOKENIZER_CONFIG: self.tokenizer_config,
            "processor_config.json": {
                "processor_class": kind(""),
                "image_seq_len": patches**2,
                "image_processor": {
                    "image_processor_type": kind("Image"), "size": size, "max_image_size": size,
                    "do_image_splitting": False,
                },
                "video_processor": {"video_processor_type": kind("Video"), "size": size, "max_image_size": size},
            },
        }  # fmt: skip
        for name, content in contents.items():
            (directory / name).write_text(json.dumps(content), encoding="utf-8")


def read_vlm(directory: Path) -> VLMFiles:
    """Return the checked files of a vision-language model.

    Raises:
        CheckpointError: A file is missing or broken, names code to load, or describes more than a SmolVLM can have.
    """
    contents = {name: _read(directory, name) for name in VLM_FILES}
    with reading_as(CheckpointError, directory / CONFIG, _OTHER_COPY):
        config = contents[CONFIG]
        for part in (config, config.get("text_config"), config.get("vision_config")):
            _forbid(part)
        required = ("model_type", "text_config", "vision_config")
        top = schema.check_fields(config, _CONFIG, required, others=True)
        text_config, vision = top.pop("text_config"), top.pop("vision_config")
        text_config.setdefault("num_key_value_heads", text_config["num_attention_heads"])
        text_config.setdefault("head_dim", text_config["hidden_size"] // text_config["num_attention_heads"])
        _check_sizes(text_config, vision, top)
    with reading_as(CheckpointError, directory / TOKENIZER, _OTHER_COPY):
        tokenizer = check_tokenizer(contents[TOKENIZER], int(text_config["vocab_size"]))
    with reading_as(CheckpointError, directory / TOKENIZER_CONFIG, _OTHER_COPY):
        _forbid(contents[TOKENIZER_CONFIG])
        tokenizer_config = check_tokenizer_config(contents[TOKENIZER_CONFIG])
    return VLMFiles(text_config, vision, top, tokenizer, tokenizer_config)


def _read(directory: Path, name: str) -> dict[str, Any]:
    missing = (
        f"{directory} lacks {name}, a file of the VLM. Copy {', '.join(VLM_FILES)} of the VLM there, or give "
        "vlm=<folder or repository>."
    )
    with reading_as(CheckpointError, directory / name, _OTHER_COPY, missing):
        raw = read_file(directory / name, _MAX_BYTES[name])
        if raw.count(b"[") + raw.count(b"{") > _MAX_BRACKETS:
            raise ValueError(f"it has more than {_MAX_BRACKETS} lists and objects")
        return parse_json_object(raw)


def _forbid(content: Any) -> None:
    """Refuse fields with which transformers loads code, also from the hub."""
    if not isinstance(content, dict):
        return
    found = [name for name in _FORBIDDEN if content.get(name)]
    # transformers downloads and runs any implementation that is not built in.
    attention = [name for name in content if name.endswith("attn_implementation")]
    found += [name for name in attention if content[name] not in (None, "eager", "sdpa", "flash_attention_2")]
    if found:
        raise ValueError(f"it has the field {found[0]}, with which transformers would load foreign code")


def _check_sizes(language: Mapping[str, Any], vision: Mapping[str, Any], top: Mapping[str, Any]) -> None:
    """Refuse sizes with which a network cannot be built."""
    checks = (
        (language["num_attention_heads"], language["num_key_value_heads"], "num_attention_heads", "the number of keys"),
        (language["head_dim"], 2, "head_dim", "2"),
        (vision["hidden_size"], vision["num_attention_heads"], "hidden_size", "the heads of the vision tower"),
        (vision["image_size"] // vision["patch_size"], top["scale_factor"], "image_size / patch_size", "scale_factor"),
    )
    for value, divisor, name, by in checks:
        if value < divisor or value % divisor:
            raise ValueError(f"{name} is {value}; expected a multiple of {by}, {divisor}")
