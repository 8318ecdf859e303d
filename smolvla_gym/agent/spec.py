"""What a SmolVLA checkpoint says about itself, read without torch and without touching its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import CheckpointError, MissingExtraError, PolicyMismatchError

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
PREPROCESSOR: Final = "policy_preprocessor.json"
POSTPROCESSOR: Final = "policy_postprocessor.json"
VLM_FOLDER: Final = "vlm"
"""A folder of this name inside a checkpoint holds its VLM's configuration and tokenizer."""

STATE: Final = "observation.state"
ACTION: Final = "action"
_IMAGES: Final = "observation.images."

Stats = Mapping[str, NDArray[Any]]
"""Saved statistics under flat names such as ``"action.mean"``."""


@dataclass(frozen=True)
class PipelineStep:
    """One step of a saved processor.

    Attributes:
        name: Its registry name, such as ``"normalizer_processor"``.
        config: Its options.
        stats: Its saved tensors; empty for a step without any.
    """

    name: str
    config: Mapping[str, Any]
    stats: Stats


@dataclass(frozen=True)
class CheckpointSpec:
    """A checkpoint as its small files describe it.

    Attributes:
        directory: Where it is.
        config: The whole of ``config.json``.
        cameras: Size (height, width) in pixels of each picture the policy wants, by the policy's name for it.
        state_dim: Width of the state that is declared. Fine-tuning leaves it as it was, whatever the data's width.
        action_dim: Width of an action.
        chunk_size: Actions a chunk.
        n_action_steps: How many of them are meant to be executed.
        num_steps: Flow steps a chunk.
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
    def empty_cameras(self) -> int:
        """How many of its cameras may be missing: LeRobot computes without them."""
        allowed = self.config.get("empty_cameras")
        return max(0, allowed) if type(allowed) is int else 0

    @property
    def renamed_cameras(self) -> dict[str, str]:
        """Env camera by policy camera, as the data set's cameras were renamed when the policy was trained."""
        step = find_step(self.preprocessor, "rename_observations_processor")
        renames = step.config.get("rename_map") or {} if step else {}
        return {
            new.removeprefix(_IMAGES): old.removeprefix(_IMAGES)
            for old, new in renames.items()
            if old.startswith(_IMAGES) and new.startswith(_IMAGES)
        }


def find_step(steps: tuple[PipelineStep, ...], name: str) -> PipelineStep | None:
    """Returns the step of a registry name, or None."""
    return next((step for step in steps if step.name == name), None)


def read_spec(directory: Path) -> CheckpointSpec:
    """Reads the small files of a checkpoint: its configuration, its processors and their statistics.

    Raises:
        CheckpointError: One of them is absent or cannot be read.
        PolicyMismatchError: It is not a SmolVLA policy.
    """
    config = _read_json(directory, CONFIG)
    kind = config.get("type")
    if kind != "smolvla":
        raise PolicyMismatchError(
            f"{directory / CONFIG} describes a policy of type {kind!r}, and this agent drives type 'smolvla' only. "
            "Give a SmolVLA checkpoint, or run other policies with LeRobot's own tools."
        )
    try:
        inputs, outputs = config["input_features"] or {}, config["output_features"] or {}
        cameras = {
            name.removeprefix(_IMAGES): (int(feature["shape"][1]), int(feature["shape"][2]))
            for name, feature in inputs.items()
            # An "empty" camera is a blank that SmolVLA fills in by itself.
            if feature["type"] == "VISUAL" and not name.startswith(_IMAGES + "empty_camera_")
        }
        return CheckpointSpec(
            directory=directory,
            config=config,
            cameras=cameras,
            state_dim=int(inputs[STATE]["shape"][0]),
            action_dim=int(outputs[ACTION]["shape"][0]),
            chunk_size=int(config["chunk_size"]),
            n_action_steps=int(config["n_action_steps"]),
            num_steps=int(config["num_steps"]),
            preprocessor=_read_pipeline(directory, PREPROCESSOR),
            postprocessor=_read_pipeline(directory, POSTPROCESSOR),
        )
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as err:
        raise CheckpointError(
            f"{directory / CONFIG} is not the configuration of a trained SmolVLA policy ({type(err).__name__}: {err}). "
            "Save it again with policy.save_pretrained(...), or take another copy of the checkpoint."
        ) from err


def _read_json(directory: Path, name: str) -> dict[str, Any]:
    path = directory / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{directory} is not a complete checkpoint: {name} is missing.{_hint(directory, name)}"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as err:
        raise CheckpointError(f"{path} cannot be read ({err}). Take another copy of the checkpoint.") from err
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object. Take another copy of the checkpoint.")
    return content


def _hint(directory: Path, name: str) -> str:
    """Says what may have been meant by a folder in which a file is missing."""
    if name in (PREPROCESSOR, POSTPROCESSOR):
        return (
            " It holds the normalisation of the training data, without which actions have no unit. Checkpoints of"
            " LeRobot before 0.4 get it from lerobot's migrate_policy_normalization.py; later ones from"
            " preprocessor.save_pretrained(...) and postprocessor.save_pretrained(...)."
        )
    for inner in ("pretrained_model", "checkpoints/last/pretrained_model", "last/pretrained_model"):
        if (directory / inner / name).is_file():
            return f" Did you mean {str(directory / inner)!r}?"
    return " Give the folder that config.json and model.safetensors lie in."


def _read_pipeline(directory: Path, name: str) -> tuple[PipelineStep, ...]:
    content = _read_json(directory, name)
    try:
        steps = [(step.get("registry_name", step.get("class")), step) for step in content["steps"]]
        return tuple(
            PipelineStep(str(kind), step.get("config") or {}, _read_stats(directory, step.get("state_file")))
            for kind, step in steps
        )
    except (KeyError, TypeError, AttributeError) as err:
        raise CheckpointError(
            f"{directory / name} is not a saved processor ({type(err).__name__}: {err}). "
            "Take another copy of the checkpoint."
        ) from err


def _read_stats(directory: Path, name: str | None) -> Stats:
    if name is None:
        return {}
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as err:
        raise MissingExtraError("Reading a checkpoint", "smolvla", err) from err
    path = directory / name
    if not path.is_file():
        raise CheckpointError(
            f"{directory} is not a complete checkpoint: {name}, the normalisation statistics, is missing. "
            "Take another copy of the checkpoint."
        )
    try:
        return {key: np.asarray(value) for key, value in load_file(path).items()}
    except (SafetensorError, OSError, TypeError) as err:
        raise CheckpointError(f"{path} cannot be read ({err}). Take another copy of the checkpoint.") from err
