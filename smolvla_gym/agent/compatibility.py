"""Whether a checkpoint can drive this arm at all, and which of an env's cameras it looks through."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from smolvla_gym.agent.configuration import IMAGES
from smolvla_gym.agent.fields import shown
from smolvla_gym.agent.normalization import FINE_TUNE as _FINE_TUNE
from smolvla_gym.agent.normalization import WIDTH as WIDTH
from smolvla_gym.agent.normalization import check_normalization
from smolvla_gym.agent.policy import PolicyCard
from smolvla_gym.agent.spec import PREPROCESSOR, CheckpointSpec, find_step
from smolvla_gym.errors import CheckpointError, PolicyMismatchError
from smolvla_gym.parol6 import ACTION_NAMES

_MAX_STRETCH: Final = 1.02
"""Aspect ratios that differ by more than this are refused: the policy has never seen stretched pictures."""


def check_checkpoint(spec: CheckpointSpec) -> None:
    """Refuse a checkpoint that cannot drive a PAROL6. It needs no weights, so it comes before they are read.

    Raises:
        PolicyMismatchError: The first reason found.
        CheckpointError: It has no tokenizer.
    """
    name = spec.directory
    if spec.action_dim != WIDTH:
        known = " smolvla_base has 6: the SO-100's five joints and gripper." if spec.action_dim == 6 else ""
        raise PolicyMismatchError(
            f"The policy in {name} has actions of {spec.action_dim} components, and this arm takes {WIDTH} "
            f"({', '.join(ACTION_NAMES)}).{known} {_FINE_TUNE}"
        )
    if not spec.cameras:
        raise PolicyMismatchError(f"The policy in {name} looks at no camera. {_FINE_TUNE}")
    unprefixed = [key for key, of in spec.config["input_features"].items() if of["type"] == "VISUAL"]
    unprefixed = [key for key in unprefixed if not key.startswith(IMAGES)]
    if unprefixed:
        raise PolicyMismatchError(
            f"The policy in {name} has a camera called {shown(unprefixed[0])}; expected names that begin with "
            f"{IMAGES!r}. Rename it in config.json and {PREPROCESSOR}, for example to {IMAGES + 'scene'!r}."
        )
    for option in ("adapt_to_pi_aloha", "use_delta_joint_actions_aloha"):
        if spec.config[option]:
            raise PolicyMismatchError(f"The policy in {name} changes joints for an Aloha arm ({option}). {_FINE_TUNE}")
    for option in ("max_state_dim", "max_action_dim"):
        if spec.config[option] < WIDTH:
            raise PolicyMismatchError(f"The policy in {name} has {option} {spec.config[option]}, less than {WIDTH}.")
    state = spec.config["normalization_mapping"].get("STATE", "IDENTITY")
    # Only without statistics: a fine-tuned policy may carry the declared width of the one it was tuned from.
    if state == "IDENTITY" and spec.state_dim != WIDTH:
        raise PolicyMismatchError(
            f"The policy in {name} takes a state of {spec.state_dim} components, and this arm has {WIDTH} "
            f"({', '.join(ACTION_NAMES)}). {_FINE_TUNE}"
        )
    if not 1 <= spec.n_action_steps <= spec.chunk_size:
        raise PolicyMismatchError(
            f"The policy in {name} wants to execute {spec.n_action_steps} actions of chunks of {spec.chunk_size}."
        )
    if find_step(spec.preprocessor, "tokenizer_processor") is None:
        raise CheckpointError(
            f"{name / PREPROCESSOR} has no tokenizer_processor, so the policy would get no instruction. "
            "Take another copy of the checkpoint."
        )
    check_normalization(spec)


def match_cameras(card: PolicyCard, offered: Iterable[str]) -> None:
    """Refuses an env that lacks a camera which the policy looks through.

    Args:
        card: The policy.
        offered: Names under the env's ``"pixels"``.

    Raises:
        PolicyMismatchError: The env lacks a camera, with what would help.
    """
    offered = tuple(offered)
    lacking = {ours: theirs for ours, theirs in card.camera_map.items() if theirs not in offered}
    if not lacking:
        return
    raise PolicyMismatchError(
        f"The policy {card.name!r} needs the cameras {', '.join(map(repr, card.camera_map))}; the env has "
        f"{', '.join(map(repr, offered)) or 'none'}. Missing: {', '.join(map(repr, lacking.values()))}. "
        f"Make the env with gym.make(..., cameras={card.env_cameras!r}) if it knows these cameras, or name the env's "
        f"camera for each of the policy's with camera_map={suggest_camera_map(card.camera_map, offered)!r}."
    )


def suggest_camera_map(camera_map: Mapping[str, str], offered: Sequence[str]) -> dict[str, str]:
    """Returns an env camera for each of a policy's that an env lacks: as far as they go, those that are left over.

    Args:
        camera_map: Env camera by policy camera.
        offered: The env's cameras. Where there are none, ``"wrist"`` stands for one.
    """
    lacking = [ours for ours, theirs in camera_map.items() if theirs not in offered]
    left_over_first = sorted(offered or ("wrist",), key=lambda camera: camera in camera_map.values())
    return dict(zip(lacking, itertools.cycle(left_over_first), strict=False))


def planned_cameras(spec: CheckpointSpec, camera_map: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the env camera for each of the policy's, before any env is known.

    Raises:
        PolicyMismatchError: ``camera_map`` names a camera that the policy does not have.
    """
    renamed = spec.renamed_cameras
    return map_cameras(spec.directory, {name: renamed.get(name, name) for name in spec.cameras}, camera_map)


def map_cameras(policy: object, usual: Mapping[str, str], camera_map: Mapping[str, str] | None) -> dict[str, str]:
    """Returns the env camera for each of a policy's.

    Args:
        policy: What it is called.
        usual: Its cameras, and the env's that it looks through unless it is told otherwise.
        camera_map: What it is told.

    Raises:
        PolicyMismatchError: ``camera_map`` names a camera that the policy does not have.
    """
    unknown = [name for name in camera_map or {} if name not in usual]
    if unknown:
        raise PolicyMismatchError(
            f"camera_map names {', '.join(map(repr, unknown))}, and the policy {str(policy)!r} has the cameras "
            f"{', '.join(map(repr, usual))}. It maps the policy's names to the env's: "
            f"camera_map={{{next(iter(usual))!r}: 'wrist'}}."
        )
    return {**usual, **(camera_map or {})}


def check_fit(card: PolicyCard, pictures: Mapping[str, tuple[int, ...]], state: tuple[int, ...] | None) -> None:
    """Refuses an env whose observations are not what a policy needs.

    Args:
        card: The policy.
        pictures: Shape of the picture of each camera that the env has.
        state: Shape of its ``agent_pos``; None where it has none.

    Raises:
        PolicyMismatchError: What does not fit, and the option that would mend it.
    """
    if state != (WIDTH,):
        raise PolicyMismatchError(
            f"The env's 'agent_pos' has shape {state}, and the policy needs ({WIDTH},): six joint angles in rad "
            "and the gripper opening. Take observation wrappers off the env."
        )
    match_cameras(card, pictures)
    for ours, theirs in card.camera_map.items():
        shape, (height, width) = pictures[theirs], card.cameras[ours]
        stretch = shape[0] * width / (shape[1] * height) if len(shape) == 3 and shape[2] == 3 else 0.0
        if not 1 / _MAX_STRETCH <= stretch <= _MAX_STRETCH:
            raise PolicyMismatchError(
                f"The env's camera {theirs!r} gives pictures of shape {shape}, and the policy wants (height, "
                f"width, 3) in the proportions of {height} x {width}. "
                f"Make the env with gym.make(..., image_size=({height}, {width}))."
            )
