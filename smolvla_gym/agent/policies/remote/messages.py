"""Messages between a policy server and its clients: a description, then requests and answers.

The server sends the description first. Errors are texts, all other messages are maps; their keys are openpi's where it
has them. A request may have a number as ``id``. Its answer has the same number; an error is then a map with ``id`` and
``error``. The description says whether the server numbers its answers. Older clients and servers, and openpi's, do not
number messages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from smolvla_gym.agent.checkpoint.normalization import ACTION_WIDTH
from smolvla_gym.agent.checkpoint.provenance import CONTROL_RATE, MAX_DELAY
from smolvla_gym.agent.input_validation import check_observation
from smolvla_gym.agent.instructions import check_instruction
from smolvla_gym.agent.policies.base import Array, Chunk, ChunkRequest, PolicyCard
from smolvla_gym.agent.policies.remote.wire import MAX_MESSAGE_BYTES, WireError, decode, encode
from smolvla_gym.errors import OptionError, PolicyMismatchError
from smolvla_gym.parol6 import ACTION_NAMES, NUM_JOINTS
from smolvla_gym.utils import schema
from smolvla_gym.utils.untrusted import printable

PROTOCOL: Final = "smolvla-gym"
VERSION: Final = 1
"""Increases with each change that an older client or server would misinterpret."""

ACTION_UNITS: Final = (*("rad",) * NUM_JOINTS, "0..1")
"""Units of the seven components of an action; the gripper opening has none."""

_SAME_RELEASE: Final = "Install the same release of smolvla-gym on both sides."
_MAX_IMAGES: Final = 16
_MAX_NUMBER: Final = 2**63 - 1
_MAX_TIMES: Final = 32
_MAX_NAME: Final = 1000


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > _MAX_NAME or not value.isprintable():
        raise schema.ExpectedError(f"a printable text of 1 to {_MAX_NAME} characters")
    return value


_SIZE: Final = schema.whole(1, 4096)
_CARD: Final[Mapping[str, schema.Check]] = {
    "name": _name,
    "cameras": schema.mapping_of(_name, schema.list_of(_SIZE, 2, 2), 1024),
    "camera_map": schema.mapping_of(_name, _name, 1024),
    "chunk_size": _SIZE,
    "n_action_steps": _SIZE,
    "num_steps": _SIZE,
    "noise_width": _SIZE,
    "device": _name,
    # Older servers do not send the fields from here on.
    "empty_cameras": schema.whole(0, 4096),
    "absent_cameras": schema.list_of(_name, 0, 1024),
    "control_hz": schema.optional(CONTROL_RATE),
    "gripper": schema.optional(_name),
    "max_delay": MAX_DELAY,
}
"""Fields of a policy's card in a description."""


def write_description(card: PolicyCard) -> bytes:
    """Return the first message of a server: the description of its policy.

    Args:
        card: The policy's card.
    """
    maps = {"cameras": dict(card.cameras), "camera_map": dict(card.camera_map)}
    policy = {**vars(card), **maps, "absent_cameras": list(card.absent_cameras)}
    names = {"action_names": ACTION_NAMES, "action_units": ACTION_UNITS}
    return encode({"protocol": PROTOCOL, "version": VERSION, "numbered": True, "policy": policy, **names})


def read_description(data: bytes | str) -> tuple[PolicyCard, bool]:
    """Return the card of a server's policy, and whether the server numbers its answers.

    Raises:
        WireError: The message is not from a server of this package, or from one of another version.
        PolicyMismatchError: The policy is for another arm.
    """
    message = decode(data)
    if message.get("protocol") != PROTOCOL:
        raise WireError("its first message is not that of `smolvla-gym serve`")
    if message.get("version") != VERSION:
        raise WireError(
            f"it uses version {_format(message.get('version'))} of the protocol, and this client {VERSION}. "
            f"{_SAME_RELEASE}"
        )
    names, units = message.get("action_names"), message.get("action_units")
    if names != list(ACTION_NAMES) or units != list(ACTION_UNITS):
        raise PolicyMismatchError(
            f"The server's policy returns the actions {_format(names)} in {_format(units)}, and this arm takes "
            f"{list(ACTION_NAMES)} in {list(ACTION_UNITS)}. Serve a policy that was trained for this arm."
        )
    try:
        return _read_card(message.get("policy")), message.get("numbered") is True
    except ValueError as error:
        raise WireError(f"it does not describe its policy ({printable(error)}). {_SAME_RELEASE}") from error


def _read_card(content: object) -> PolicyCard:
    fields = schema.check_fields(content, _CARD, tuple(_CARD)[:8], others=True)
    cameras, camera_map = fields["cameras"], fields["camera_map"]
    if not cameras or cameras.keys() != camera_map.keys():
        raise ValueError(f"cameras {_format(list(cameras))} with a map of {_format(list(camera_map))}")
    if fields["n_action_steps"] > fields["chunk_size"]:
        raise ValueError(f"n_action_steps {fields['n_action_steps']} is larger than chunk_size {fields['chunk_size']}")
    if fields.get("max_delay", 0) >= fields["chunk_size"]:
        raise ValueError(f"max_delay {fields['max_delay']} is not below chunk_size {fields['chunk_size']}")
    return PolicyCard(**fields)


def write_request(request: ChunkRequest, card: PolicyCard, number: int | None = None) -> bytes:
    """Return a message that requests a chunk.

    Args:
        request: The request.
        card: The policy's card. Only the inputs that the policy uses are sent, under the policy's own names.
        number: Number of the request, which its answer repeats.

    Raises:
        OptionError: The instruction is invalid.
        PolicyMismatchError: The observation is not what the policy needs, or too large for a message.
        WireError: A value cannot be sent.
    """
    observation = check_observation(card, request.observation, request.absent)
    pixels = observation["pixels"]
    # Cameras left out on purpose are sent as nil: one that is merely missing is an error of the client.
    absent = dict.fromkeys((*card.absent_cameras, *request.absent))
    images = {name: pixels.get(env_camera) for name, env_camera in card.camera_map.items() if name not in absent}
    message: dict[str, Any] = {
        "version": VERSION,
        "prompt": check_instruction(request.instruction),
        "state": observation["agent_pos"],
        "images": images | absent,
        "noise": request.noise,
    }
    if request.leftover is not None:
        message |= {"leftover": request.leftover, "delay": request.inference_delay}
    if number is not None:
        message["id"] = number
    data = encode(message)
    if len(data) > MAX_MESSAGE_BYTES:
        height, width = next(iter(card.cameras.values()))
        raise PolicyMismatchError(
            f"The images of this env make a request of {len(data)} bytes, and a policy server accepts "
            f"{MAX_MESSAGE_BYTES}. Make the env with gym.make(..., image_size=({height}, {width}))."
        )
    return data


def open_message(data: bytes | str) -> tuple[dict[str, Any], int | None]:
    """Return the content of a request or of its answer, and the number of the request.

    Raises:
        WireError: The data is no message, or its number is invalid.
    """
    message = decode(data)
    number = message.get("id")
    if number is not None and (type(number) is not int or not 0 <= number <= _MAX_NUMBER):
        raise WireError(f"'id' is {_format(number)}, not a whole number from 0 to {_MAX_NUMBER}")
    return message, number


def read_request(message: Mapping[str, Any], card: PolicyCard) -> ChunkRequest:
    """Return the request of a message. If it has no noise, as openpi's, new noise is drawn.

    Args:
        message: The content, from :func:`open_message`.
        card: The policy's card.

    Raises:
        WireError: The message is no request.
        PolicyMismatchError: The observation is not what the policy needs.
    """
    version = message.get("version", VERSION)
    if version != VERSION:
        raise WireError(
            f"the client uses version {_format(version)} of the protocol, and this server {VERSION}. {_SAME_RELEASE}"
        )
    try:
        prompt = check_instruction(message.get("prompt"))
    except OptionError as error:
        raise WireError(f"'prompt' is {_format(error.value)}; expected an instruction: {error.allowed}") from error
    images, absent = _read_images(message.get("images"), card)
    # Clients know the policy's own camera names, so errors name these.
    own_names = replace(card, camera_map={name: name for name in card.camera_map})
    content = {"pixels": images, "agent_pos": _read_floats(message, "state")}
    observation = check_observation(own_names, content, absent)
    pixels = {card.camera_map[name]: image for name, image in observation["pixels"].items()}
    noise = card.draw_noise() if message.get("noise") is None else _read_finite_floats(message, "noise")
    if noise.shape != (card.chunk_size, card.noise_width):
        raise WireError(f"'noise' has the shape {noise.shape}, not {(card.chunk_size, card.noise_width)}")
    leftover, delay = None, message.get("delay", 0)
    if message.get("leftover") is not None:
        leftover = _read_finite_floats(message, "leftover")
        if leftover.ndim != 2 or leftover.shape[1] != ACTION_WIDTH or len(leftover) > card.chunk_size:
            raise WireError(f"'leftover' has the shape {leftover.shape}, not (up to {card.chunk_size}, {ACTION_WIDTH})")
    longest = 0 if leftover is None else len(leftover)
    if type(delay) is not int or not 0 <= delay <= longest:
        raise WireError(
            f"'delay' is {_format(delay)}, not a whole number from 0 to {longest}, the length of 'leftover'"
        )
    return ChunkRequest(observation | {"pixels": pixels}, prompt, noise, leftover, delay, absent)


def _read_images(images: Any, card: PolicyCard) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the images by policy camera, and the policy cameras that are left out on purpose."""
    names = ", ".join(map(repr, card.cameras))
    if not isinstance(images, dict):
        raise WireError(f"'images' has to be a map with an image, an array of uint8, for each of {names}")
    if len(images) > _MAX_IMAGES:
        raise WireError(f"'images' has {len(images)} entries; at most {_MAX_IMAGES} are allowed")
    absent = frozenset(name for name in card.camera_map if name in images and images[name] is None)
    found = {name: images[name] for name in card.camera_map if images.get(name) is not None}
    missing = [name for name in card.camera_map if name not in images]
    arrays = all(isinstance(image, np.ndarray) for image in found.values())
    if not arrays or len(missing) > card.empty_cameras or not found:
        raise WireError(
            f"'images' has to be a map with an image, an array of uint8, for each of {names}; nil leaves out a camera "
            "that was not used in training, but not all of them"
        )
    return found, absent


def write_answer(chunk: Chunk, timing: Mapping[str, float], number: int | None = None) -> bytes:
    """Return the answer to a request.

    Args:
        chunk: The chunk.
        timing: Times on the server in ms.
        number: Number of the request; None: it has none.
    """
    answer = {"actions": chunk.actions, "latent": chunk.normalized, "server_timing": dict(timing)}
    return encode(answer if number is None else {**answer, "id": number})


def write_error(text: str, number: int | None) -> bytes | str:
    """Return the answer to a request that failed: a map if the request has a number, otherwise a text."""
    return text if number is None else encode({"id": number, "error": text})


def read_answer(message: Mapping[str, Any], card: PolicyCard) -> tuple[Chunk, dict[str, float]]:
    """Return the chunk and the server's times in ms of an answer.

    Args:
        message: The content, from :func:`open_message`.
        card: The policy's card.

    Raises:
        WireError: The message is no answer.
    """
    actions, normalized = _read_floats(message, "actions"), _read_floats(message, "latent")
    if actions.shape != (card.chunk_size, ACTION_WIDTH) or normalized.shape != actions.shape:
        expected = (card.chunk_size, ACTION_WIDTH)
        raise WireError(f"the chunk has the shape {actions.shape} {normalized.shape}, not {expected}")
    timing = message.get("server_timing")
    if not isinstance(timing, dict) or len(timing) > _MAX_TIMES or not all(map(_is_time, timing.items())):
        raise WireError("'server_timing' has to be a map of times in ms")
    return Chunk(actions, normalized), timing


def _is_time(entry: tuple[Any, Any]) -> bool:
    name, value = entry
    return isinstance(name, str) and name.isidentifier() and isinstance(value, float) and math.isfinite(value)


def _read_floats(message: Mapping[str, Any], key: str) -> Array:
    value = message.get(key)
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise WireError(f"{key!r} has to be an array of floats")
    return value.astype(np.float32, copy=False)


def _read_finite_floats(message: Mapping[str, Any], key: str) -> Array:
    values = _read_floats(message, key)
    if not np.isfinite(values).all():
        raise WireError(f"{key!r} is not finite")
    return values


def _format(value: Any) -> str:
    return printable(repr(value), 200)
