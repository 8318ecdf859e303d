"""Read the small files of a SmolVLA checkpoint, without torch and without its weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from smolvla_gym.agent.checkpoint.configuration import ACTION, IMAGES, STATE, check_configuration, check_pipeline
from smolvla_gym.agent.checkpoint.provenance import PROVENANCE
from smolvla_gym.agent.checkpoint.safetensors_file import read_tensors
from smolvla_gym.errors import CheckpointError, PolicyMismatchError
from smolvla_gym.utils import schema
from smolvla_gym.utils.untrusted import check_inside, read_json_object, reading_as

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
PREPROCESSOR: Final = "policy_preprocessor.json"
POSTPROCESSOR: Final = "policy_postprocessor.json"
VLM_FOLDER: Final = "vlm"
"""Folder inside a checkpoint with its VLM's configuration and tokenizer."""

EXPORTED: Final = "onnx.json"
"""Manifest of a policy that was exported to ONNX; its folder has no weights for LeRobot."""

ADAPTERS: Final = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
"""Files of PEFT, which LeRobot ignores when it loads a policy."""

_OTHER_COPY: Final = "Take another copy of the checkpoint."
_MAX_JSON: Final = 1 << 18
_MAX_STATS: Final = 4 << 20
"""Largest sizes in bytes. SmolVLA's own files have 3 kB."""

Stats = Mapping[str, NDArray[Any]]
"""Saved statistics under flat names such as ``"action.mean"``."""


@dataclass(frozen=True)
class PipelineStep:
    """One step of a saved processor.

    Attributes:
        name: Its registry name, such as ``"normalizer_processor"``.
        config: Its options.
        stats: Its saved tensors; empty for a step without tensors.
        file: Name of the file with the tensors, or None.
    """

    name: str
    config: Mapping[str, Any]
    stats: Stats
    file: str | None = None


@dataclass(frozen=True)
class CheckpointSpec:
    """Description of a checkpoint in its small files.

    Attributes:
        directory: Folder of the checkpoint.
        config: The checked fields of ``config.json``, with LeRobot's defaults for fields that determine sizes.
        cameras: Size (height, width) in px of the image of each policy camera.
        state_dim: Declared width of the state. Fine-tuning keeps it, even if the data has another width.
        action_dim: Width of an action.
        chunk_size: Number of actions in a chunk.
        n_action_steps: Execution horizon: number of actions of a chunk to execute.
        num_steps: Flow steps of a chunk.
        preprocessor: Steps from an observation to the policy's batch.
        postprocessor: Steps from the policy's actions to the arm's units.
    """

    directory: Path
    config: Mapping[str, Any]
    cameras: Mapping[str, tuple[int, int]]
    state_dim: int
    action_dim: int
    chunk_size: int
    n_action_steps: int
    num_steps: int
    preprocessor: tuple[PipelineStep, ...]
    postprocessor: tuple[PipelineStep, ...]

    @property
    def files(self) -> frozenset[str]:
        """Names of the files in the checkpoint's folder that loading checks and reads."""
        states = {step.file for step in (*self.preprocessor, *self.postprocessor) if step.file is not None}
        return frozenset({CONFIG, WEIGHTS, PREPROCESSOR, POSTPROCESSOR, PROVENANCE} | states)

    @property
    def text_length(self) -> int:
        """Largest number of tokens of an instruction."""
        step = find_step(self.preprocessor, "tokenizer_processor")
        length = step.config.get("max_length", 512) if step else self.config["tokenizer_max_length"]
        return int(length)

    @property
    def empty_cameras(self) -> int:
        """Number of cameras that may be missing: LeRobot computes without them."""
        return int(self.config["empty_cameras"])

    @property
    def renamed_cameras(self) -> dict[str, str]:
        """Env camera by policy camera, from the renaming of the dataset's cameras in training."""
        step = find_step(self.preprocessor, "rename_observations_processor")
        renames = step.config.get("rename_map") or {} if step else {}
        return {
            new.removeprefix(IMAGES): old.removeprefix(IMAGES)
            for old, new in renames.items()
            if old.startswith(IMAGES) and new.startswith(IMAGES)
        }


def find_step(steps: tuple[PipelineStep, ...], name: str) -> PipelineStep | None:
    """Return the step of a registry name, or None."""
    return next((step for step in steps if step.name == name), None)


def read_spec(directory: Path) -> CheckpointSpec:
    """Read and check the small files of a checkpoint: its configuration, its processors and their statistics.

    Reading imports nothing that these files name, and allocates nothing by their numbers.

    Raises:
        CheckpointError: A file is absent, cannot be read, or has content that is not allowed.
        PolicyMismatchError: It is not a SmolVLA policy.
    """
    content = _read_json(directory, CONFIG)
    kind = content.get("type")
    if kind != "smolvla":
        raise PolicyMismatchError(
            f"{directory / CONFIG} describes a policy of type {schema.format_value(kind)}, and this agent drives type "
            "'smolvla' only. Give a SmolVLA checkpoint, or run other policies with LeRobot's own tools."
        )
    _refuse_adapters(directory, content)
    try:
        config = check_configuration(content)
    except ValueError as err:
        raise _not_allowed(directory / CONFIG, "the configuration of a trained SmolVLA policy", err) from None
    inputs = config["input_features"]
    cameras = {
        name.removeprefix(IMAGES): (feature["shape"][1], feature["shape"][2])
        for name, feature in inputs.items()
        # SmolVLA itself adds a blank image for an "empty" camera.
        if feature["type"] == "VISUAL" and not name.startswith(IMAGES + "empty_camera_")
    }
    return CheckpointSpec(
        directory=directory,
        config=config,
        cameras=cameras,
        state_dim=inputs[STATE]["shape"][0],
        action_dim=config["output_features"][ACTION]["shape"][0],
        chunk_size=config["chunk_size"],
        n_action_steps=config["n_action_steps"],
        num_steps=config["num_steps"],
        preprocessor=_read_pipeline(directory, PREPROCESSOR),
        postprocessor=_read_pipeline(directory, POSTPROCESSOR),
    )


def _refuse_adapters(directory: Path, config: Mapping[str, Any]) -> None:
    """Refuse a policy with weights in adapter files."""
    found = [name for name in ADAPTERS if os.path.lexists(directory / name)]
    if found or config.get("use_peft"):
        raise CheckpointError(
            f"{directory} holds adapters of PEFT ({found[0] if found else 'use_peft in config.json'}), which LeRobot "
            "would ignore. Merge them into the weights (PEFT's merge_and_unload) and save the policy again."
        )


def _not_allowed(path: Path, what: str, err: ValueError) -> CheckpointError:
    if isinstance(err, schema.UnknownFieldsError):
        return CheckpointError(
            f"{path} has an {err}, which this release does not know: it was saved by another release of LeRobot than "
            f"0.6, or by another program. Save it again with policy.save_pretrained(...) of LeRobot 0.6."
        )
    return CheckpointError(
        f"{path} is not {what} ({err}). Save it again with LeRobot 0.6, or take another copy of the checkpoint."
    )


def _read_json(directory: Path, name: str) -> dict[str, Any]:
    missing = f"{directory} is not a complete checkpoint: {name} is missing.{_hint(directory, name)}"
    with reading_as(CheckpointError, directory / name, _OTHER_COPY, missing):
        return read_json_object(directory / name, _MAX_JSON)


def _hint(directory: Path, name: str) -> str:
    """Return advice for a folder in which a file is missing."""
    if name in (PREPROCESSOR, POSTPROCESSOR):
        return (
            " It holds the normalisation of the training data, without which actions have no unit. Checkpoints of"
            " LeRobot before 0.4 get it from lerobot's migrate_policy_normalization.py; later ones from"
            " preprocessor.save_pretrained(...) and postprocessor.save_pretrained(...)."
        )
    for inner in ("pretrained_model", "checkpoints/last/pretrained_model", "last/pretrained_model"):
        if (directory / inner / name).is_file():
            return f" Did you mean {str(directory / inner)!r}?"
    return " Give the folder with config.json and model.safetensors."


def _read_pipeline(directory: Path, name: str) -> tuple[PipelineStep, ...]:
    content = _read_json(directory, name)
    try:
        steps = check_pipeline(content, before=name == PREPROCESSOR)
    except ValueError as err:
        raise _not_allowed(directory / name, "a saved processor of SmolVLA", err) from None
    return tuple(PipelineStep(kind, config, _read_stats(directory, file), file) for kind, config, file in steps)


def _read_stats(directory: Path, name: str | None) -> Stats:
    if name is None:
        return {}
    missing = f"{directory} is not a complete checkpoint: {name}, the normalisation statistics, is missing."
    with reading_as(CheckpointError, directory / name, _OTHER_COPY, f"{missing} {_OTHER_COPY}"):
        stats = read_tensors(check_inside(directory, name), _MAX_STATS)
    if odd := [key for key in stats if "." not in key]:
        raise CheckpointError(
            f"{directory / name} holds {schema.format_value(odd[0])}; expected names such as 'action.mean'."
        )
    return stats
