"""Whether a checkpoint can drive this arm at all, and which of an env's cameras it looks through."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from smolvla_gym.agent.policy import PolicyCard
from smolvla_gym.agent.spec import ACTION, STATE, CheckpointSpec, PipelineStep, find_step
from smolvla_gym.errors import PolicyMismatchError
from smolvla_gym.parol6 import ACTION_NAMES, NUM_JOINTS

WIDTH: Final = len(ACTION_NAMES)
"""Width of an action and of ``agent_pos``."""

_FINE_TUNE: Final = (
    "Fine-tune it on data recorded with this arm (7 components: six joint angles in rad, gripper opening 0..1), "
    "for example with lerobot-train --policy.path=<checkpoint>."
)

_MAX_STRETCH: Final = 1.02
"""Aspect ratios that differ by more than this are refused: the policy has never seen stretched pictures."""

_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "IDENTITY": (),
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}
"""Statistics that each mode of normalisation uses."""


def check_checkpoint(spec: CheckpointSpec) -> None:
    """Refuses a checkpoint that cannot drive a PAROL6. It needs no weights, so it comes before they are read.

    Raises:
        PolicyMismatchError: The first reason found.
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
    if spec.config.get("adapt_to_pi_aloha"):
        raise PolicyMismatchError(
            f"The policy in {name} flips joints for an Aloha arm (adapt_to_pi_aloha). {_FINE_TUNE}"
        )
    state = (spec.config.get("normalization_mapping") or {}).get("STATE", "IDENTITY")
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
    before = find_step(spec.preprocessor, "normalizer_processor")
    after = find_step(spec.postprocessor, "unnormalizer_processor")
    mapping = spec.config.get("normalization_mapping") or {}
    _check_statistics(spec, before, STATE, "STATE", mapping)
    _check_statistics(spec, after, ACTION, "ACTION", mapping)
    for camera in spec.cameras:
        _check_statistics(spec, before, f"observation.images.{camera}", "VISUAL", mapping)
    if after is not None:
        _check_units(spec, after)


def _check_statistics(
    spec: CheckpointSpec, step: PipelineStep | None, key: str, kind: str, mapping: Mapping[str, str]
) -> None:
    """Refuses a value that LeRobot would pass on unnormalised without a word."""
    wanted = mapping.get(kind, "IDENTITY")
    mode = (step.config.get("norm_map") or {}).get(kind, "IDENTITY") if step else "IDENTITY"
    if mode not in _NEEDED or (mode == "IDENTITY") != (wanted == "IDENTITY"):
        raise PolicyMismatchError(
            f"The policy in {spec.directory} was trained with {key} normalised by {wanted}, and its saved processor "
            f"uses {mode if step else 'no normalisation'}. Its actions would have the wrong unit. "
            "Save the processors again with the statistics of the training data."
        )
    if mode == "IDENTITY" or step is None:
        return
    # The preprocessor normalises only what its feature list names; the postprocessor always takes the action.
    listed = key == ACTION or key in (step.config.get("features") or {})
    missing = [name for name in _NEEDED[mode] if f"{key}.{name}" not in step.stats]
    if missing or not listed:
        lack = f"{' and '.join(missing)} of {key}" if missing else f"the feature {key}"
        raise PolicyMismatchError(
            f"The policy in {spec.directory} has no normalisation statistics: {lack} is missing from its saved "
            f"processor, and the policy would work on numbers without a unit. {_save_again(spec)}"
        )
    for name in _NEEDED[mode]:
        values = step.stats[f"{key}.{name}"]
        if not np.isfinite(values).all():
            raise PolicyMismatchError(
                f"The policy in {spec.directory} has {name} of {key} that is not finite. {_save_again(spec)}"
            )
        if kind != "VISUAL" and values.shape != (WIDTH,):
            raise PolicyMismatchError(
                f"The policy in {spec.directory} has statistics of shape {values.shape} for {key}, and this arm has "
                f"{WIDTH} components ({', '.join(ACTION_NAMES)}). {_FINE_TUNE}"
            )


def _save_again(spec: CheckpointSpec) -> str:
    return (
        "Save it again with make_pre_post_processors(config, dataset_stats=<statistics of the training data>), "
        "or take the checkpoint that lerobot-train wrote."
    )


def _check_units(spec: CheckpointSpec, step: PipelineStep) -> None:
    """Refuses actions that are plainly not rad and opening: degrees, or the percentages of the SO-100."""
    mean = step.stats.get(f"{ACTION}.mean")
    if mean is None:
        return
    joints, gripper = np.abs(mean[:NUM_JOINTS]).max(), float(mean[NUM_JOINTS])
    if joints > 2 * np.pi or not -0.1 <= gripper <= 1.1:
        raise PolicyMismatchError(
            f"The policy in {spec.directory} was trained on actions with the means {np.round(mean, 2).tolist()}: these "
            f"are not six angles in rad and an opening of 0..1, but rather degrees or percent. {_FINE_TUNE}"
        )


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
