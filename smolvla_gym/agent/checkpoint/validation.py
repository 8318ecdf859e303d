"""Validate that a checkpoint can drive a PAROL6: its sizes, features, options and statistics."""

from __future__ import annotations

from smolvla_gym.agent.checkpoint.configuration import IMAGES
from smolvla_gym.agent.checkpoint.normalization import ACTION_WIDTH, FINE_TUNE, check_normalization
from smolvla_gym.agent.checkpoint.spec import PREPROCESSOR, CheckpointSpec, find_step
from smolvla_gym.errors import CheckpointError, PolicyMismatchError
from smolvla_gym.parol6 import ACTION_NAMES
from smolvla_gym.utils import schema


def check_checkpoint(spec: CheckpointSpec) -> None:
    """Refuse a checkpoint that cannot drive a PAROL6.

    The check needs no weights and runs before they are downloaded or read.

    Raises:
        PolicyMismatchError: The first reason found.
        CheckpointError: The checkpoint has no tokenizer.
    """
    name = spec.directory
    if spec.action_dim != ACTION_WIDTH:
        known = " smolvla_base has 6: the SO-100's five joints and gripper." if spec.action_dim == 6 else ""
        raise PolicyMismatchError(
            f"The policy in {name} has actions of {spec.action_dim} components, and this arm takes {ACTION_WIDTH} "
            f"({', '.join(ACTION_NAMES)}).{known} {FINE_TUNE}"
        )
    if not spec.cameras:
        raise PolicyMismatchError(f"The policy in {name} uses no camera. {FINE_TUNE}")
    images = [key for key, feature in spec.config["input_features"].items() if feature["type"] == "VISUAL"]
    unprefixed = [key for key in images if not key.startswith(IMAGES)]
    if unprefixed:
        raise PolicyMismatchError(
            f"The policy in {name} has a camera called {schema.format_value(unprefixed[0])}; expected names that "
            f"begin with {IMAGES!r}. Rename it in config.json and {PREPROCESSOR}, for example to {IMAGES + 'scene'!r}."
        )
    for option in ("adapt_to_pi_aloha", "use_delta_joint_actions_aloha"):
        if spec.config[option]:
            raise PolicyMismatchError(f"The policy in {name} converts joints for an Aloha arm ({option}). {FINE_TUNE}")
    for option in ("max_state_dim", "max_action_dim"):
        if spec.config[option] < ACTION_WIDTH:
            raise PolicyMismatchError(
                f"The policy in {name} has {option} {spec.config[option]}; expected at least {ACTION_WIDTH}."
            )
    state = spec.config["normalization_mapping"].get("STATE", "IDENTITY")
    # Only without statistics: a fine-tuned policy may keep the declared width of its base policy.
    if state == "IDENTITY" and spec.state_dim != ACTION_WIDTH:
        raise PolicyMismatchError(
            f"The policy in {name} takes a state of {spec.state_dim} components, and this arm has {ACTION_WIDTH} "
            f"({', '.join(ACTION_NAMES)}). {FINE_TUNE}"
        )
    if not 1 <= spec.n_action_steps <= spec.chunk_size:
        raise PolicyMismatchError(
            f"The policy in {name} executes {spec.n_action_steps} actions of each chunk of {spec.chunk_size}; "
            f"expected n_action_steps from 1 to chunk_size in config.json."
        )
    if find_step(spec.preprocessor, "tokenizer_processor") is None:
        raise CheckpointError(
            f"{name / PREPROCESSOR} has no tokenizer_processor, so the policy would get no instruction. "
            "Take another copy of the checkpoint."
        )
    check_normalization(spec)
