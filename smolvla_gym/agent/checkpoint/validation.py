"""Whether a checkpoint can drive this arm at all, and which of an env's cameras it looks through."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from smolvla_gym.agent.checkpoint.configuration import IMAGES
from smolvla_gym.agent.checkpoint.field_checks import format_value
from smolvla_gym.agent.checkpoint.normalization import FINE_TUNE as _FINE_TUNE
from smolvla_gym.agent.checkpoint.normalization import WIDTH as WIDTH
from smolvla_gym.agent.checkpoint.normalization import check_normalization
from smolvla_gym.agent.checkpoint.spec import PREPROCESSOR, CheckpointSpec, find_step
from smolvla_gym.agent.policies.base import PolicyCard
from smolvla_gym.errors import CheckpointError, PolicyMismatchError
from smolvla_gym.parol6 import ACTION_NAMES

PAROL6_CAMERAS: Final = ("wrist", "scene")
"""Cameras that the envs of this package can have."""

_SAME_RATE: Final = 0.01
"""Share by which two control rates may differ that count as the same."""


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
            f"The policy in {name} has a camera called {format_value(unprefixed[0])}; expected names that begin with "
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


def match_cameras(card: PolicyCard, offered: Iterable[str], absent: Collection[str] = ()) -> dict[str, str]:
    """Return the env camera for each of a policy's that an env has.

    Cameras that the env lacks are left out where the checkpoint allows so many to be absent (``empty_cameras``).

    Args:
        card: The policy.
        offered: Names under the env's ``"pixels"``.
        absent: The policy's cameras that are left out on purpose.

    Raises:
        PolicyMismatchError: The env lacks a camera, with what would help.
    """
    offered = tuple(offered)
    wanted = {ours: theirs for ours, theirs in card.camera_map.items() if ours not in absent}
    present = {ours: theirs for ours, theirs in wanted.items() if theirs in offered}
    lacking = [theirs for theirs in wanted.values() if theirs not in offered]
    if present and len(lacking) <= card.empty_cameras:
        return present
    raise PolicyMismatchError(
        f"The policy {card.name!r} needs the cameras {_names(wanted)}; the env has {_names(offered)}. "
        f"Missing: {_names(lacking)}. Make the env with gym.make(..., cameras={card.env_cameras!r}) if it knows these "
        f"cameras. {advise_camera_map(wanted, offered)}"
    )


def required_env_cameras(card: PolicyCard, known: Iterable[str]) -> tuple[str, ...]:
    """Return the env cameras that a policy looks through, each once, of those that a kind of env can have.

    Raises:
        PolicyMismatchError: It needs others.
    """
    return tuple(dict.fromkeys(match_cameras(card, known).values()))


def advise_camera_map(camera_map: Mapping[str, str], offered: Sequence[str]) -> str:
    """Return what to do about the cameras of a policy that an env lacks, in sentences.

    Which camera shows what the policy was trained on cannot be known from its name, so nothing is advised that would
    be wrong for a camera that the policy never saw.
    """
    lacking = [ours for ours, theirs in camera_map.items() if theirs not in offered]
    named = {ours: theirs for ours, theirs in suggest_camera_map(camera_map, offered).items() if theirs is not None}
    first = lacking[0] if lacking else next(iter(camera_map), "camera1")
    advice = (
        f"Where training never saw a camera, leave it out: camera_map={ {first: None}!r} (--camera-map {first}=none)."
    )
    if not named:
        return advice
    return (
        "Where the env's camera that shows what the policy's showed in training has another name, name it, such as "
        f"camera_map={named!r}. {advice}"
    )


def suggest_camera_map(camera_map: Mapping[str, str], offered: Sequence[str]) -> dict[str, str | None]:
    """Return an env camera for each of a policy's that an env lacks: one that no other looks through, or None.

    Args:
        camera_map: Env camera by policy camera.
        offered: The env's cameras. Where there are none, ``"wrist"`` stands for one.
    """
    lacking = [ours for ours, theirs in camera_map.items() if theirs not in offered]
    left_over = [camera for camera in offered or ("wrist",) if camera not in camera_map.values()]
    return dict(itertools.zip_longest(lacking, left_over[: len(lacking)]))


def map_checkpoint_cameras(spec: CheckpointSpec, camera_map: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Return the env camera for each of the policy's that is not left out, before any env is known.

    Raises:
        PolicyMismatchError: ``camera_map`` names a camera that the policy does not have, or leaves all of them out.
    """
    renamed = spec.renamed_cameras
    return map_cameras(spec.directory, {name: renamed.get(name, name) for name in spec.cameras}, camera_map)


def map_cameras(
    policy: object, usual: Mapping[str, str], camera_map: Mapping[str, str | None] | None
) -> dict[str, str]:
    """Return the env camera for each of a policy's that is not left out.

    Args:
        policy: What it is called.
        usual: Its cameras, and the env's that it looks through unless something else is asked for.
        camera_map: What is asked for: an env camera by policy camera; None leaves that camera out, as LeRobot does
            with one that a batch lacks.

    Raises:
        PolicyMismatchError: ``camera_map`` names a camera that the policy does not have, or leaves all of them out.
    """
    given = dict(camera_map or {})
    unknown = [name for name in given if name not in usual]
    if unknown:
        raise PolicyMismatchError(
            f"camera_map names {_names(unknown)}, and the policy {str(policy)!r} has the cameras "
            f"{_names(usual)}. It maps the policy's names to the env's: camera_map={{{next(iter(usual))!r}: 'wrist'}}."
        )
    wrong = {ours: theirs for ours, theirs in given.items() if theirs is not None and not _is_name(theirs)}
    if wrong:
        raise PolicyMismatchError(
            f"camera_map has {wrong!r:.200}, and an env's camera is a name such as 'wrist', or None for a camera that "
            "is left out."
        )
    chosen = {ours: given.get(ours, theirs) for ours, theirs in usual.items()}
    kept = {ours: theirs for ours, theirs in chosen.items() if theirs is not None}
    if not kept:
        raise PolicyMismatchError(
            f"camera_map leaves out all cameras of the policy {str(policy)!r}, and it needs at least one of "
            f"{_names(usual)}."
        )
    return kept


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _names(cameras: Iterable[str]) -> str:
    return ", ".join(map(repr, cameras)) or "none"


def check_training_conditions(
    card: PolicyCard, metadata: Mapping[str, object], *, allow_mismatch: bool = False
) -> float:
    """Refuse an env whose control rate or gripper is not the one that a policy was trained with.

    At another rate the same actions are another motion.

    Args:
        card: The policy.
        metadata: The env's: ``"render_fps"``, its control rate in Hz, and ``"gripper"``, if it says.
        allow_mismatch: Warns instead.

    Returns:
        The env's control rate in Hz.

    Raises:
        PolicyMismatchError: They differ, or the env has no control rate.
    """
    rate = metadata.get("render_fps")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 < rate < math.inf:
        raise PolicyMismatchError(
            f"The env says nothing of its control rate: metadata['render_fps'] is {rate!r:.80}, and an agent needs a "
            "number of Hz above 0. Set it in the env's metadata."
        )
    differences, remedies = [], []
    if card.control_hz is not None and not math.isclose(rate, card.control_hz, rel_tol=_SAME_RATE):
        differences.append(f"at {card.control_hz:g} Hz, and the env's control rate is {rate:g} Hz")
        remedies.append(f"control_hz={card.control_hz:g}")
    gripper = metadata.get("gripper")
    if card.gripper is not None and isinstance(gripper, str) and gripper != card.gripper:
        differences.append(f"with the gripper {card.gripper!r}, and the env has {gripper!r}")
        remedies.append(f"gripper={card.gripper!r}")
    if differences:
        said = f"The policy {card.name!r} was trained {'; and '.join(differences)}"
        if not allow_mismatch:
            raise PolicyMismatchError(
                f"{said}. Make the env with gym.make(..., {', '.join(remedies)}), on the command line with "
                "--control-hz and --gripper, or try it nevertheless with allow_mismatch=True (--allow-mismatch)."
            )
        warnings.warn(f"{said}.", stacklevel=3)
    return float(rate)
