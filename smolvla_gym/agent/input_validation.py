"""Validate what a policy gets: images and state of an observation, and the env that provides them.

All policies use these checks: one in this process or in a worker process, the policy server and its clients.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping
from typing import Any, Final, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.cameras import match_cameras
from smolvla_gym.agent.checkpoint.normalization import ACTION_WIDTH
from smolvla_gym.agent.policies.base import Array, PolicyCard
from smolvla_gym.errors import ObservationError, PolicyMismatchError
from smolvla_gym.parol6 import ACTION_NAMES, JOINT_LOWER, JOINT_UPPER, NUM_JOINTS

_MAX_ANGLE: Final = 2 * np.pi + 0.2
"""Largest joint angle in rad in either direction: the range of the board's counter, plus overshoot. J3 in degrees is
above 100."""

_OPENING_TOLERANCE: Final = 0.1
"""Distance by which an opening may lie outside 0..1."""

_LIMIT_TOLERANCE: Final = 0.35
"""Distance in rad by which a joint may lie outside its soft limits without a warning."""

_MAX_STRETCH: Final = 1.02
"""Largest ratio of two aspect ratios: no policy was trained on stretched images."""

_MAX_EDGE: Final = 16_384
"""Longest edge of an image in px."""

_RATE_TOLERANCE: Final = 0.01
"""Relative difference up to which two control rates count as equal."""

_STATE: Final = "six joint angles in rad and the gripper opening 0..1, float32, shape (7,)"


class _Layout(Protocol):
    """An array or a Gymnasium space: both have a shape and a dtype."""

    @property
    def shape(self) -> Any:
        """Length of each axis."""

    @property
    def dtype(self) -> Any:
        """Type of the elements."""


def check_spaces(
    card: PolicyCard, observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> dict[str, gym.Space[Any]]:
    """Refuse an env whose spaces do not fit a policy.

    Args:
        card: The policy's card.
        observation_space: The env's, a ``Dict`` with ``"pixels"`` and ``"agent_pos"``.
        action_space: The env's, a ``Box`` of shape (7,).

    Returns:
        The spaces of the cameras that the policy uses, by env camera.

    Raises:
        PolicyMismatchError: The first mismatch, and the option that resolves it.
    """
    if action_space.shape != (ACTION_WIDTH,):
        raise PolicyMismatchError(
            f"The env takes actions of shape {action_space.shape}; expected ({ACTION_WIDTH},), the policy's absolute "
            "joint targets and gripper opening. Remove action wrappers from the env."
        )
    parts = observation_space.spaces if isinstance(observation_space, gym.spaces.Dict) else {}
    pixels = parts.get("pixels")
    images = dict(pixels.items()) if isinstance(pixels, gym.spaces.Dict) else {}
    _check_state_layout(parts.get("agent_pos"), "Remove observation wrappers from the env.")
    present = match_cameras(card, images)
    for policy_camera, env_camera in present.items():
        _check_image_layout(env_camera, images[env_camera], card.cameras[policy_camera])
        _warn_of_enlarging(card, env_camera, images[env_camera], card.cameras[policy_camera])
    return {env_camera: images[env_camera] for env_camera in present.values()}


def check_training_conditions(
    card: PolicyCard, metadata: Mapping[str, object], *, allow_mismatch: bool = False
) -> float:
    """Refuse an env whose control rate or gripper differs from that in training.

    At another control rate the same actions are another motion.

    Args:
        card: The policy's card.
        metadata: The env's: ``"render_fps"``, its control rate in Hz, and ``"gripper"`` if present.
        allow_mismatch: Warn instead of raising.

    Returns:
        The env's control rate in Hz.

    Raises:
        PolicyMismatchError: They differ, or the env has no control rate.
    """
    rate = metadata.get("render_fps")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 < rate < math.inf:
        raise PolicyMismatchError(
            f"The env's control rate metadata['render_fps'] is {rate!r:.80}; expected a number of Hz above 0. Set it "
            "in the env's metadata."
        )
    differences, remedies = [], []
    if card.control_hz is not None and not math.isclose(rate, card.control_hz, rel_tol=_RATE_TOLERANCE):
        differences.append(f"at {card.control_hz:g} Hz, and the env's control rate is {rate:g} Hz")
        remedies.append(f"control_hz={card.control_hz:g}")
    gripper = metadata.get("gripper")
    if card.gripper is not None and isinstance(gripper, str) and gripper != card.gripper:
        differences.append(f"with the gripper {card.gripper!r}, and the env has {gripper!r}")
        remedies.append(f"gripper={card.gripper!r}")
    if differences:
        message = f"The policy {card.name!r} was trained {'; and '.join(differences)}"
        if not allow_mismatch:
            raise PolicyMismatchError(
                f"{message}. Make the env with gym.make(..., {', '.join(remedies)}), on the command line with "
                "--control-hz and --gripper, or accept the difference with allow_mismatch=True (--allow-mismatch)."
            )
        warnings.warn(f"{message}.", stacklevel=3)
    return float(rate)


def check_observation(card: PolicyCard, observation: object, absent: Collection[str] = ()) -> dict[str, Any]:
    """Return the part of an observation that a policy uses: the images of its cameras, and the state as float32.

    The check takes some microseconds a camera, because it reads no pixel.

    Args:
        card: The policy's card.
        observation: ``{"pixels": {camera: uint8 (H, W, 3)}, "agent_pos": float32 (7,)}`` with the env's names.
        absent: Policy cameras that are left out on purpose.

    Raises:
        PolicyMismatchError: The observation lacks a camera.
        ObservationError: An image or the state has another type, shape or unit than the policy needs.
    """
    if not isinstance(observation, Mapping):
        raise ObservationError(
            f"The observation is {_describe_type(observation)}; expected a dict with 'pixels' and 'agent_pos'."
        )
    state = check_state(observation.get("agent_pos"))
    pixels = observation.get("pixels")
    if not isinstance(pixels, Mapping):
        pixels = {}
    images: dict[str, NDArray[np.uint8]] = {}
    for policy_camera, env_camera in match_cameras(card, pixels, absent).items():
        image = _as_array(f"The image of the camera {env_camera!r}", pixels[env_camera])
        _check_image_layout(env_camera, image, card.cameras[policy_camera])
        images[env_camera] = image
    return {"pixels": images, "agent_pos": state}


def check_state(state: object) -> Array:
    """Return a state as float32, shape (7,): six joint angles in rad and the gripper opening 0..1.

    Angles up to a full turn pass, because the board counts from an arbitrary position before homing. Angles that the
    arm cannot reach cause a warning.

    Raises:
        ObservationError: The state has another shape or type, a value that is not finite, or another unit.
    """
    given = None if state is None else _as_array("'agent_pos'", state)
    _check_state_layout(given, "Remove observation wrappers from the env, or send the state as the env returns it.")
    assert given is not None  # noqa: S101 - narrows a type
    if not np.isfinite(given).all():
        raise ObservationError(
            f"'agent_pos' is not finite: {_name_values(given, ~np.isfinite(given))}. Expected: {_STATE}. "
            "Check the sensor or wrapper that it comes from."
        )
    wrong = np.abs(given) > _MAX_ANGLE
    wrong[NUM_JOINTS] = not -_OPENING_TOLERANCE <= given[NUM_JOINTS] <= 1.0 + _OPENING_TOLERANCE
    if wrong.any():
        raise ObservationError(
            f"'agent_pos' has {_name_values(given, wrong)}, which is impossible for this arm in rad and 0..1; it may "
            f"be degrees or percent. Expected: {_STATE}. Convert angles with np.deg2rad() and divide percent by 100."
        )
    joints = given[:NUM_JOINTS]
    beyond = (joints < JOINT_LOWER - _LIMIT_TOLERANCE) | (joints > JOINT_UPPER + _LIMIT_TOLERANCE)
    if beyond.any():
        names = ", ".join(name for name, is_beyond in zip(ACTION_NAMES, beyond, strict=False) if is_beyond)
        warnings.warn(  # the same text and place for the same joints, so that Python prints it once
            f"'agent_pos' is outside the arm's reach in {names}. Is it in rad, with the zero of the control board "
            "(upper arm upright and forearm level: -pi/2 and pi in joints 2 and 3)?",
            stacklevel=1,
        )
    return given.astype(np.float32, copy=False)


def _check_state_layout(state: _Layout | None, remedy: str) -> None:
    if state is None:
        raise ObservationError(f"The observation has no 'agent_pos', and the policy needs it: {_STATE}. {remedy}")
    shape, dtype = state.shape, state.dtype
    if shape != (ACTION_WIDTH,):
        batched = " It has a batch axis; a policy takes one observation." if shape == (1, ACTION_WIDTH) else ""
        raise ObservationError(f"'agent_pos' has shape {shape}; expected {_STATE}.{batched} {remedy}")
    if dtype is None or np.dtype(dtype).kind != "f":
        raise ObservationError(f"'agent_pos' has the dtype {dtype}; expected {_STATE}. {remedy}")


def _check_image_layout(camera: str, image: _Layout, size: tuple[int, int]) -> None:
    height, width = size
    shape, dtype = tuple(image.shape or ()), image.dtype
    expected = (
        f"uint8 0..255 of shape (height, width, 3), RGB, in the proportions of {height} x {width}: make the env with "
        f"gym.make(..., image_size=({height}, {width}))"
    )
    if dtype != np.uint8:
        is_float = isinstance(dtype, np.dtype) and dtype.kind == "f"
        scale = " Scale 0..1 with (255 * image).round().astype(np.uint8)." if is_float else ""
        raise ObservationError(f"The camera {camera!r} returns images of {dtype}. Expected: {expected}.{scale}")
    fits = len(shape) == 3 and shape[2] == 3 and all(1 <= edge <= _MAX_EDGE for edge in shape[:2])
    stretch = shape[0] * width / (shape[1] * height) if fits else 0.0
    if not 1 / _MAX_STRETCH <= stretch <= _MAX_STRETCH:
        raise ObservationError(
            f"The camera {camera!r} returns images of shape {shape}{_explain_shape(shape)}. Expected: {expected}."
        )


def _warn_of_enlarging(card: PolicyCard, camera: str, image: _Layout, size: tuple[int, int]) -> None:
    (given, _, _), (height, width) = image.shape, size
    if given < height / _MAX_STRETCH:
        warnings.warn(
            f"The camera {camera!r} returns images of {image.shape[0]} x {image.shape[1]}, and the policy "
            f"{card.name!r} was trained on {height} x {width}: enlarged images lack detail. Make the env with "
            f"gym.make(..., image_size=({height}, {width})), or with **agent.env_options.",
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


def _as_array(name: str, value: object) -> NDArray[Any]:
    try:
        return np.asarray(value)
    # Tensors on a GPU, ragged lists and foreign objects raise errors of many types.
    except Exception as error:
        raise ObservationError(
            f"{name} is {_describe_type(value)}, which NumPy cannot convert to an array: give an array."
        ) from error


def _name_values(state: NDArray[Any], which: NDArray[np.bool_]) -> str:
    pairs = zip(ACTION_NAMES, state.tolist(), which.tolist(), strict=True)
    return ", ".join(f"{name} = {value:.4g}" for name, value, is_wrong in pairs if is_wrong)


def _describe_type(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"
