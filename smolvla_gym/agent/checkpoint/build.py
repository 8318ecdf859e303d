"""Build a SmolVLA and its processors with LeRobot's own classes, from checked values only.

LeRobot and transformers usually read files themselves and import what the files name. Here they get checked values, and
a private folder with the files that :mod:`smolvla_gym.agent.checkpoint.vlm_files` has checked.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from smolvla_gym.agent.checkpoint.configuration import STATE
from smolvla_gym.agent.checkpoint.normalization import ACTION_WIDTH
from smolvla_gym.agent.checkpoint.precision import check_language_mask
from smolvla_gym.agent.checkpoint.safetensors_file import SavedTensor
from smolvla_gym.agent.checkpoint.spec import POSTPROCESSOR, PREPROCESSOR, WEIGHTS, CheckpointSpec, PipelineStep
from smolvla_gym.agent.checkpoint.vlm_files import VLMFiles
from smolvla_gym.agent.checkpoint.weights import check_network
from smolvla_gym.errors import CheckpointError, MissingExtraError, needs_extra
from smolvla_gym.utils.untrusted import printable

COMPILE_MODES: Final = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Modes of ``torch.compile``."""


@contextlib.contextmanager
def temporary_vlm_folder(vlm: VLMFiles, layers: int) -> Iterator[Path]:
    """Provide a private folder with the checked files of a VLM; transformers reads no other files."""
    with tempfile.TemporaryDirectory(prefix="smolvla_gym-") as name:
        folder = Path(name)
        vlm.write(folder, layers)
        yield folder


def load_policy(spec: CheckpointSpec, folder: Path, header: Mapping[str, SavedTensor], compile_mode: str | None) -> Any:
    """Build the network and load its weights, in evaluation mode on the CPU.

    Args:
        spec: The checkpoint.
        folder: Folder from :func:`temporary_vlm_folder`.
        header: Descriptions of the weights in its file.
        compile_mode: One of ``COMPILE_MODES``; None: no compilation.

    Raises:
        CheckpointError: The network cannot be built, or does not match the weights.
        MissingExtraError: torch, transformers or lerobot is not installed.
    """
    with needs_extra("A SmolVLA agent", "smolvla"):
        from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
        from safetensors.torch import load_model
    with _as_checkpoint_error(spec, "the policy"):
        # LeRobot prints while it builds; standard output is for results of the program.
        with contextlib.redirect_stdout(sys.stderr):
            policy = SmolVLAPolicy(_make_config(spec, folder, compile_mode))
        check_network(spec, policy.state_dict(), header)
        load_model(policy, spec.directory / WEIGHTS, strict=False, device="cpu")
        policy.eval()
    _check_finite(spec, policy)
    return policy


def _make_config(spec: CheckpointSpec, folder: Path, compile_mode: str | None) -> Any:
    """Return LeRobot's configuration with the checked values."""
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

    values = {each.name: spec.config[each.name] for each in fields(SmolVLAConfig) if each.name in spec.config}
    for name in ("input_features", "output_features"):
        values[name] = {
            key: PolicyFeature(type=FeatureType(feature["type"]), shape=tuple(feature["shape"]))
            for key, feature in values[name].items()
        }
    values |= {
        "normalization_mapping": {
            kind: NormalizationMode(mode) for kind, mode in spec.config["normalization_mapping"].items()
        },
        "tags": list(values["tags"]) if values.get("tags") is not None else None,
        "device": "cpu",
        "pretrained_path": None,
        "vlm_model_name": str(folder),
        # True would download 2 GB of VLM weights, which the checkpoint's weights would replace.
        "load_vlm_weights": False,
        "rtc_config": None,  # the agent sets its own
        "compile_model": compile_mode is not None,
    }
    if compile_mode is not None or values.get("compile_mode") not in COMPILE_MODES:
        values["compile_mode"] = compile_mode or COMPILE_MODES[0]
    return SmolVLAConfig(**values)


@contextlib.contextmanager
def _as_checkpoint_error(spec: CheckpointSpec, part: str) -> Iterator[None]:
    """Convert errors of LeRobot, transformers and torch into a ``CheckpointError``."""
    try:
        yield
    except (CheckpointError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except ImportError as err:
        raise MissingExtraError("A SmolVLA agent", "smolvla", err) from err
    # A panic of the tokenizers library is not an Exception.
    except BaseException as err:
        raise CheckpointError(
            f"LeRobot could not load {part} of {spec.directory} ({type(err).__name__}: {printable(err)}). Take another "
            "copy of the checkpoint and of its VLM's files."
        ) from err


def _check_finite(spec: CheckpointSpec, policy: Any) -> None:
    """Refuse weights that are NaN or infinite."""
    for name, parameter in policy.named_parameters():
        low, high = parameter.data.aminmax()
        if not bool((high - low).isfinite()):
            raise CheckpointError(
                f"{spec.directory / WEIGHTS} has numbers in {name} that are not finite. Take another copy of the "
                "checkpoint."
            )


def load_processors(spec: CheckpointSpec, vlm_name: str, folder: Path, device: str) -> tuple[Any, Any]:
    """Build the preprocessor and the postprocessor, and run the preprocessor once.

    Args:
        spec: The checkpoint.
        vlm_name: Name of the tokenizer, for saving the checkpoint again.
        folder: Folder from :func:`temporary_vlm_folder`.
        device: The policy's device in torch's spelling.

    Raises:
        CheckpointError: They cannot be built.
    """
    import torch
    from lerobot.processor import PolicyProcessorPipeline
    from lerobot.processor.converters import (
        batch_to_transition,
        policy_action_to_transition,
        transition_to_batch,
        transition_to_policy_action,
    )

    with _as_checkpoint_error(spec, "the processors"):
        preprocessor = PolicyProcessorPipeline(
            steps=[_make_step(step, folder, vlm_name, device) for step in spec.preprocessor],
            name=Path(PREPROCESSOR).stem,
            to_transition=batch_to_transition,
            to_output=transition_to_batch,
        )
        postprocessor = PolicyProcessorPipeline(
            steps=[_make_step(step, folder, vlm_name, "cpu") for step in spec.postprocessor],
            name=Path(POSTPROCESSOR).stem,
            to_transition=policy_action_to_transition,
            to_output=transition_to_policy_action,
        )
        batch = preprocessor({"task": "try", STATE: torch.zeros(ACTION_WIDTH)})
    check_language_mask(batch)
    return preprocessor, postprocessor


def check_tokens(spec: CheckpointSpec, policy: Any, preprocessor: Any) -> None:
    """Refuse a tokenizer with tokens that have no row in the policy's embedding: transformers adds some itself.

    Raises:
        CheckpointError: The tokenizer has such a token.
    """
    from lerobot.processor import TokenizerProcessorStep

    rows = int(policy.model.vlm_with_expert.vlm.config.text_config.vocab_size)
    for step in preprocessor.steps:
        if isinstance(step, TokenizerProcessorStep):
            vocabulary: dict[str, int] = step.input_tokenizer.get_vocab()
            token, number = max(vocabulary.items(), key=lambda item: item[1], default=("", 0))
            if number >= rows:
                raise CheckpointError(
                    f"The tokenizer of {spec.directory} has {len(vocabulary)} tokens, such as {printable(token, 40)!r} "
                    f"with the number {number}, and the policy's embedding has {rows} rows. Take another copy of "
                    "the VLM's files."
                )


def _make_step(step: PipelineStep, folder: Path, vlm_name: str, device: str) -> Any:
    """Return LeRobot's step with the checked values."""
    import torch
    from lerobot.processor import ProcessorStepRegistry

    options: dict[str, dict[str, Any]] = {
        "device_processor": {"device": device},
        "tokenizer_processor": {"tokenizer_name": str(folder)},
        # The agent passes the images under the policy's own names.
        "rename_observations_processor": {"rename_map": {}},
    }
    config = {**step.config, **options.get(step.name, {})}
    if config.get("normalize_observation_keys") is not None:
        config["normalize_observation_keys"] = set(config["normalize_observation_keys"])
    processor = ProcessorStepRegistry.get(step.name)(**config)
    if step.name == "tokenizer_processor":
        processor.tokenizer_name = vlm_name  # saving the checkpoint writes this name
    if step.stats:
        processor.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in step.stats.items()})
    return processor
