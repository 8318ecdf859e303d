"""Check what goes into a policy: images and state of an observation, and the spaces of an env that promise them.

Every way to a policy passes here: the agent, a policy in this process or in one of its own, a server and its clients.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any, Final, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.checkpoint.validation import WIDTH, match_cameras
from smolvla_gym.agent.policies.base import Array, PolicyCard
from smolvla_gym.errors import ObservationError, PolicyMismatchError
from smolvla_gym.parol6 import ACTION_NAMES, JOINT_LOWER, JOINT_UPPER, NUM_JOINTS, STANDBY

_TURN: Final = 2 * np.pi + 0.2
"""Largest joint angle in rad, either way: what the board can count, and an overshoot. J3 in degrees is above 100."""

_OVERSHOOT: Final = 0.1
"""By how much an opening may lie outside of 0..1."""

_REACH: Final = 0.35
"""By how much in rad a joint may lie outside of its soft limits without a warning."""

_MAX_STRETCH: Final = 1.02
"""Aspect ratios that differ by more than this are refused: the policy has never seen stretched images."""

_MAX_EDGE: Final = 16_384

_STATE: Final = "six joint angles in rad and the gripper opening 0..1, float32, shape (7,)"


class _Layout(Protocol):
    """An array, or the space of one."""

    @property
    def shape(self) -> Any:
        """Length of each axis."""

    @property
    def dtype(self) -> Any:
        """Type of its elements."""


def check_spaces(
    card: PolicyCard, observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> dict[str, gym.Space[Any]]:
    """Refuse an env that does not promise what a policy needs.

    Args:
        card: The policy's.
        observation_space: The env's, a ``Dict`` with ``"pixels"`` and ``"agent_pos"``.
        action_space: The env's, a ``Box`` of shape (7,).

    Returns:
        The spaces of the cameras that the policy looks through, by the env's names.

    Raises:
        PolicyMismatchError: What does not fit, and the option that mends it.
    """
    if action_space.shape != (WIDTH,):
        raise PolicyMismatchError(
            f"The env takes actions of shape {action_space.shape}, and the policy gives ({WIDTH},): absolute joint "
            "targets and the gripper. Take action wrappers off the env."
        )
    parts = observation_space.spaces if isinstance(observation_space, gym.spaces.Dict) else {}
    pixels = parts.get("pixels")
    images = dict(pixels.items()) if isinstance(pixels, gym.spaces.Dict) else {}
    _check_state_layout(parts.get("agent_pos"), "Take observation wrappers off the env.")
    present = match_cameras(card, images)
    for ours, theirs in present.items():
        _check_image_layout(theirs, images[theirs], card.cameras[ours])
        _warn_of_enlarging(card, theirs, images[theirs], card.cameras[ours])
    return {theirs: images[theirs] for theirs in present.values()}


def check_observation(card: PolicyCard, observation: object, absent: Collection[str] = ()) -> dict[str, Any]:
    """Return what a policy looks at of an observation: the images of its cameras, and the state as float32.

    It takes some microseconds a camera: no pixel is looked at.

    Args:
        card: The policy's.
        observation: ``{"pixels": {camera: uint8 (H, W, 3)}, "agent_pos": float32 (7,)}`` with the env's names.
        absent: The policy's cameras that are left out on purpose.

    Raises:
        PolicyMismatchError: The observation lacks a camera.
        ObservationError: An image or the state has another type, shape or unit than the policy needs.
    """
    if not isinstance(observation, Mapping):
        raise ObservationError(
            f"The observation is {_kind(observation)}, and a policy needs a dict with 'pixels' and 'agent_pos'."
        )
    state = check_state(observation.get("agent_pos"))
    pixels = observation.get("pixels")
    if not isinstance(pixels, Mapping):
        pixels = {}
    images: dict[str, NDArray[np.uint8]] = {}
    for ours, theirs in match_cameras(card, pixels, absent).items():
        image = _array(f"The image of the camera {theirs!r}", pixels[theirs])
        _check_image_layout(theirs, image, card.cameras[ours])
        images[theirs] = image
    return {"pixels": images, "agent_pos": state}


def check_state(state: object) -> Array:
    """Return a state as float32, shape (7,): six joint angles in rad and the gripper opening 0..1.

    Angles up to a full turn pass, since the board counts from anywhere before it is homed; those that the arm cannot
    reach are warned about.

    Raises:
        ObservationError: It has another shape or type, a value that is not finite, or another unit.
    """
    given = None if state is None else _array("'agent_pos'", state)
    _check_state_layout(given, "Take observation wrappers off the env, or send the state as the env gives it.")
    assert given is not None  # noqa: S101 - narrows a type
    if not np.isfinite(given).all():
        raise ObservationError(
            f"'agent_pos' is not finite: {_name_values(given, ~np.isfinite(given))}. Expected: {_STATE}. "
            "Look for the sensor or wrapper that gave it."
        )
    wrong = np.abs(given) > _TURN
    wrong[NUM_JOINTS] = not -_OVERSHOOT <= given[NUM_JOINTS] <= 1.0 + _OVERSHOOT
    if wrong.any():
        raise ObservationError(
            f"'agent_pos' has {_name_values(given, wrong)}, which this arm cannot have in rad and 0..1; it may be "
            f"degrees or percent. Expected: {_STATE}. Convert angles with np.deg2rad() and divide percent by 100."
        )
    joints = given[:NUM_JOINTS]
    beyond = (joints < JOINT_LOWER - _REACH) | (joints > JOINT_UPPER + _REACH)
    if beyond.any():
        names = ", ".join(name for name, is_beyond in zip(ACTION_NAMES, beyond, strict=False) if is_beyond)
        warnings.warn(  # always the same text for the same joints, from the same place, so that Python shows it once
            f"'agent_pos' is outside of what the arm can reach in {names}. Is it in rad, with the zero of the control "
            "board (upper arm upright and forearm level: -pi/2 and pi in joints 2 and 3)?",
            stacklevel=1,
        )
    return given.astype(np.float32, copy=False)


def make_warm_up_observation(card: PolicyCard, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Return an observation to warm a policy up with: black images, and the arm in its standby pose.

    Args:
        card: The policy's.
        sizes: Height and width in px of the images of each of the env's cameras.
    """
    images = {theirs: np.zeros((*sizes[theirs], 3), np.uint8) for theirs in match_cameras(card, sizes).values()}
    return {"pixels": images, "agent_pos": np.append(STANDBY, 1.0).astype(np.float32)}


def _check_state_layout(state: _Layout | None, remedy: str) -> None:
    if state is None:
        raise ObservationError(f"The observation has no 'agent_pos', and the policy needs it: {_STATE}. {remedy}")
    shape, dtype = state.shape, state.dtype
    if shape != (WIDTH,):
        batched = " It has a batch axis; a policy takes one observation." if shape == (1, WIDTH) else ""
        raise ObservationError(f"'agent_pos' has shape {shape}, and the policy needs {_STATE}.{batched} {remedy}")
    if dtype is None or np.dtype(dtype).kind != "f":
        raise ObservationError(f"'agent_pos' is of {dtype}, and the policy needs {_STATE}. {remedy}")


def _check_image_layout(camera: str, image: _Layout, size: tuple[int, int]) -> None:
    height, width = size
    shape, dtype = tuple(image.shape or ()), image.dtype
    expected = (
        f"uint8 0..255 of shape (height, width, 3), red first, in the proportions of {height} x {width}: make the env "
        f"with gym.make(..., image_size=({height}, {width}))"
    )
    if dtype != np.uint8:
        scale = " Scale 0..1 with (255 * image).round().astype(np.uint8)." if _is_float(dtype) else ""
        raise ObservationError(f"The camera {camera!r} gives images of {dtype}. Expected: {expected}.{scale}")
    fits = len(shape) == 3 and shape[2] == 3 and all(1 <= edge <= _MAX_EDGE for edge in shape[:2])
    stretch = shape[0] * width / (shape[1] * height) if fits else 0.0
    if not 1 / _MAX_STRETCH <= stretch <= _MAX_STRETCH:
        raise ObservationError(
            f"The camera {camera!r} gives images of shape {shape}{_explain_shape(shape)}. Expected: {expected}."
        )


def _warn_of_enlarging(card: PolicyCard, camera: str, image: _Layout, size: tuple[int, int]) -> None:
    (given, _, _), (height, width) = image.shape, size
    if given < height / _MAX_STRETCH:
        warnings.warn(
            f"The camera {camera!r} gives images of {image.shape[0]} x {image.shape[1]}, and the policy {card.name!r} "
            f"was trained on {height} x {width}: enlarged ones lack detail. Make the env with gym.make(..., "
            f"image_size=({height}, {width})), or with **agent.env_options.",
            stacklevel=4,
        )


def _explain_shape(shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return " (a batch; a policy takes one observation)"
    if len(shape) == 2:
        return " (no colours)"
    if len(shape) == 3 and shape[2] != 3:
        return " (channels first)" if shape[0] == 3 else f" ({shape[2]} channels)"
    return ""


def _is_float(dtype: object) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind == "f"


def _array(what: str, value: object) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    try:
        return np.asarray(value)
    # Tensors on a GPU, ragged lists and foreign objects each raise what they like.
    except Exception as error:
        raise ObservationError(f"{what} is {_kind(value)}, which numpy makes no array of: give an array.") from error


def _name_values(state: NDArray[Any], which: NDArray[np.bool_]) -> str:
    pairs = zip(ACTION_NAMES, state.tolist(), which.tolist(), strict=True)
    return ", ".join(f"{name} = {value:.4g}" for name, value, is_wrong in pairs if is_wrong)


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"
