"""Read and check the folder of an exported policy; it is untrusted, as a checkpoint is.

It has the small files of the checkpoint, the two graphs, the weights of the flow times, and a manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.checkpoint.provenance import PROVENANCE, Provenance, read_provenance
from smolvla_gym.agent.checkpoint.safetensors_file import read_tensors
from smolvla_gym.agent.checkpoint.spec import EXPORTED, VLM_FOLDER, CheckpointSpec, read_spec
from smolvla_gym.agent.checkpoint.validation import check_checkpoint
from smolvla_gym.agent.checkpoint.vlm_files import read_vlm
from smolvla_gym.agent.onnx.model_file import MAX_BYTES, OPSET, check_model
from smolvla_gym.errors import CheckpointError
from smolvla_gym.utils import schema
from smolvla_gym.utils.untrusted import read_file, read_json_object, reading_as

PREFIX: Final = "prefix.onnx"
VELOCITY: Final = "velocity.onnx"
TIMES: Final = "flow_times.safetensors"
FILES: Final = (PREFIX, VELOCITY, TIMES)
"""Files of the export beside those of a checkpoint."""

VERSION: Final = 1
"""Version of the folder's layout."""

TOLERANCE: Final = 1e-4
"""Largest difference between a chunk of the graphs and one of the sampler, relative to the largest value."""

_MAX_TIMES: Final = 256 << 20
_OTHER_COPY: Final = "Take another copy, or export the policy again with smolvla-gym export --format onnx."

_FILE: Final = schema.object_of({"bytes": schema.whole(1, MAX_BYTES), "sha256": schema.text(64)}, ("bytes", "sha256"))
_PARITY: Final = schema.object_of(
    {"largest_relative_difference": schema.number(0.0, TOLERANCE), "chunks": schema.whole(1, 10_000)},
    ("largest_relative_difference", "chunks"),
)
_FIELDS: Final[Mapping[str, schema.Check]] = {
    "version": schema.one_of(VERSION),
    "smolvla_gym": schema.text(100),
    "opset": schema.one_of(OPSET),
    "num_steps": schema.whole(1, 1000),
    "rtc_max_delay": schema.whole(0, 4095),
    "special_tokens": schema.list_of(schema.text(300), 0, 1000),
    "files": schema.object_of(dict.fromkeys(FILES, _FILE), FILES),
    "parity": schema.optional(_PARITY),
}


@dataclass(frozen=True)
class ExportedFiles:
    """Checked content of the folder of an exported policy.

    Attributes:
        spec: The checkpoint's description.
        provenance: Training conditions; None: unknown.
        tokenizer: Content of ``tokenizer.json``.
        special_tokens: Special tokens of the tokenizer.
        prefix: Content of the prefix's graph.
        velocity: Content of the velocity's graph.
        times: Weight, shape (expert width, embedding width), and bias of the flow times.
    """

    spec: CheckpointSpec
    provenance: Provenance | None
    tokenizer: Mapping[str, Any]
    special_tokens: tuple[str, ...]
    prefix: bytes
    velocity: bytes
    times: Mapping[str, NDArray[np.float32]]


def is_exported(folder: Path) -> bool:
    """Return whether a folder is an exported policy."""
    return (folder / EXPORTED).exists()


def read_exported(folder: Path, *, verified: bool = True) -> ExportedFiles:
    """Read an exported policy, and refuse one that cannot drive this arm.

    Args:
        folder: The folder.
        verified: Whether the manifest must state the comparison with the sampler.

    Raises:
        CheckpointError: A file is missing or broken, or has content that the exporter does not write.
        PolicyMismatchError: The policy cannot drive this arm.
    """
    path = folder / EXPORTED
    with reading_as(CheckpointError, path, _OTHER_COPY, f"{folder} lacks {EXPORTED}. {_OTHER_COPY}"):
        manifest = schema.check_fields(read_json_object(path), _FIELDS, tuple(_FIELDS))
        if verified and manifest["parity"] is None:
            raise ValueError("the export was not finished: parity is null")
    spec = read_spec(folder)
    check_checkpoint(spec)
    provenance = read_provenance(folder)
    delay = 0 if provenance is None else provenance.rtc_max_delay
    if (delay, spec.num_steps) != (manifest["rtc_max_delay"], manifest["num_steps"]):
        raise CheckpointError(
            f"{path} states rtc_max_delay {manifest['rtc_max_delay']} and num_steps {manifest['num_steps']}, and "
            f"{PROVENANCE} and config.json {delay} and {spec.num_steps}. {_OTHER_COPY}"
        )
    contents = {name: _read_listed(folder, name, manifest["files"][name]) for name in (PREFIX, VELOCITY)}
    _read_listed(folder, TIMES, manifest["files"][TIMES])
    with reading_as(CheckpointError, folder / TIMES, _OTHER_COPY):
        times = read_tensors(folder / TIMES, _MAX_TIMES)
        _check_times(times)
    tokenizer = read_vlm(folder / VLM_FOLDER).tokenizer
    return ExportedFiles(
        spec, provenance, tokenizer, manifest["special_tokens"], contents[PREFIX], contents[VELOCITY], times
    )


def _read_listed(folder: Path, name: str, entry: Mapping[str, Any]) -> bytes:
    """Return the content of a file that is as the manifest states, and of a graph that is allowed."""
    missing = f"{folder} lacks {name}. {_OTHER_COPY}"
    with reading_as(CheckpointError, folder / name, _OTHER_COPY, missing):
        content = read_file(folder / name, entry["bytes"])
        if len(content) != entry["bytes"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise ValueError("size or SHA-256 differ from the manifest's")
        if name != TIMES:
            check_model(content)
        return content


def _check_times(times: Mapping[str, NDArray[Any]]) -> None:
    shapes = {name: values.shape for name, values in times.items()}
    if set(times) != {"weight", "bias"} or any(values.dtype != np.float32 for values in times.values()):
        raise ValueError("expected weight and bias in float32")
    if len(shapes["weight"]) != 2 or shapes["bias"] != shapes["weight"][:1] or shapes["weight"][1] % 2:
        raise ValueError(f"weight and bias have the shapes {shapes['weight']} and {shapes['bias']}")
    if not all(np.isfinite(values).all() for values in times.values()):
        raise ValueError("it has numbers that are not finite")
