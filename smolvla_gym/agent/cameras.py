"""Match the cameras of a policy with those of an env: camera maps, absent cameras and advice for errors."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from smolvla_gym.agent.checkpoint.spec import CheckpointSpec
from smolvla_gym.agent.policies.base import PolicyCard
from smolvla_gym.errors import PolicyMismatchError

PAROL6_CAMERAS: Final = ("wrist", "scene")
"""Cameras that the envs of this package can have."""


def match_cameras(card: PolicyCard, offered: Iterable[str], absent: Collection[str] = ()) -> dict[str, str]:
    """Return the env camera for each policy camera that an env provides.

    Cameras that the env lacks are left out if the checkpoint allows that many to be absent (``empty_cameras``).

    Args:
        card: The policy's card.
        offered: Names under the env's ``"pixels"``.
        absent: Policy cameras that are left out on purpose.

    Raises:
        PolicyMismatchError: The env lacks a camera. The message says what would help.
    """
    offered = tuple(offered)
    wanted = {policy_camera: camera for policy_camera, camera in card.camera_map.items() if policy_camera not in absent}
    present = {policy_camera: camera for policy_camera, camera in wanted.items() if camera in offered}
    lacking = [env_camera for env_camera in wanted.values() if env_camera not in offered]
    if present and len(lacking) <= card.empty_cameras:
        return present
    raise PolicyMismatchError(
        f"The policy {card.name!r} needs the cameras {_quote_names(wanted)}; the env has {_quote_names(offered)}. "
        f"Missing: {_quote_names(lacking)}. Make the env with gym.make(..., cameras={card.env_cameras!r}) if it has "
        f"these cameras. {advise_camera_map(wanted, offered)}"
    )


def required_env_cameras(card: PolicyCard, known: Iterable[str]) -> tuple[str, ...]:
    """Return the env cameras that a policy uses, each once, out of those that a kind of env can have.

    Raises:
        PolicyMismatchError: The policy needs other cameras.
    """
    return tuple(dict.fromkeys(match_cameras(card, known).values()))


def advise_camera_map(camera_map: Mapping[str, str], offered: Sequence[str]) -> str:
    """Return sentences that say what to do about policy cameras that an env lacks.

    A camera's name does not tell what it shows, so the advice includes leaving a camera out: an image of another view
    would be wrong for a camera that was never used in training.
    """
    lacking = [policy_camera for policy_camera, env_camera in camera_map.items() if env_camera not in offered]
    named = {name: camera for name, camera in suggest_camera_map(camera_map, offered).items() if camera is not None}
    first = lacking[0] if lacking else next(iter(camera_map), "camera1")
    advice = (
        f"Leave out a camera that was not used in training: camera_map={ {first: None}!r} (--camera-map {first}=none)."
    )
    if not named:
        return advice
    return (
        "If the env's camera with the view from training has another name, map it, for example "
        f"camera_map={named!r}. {advice}"
    )


def suggest_camera_map(camera_map: Mapping[str, str], offered: Sequence[str]) -> dict[str, str | None]:
    """Return for each policy camera that an env lacks an env camera that is still unused, or None.

    Args:
        camera_map: Env camera by policy camera.
        offered: The env's cameras. If empty, ``"wrist"`` is the example.
    """
    lacking = [policy_camera for policy_camera, env_camera in camera_map.items() if env_camera not in offered]
    unused = [camera for camera in offered or ("wrist",) if camera not in camera_map.values()]
    return dict(itertools.zip_longest(lacking, unused[: len(lacking)]))


def map_checkpoint_cameras(spec: CheckpointSpec, camera_map: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Return the env camera for each camera of a checkpoint that is not left out, before an env is known.

    Raises:
        PolicyMismatchError: ``camera_map`` names a camera that the policy does not have, or leaves all of them out.
    """
    renamed = spec.renamed_cameras
    return map_cameras(spec.directory, {name: renamed.get(name, name) for name in spec.cameras}, camera_map)


def map_cameras(
    policy: object, defaults: Mapping[str, str], camera_map: Mapping[str, str | None] | None
) -> dict[str, str]:
    """Return the env camera for each policy camera that is not left out.

    Args:
        policy: Name of the policy, for errors.
        defaults: Env camera by policy camera without a camera map.
        camera_map: Changes to ``defaults``: an env camera by policy camera. None leaves that camera out, as LeRobot
            does with a camera that a batch lacks.

    Raises:
        PolicyMismatchError: ``camera_map`` names a camera that the policy does not have, or leaves all of them out.
    """
    given = dict(camera_map or {})
    unknown = [name for name in given if name not in defaults]
    if unknown:
        raise PolicyMismatchError(
            f"camera_map names {_quote_names(unknown)}, and the policy {str(policy)!r} has the cameras "
            f"{_quote_names(defaults)}. It maps the policy's names to the env's: "
            f"camera_map={{{next(iter(defaults))!r}: 'wrist'}}."
        )
    wrong = {name: camera for name, camera in given.items() if camera is not None and not _is_name(camera)}
    if wrong:
        raise PolicyMismatchError(
            f"camera_map has {wrong!r:.200}; expected the name of an env camera such as 'wrist', or None to leave a "
            "camera out."
        )
    chosen = {policy_camera: given.get(policy_camera, env_camera) for policy_camera, env_camera in defaults.items()}
    kept = {policy_camera: env_camera for policy_camera, env_camera in chosen.items() if env_camera is not None}
    if not kept:
        raise PolicyMismatchError(
            f"camera_map leaves out all cameras of the policy {str(policy)!r}, and the policy needs at least one of "
            f"{_quote_names(defaults)}."
        )
    return kept


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _quote_names(cameras: Iterable[str]) -> str:
    return ", ".join(map(repr, cameras)) or "none"
