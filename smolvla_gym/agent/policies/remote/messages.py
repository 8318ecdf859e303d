"""What a policy server and its clients say to each other: a description, then requests and answers.

The server speaks first. Errors are texts, everything else is a map; the names are openpi's where it has any. A request
may have a number as ``id``. Its answer has the same one, also that with an ``error``, which is a map then. A server
that numbers its answers says so in its description; older clients and servers, and openpi's, know nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from smolvla_gym.agent.checkpoint.validation import WIDTH
from smolvla_gym.agent.input_validation import check_observation
from smolvla_gym.agent.instructions import check_instruction
from smolvla_gym.agent.policies.base import Array, Chunk, ChunkRequest, PolicyCard
from smolvla_gym.agent.policies.remote.wire import MAX_MESSAGE_BYTES, WireError, decode, encode
from smolvla_gym.errors import OptionError, PolicyMismatchError
from smolvla_gym.parol6 import ACTION_NAMES, NUM_JOINTS
from smolvla_gym.utils.untrusted import printable

PROTOCOL: Final = "smolvla-gym"
VERSION: Final = 1
"""Goes up with each change that makes an older client or server misunderstand a newer one."""

ACTION_UNITS: Final = (*("rad",) * NUM_JOINTS, "0..1")
"""Units of the seven components of an action; the gripper's opening has none."""

_SAME_RELEASE: Final = "Install the same release of smolvla-gym on both sides."
_MAX_SIZE: Final = 4096

_MAX_IMAGES: Final = 16
_MAX_NUMBER: Final = 2**63 - 1
_MAX_NAME: Final = 1000
_MAX_TIMES: Final = 32


def write_description(card: PolicyCard) -> bytes:
    """Returns the first message of a server: what it serves.

    Args:
        card: The policy's.
    """
    maps = {"cameras": dict(card.cameras), "camera_map": dict(card.camera_map)}
    policy = {**vars(card), **maps, "absent_cameras": list(card.absent_cameras)}
    names = {"action_names": ACTION_NAMES, "action_units": ACTION_UNITS}
    return encode({"protocol": PROTOCOL, "version": VERSION, "numbered": True, "policy": policy, **names})


def read_description(data: bytes | str) -> tuple[PolicyCard, bool]:
    """Returns the card of the policy that a server serves, and whether the server numbers its answers.

    Raises:
        WireError: It is no server of ours, or one of another version.
        PolicyMismatchError: Its policy is for another arm.
    """
    message = decode(data)
    if message.get("protocol") != PROTOCOL:
        raise WireError("it does not introduce itself as one of `smolvla-gym serve`")
    if message.get("version") != VERSION:
        raise WireError(
            f"it speaks version {_shown(message.get('version'))} of the protocol, and this client {VERSION}. "
            f"{_SAME_RELEASE}"
        )
    names, units = message.get("action_names"), message.get("action_units")
    if names != list(ACTION_NAMES) or units != list(ACTION_UNITS):
        raise PolicyMismatchError(
            f"The server's policy gives the actions {_shown(names)} in {_shown(units)}, and this arm takes "
            f"{list(ACTION_NAMES)} in {list(ACTION_UNITS)}. Serve a policy that was trained for this arm."
        )
    try:
        return _read_card(message["policy"]), message.get("numbered") is True
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WireError(
            f"it does not describe its policy ({type(error).__name__}: {printable(error)}). {_SAME_RELEASE}"
        ) from error


def write_request(request: ChunkRequest, card: PolicyCard, number: int | None = None) -> bytes:
    """Returns a request for a chunk.

    Args:
        request: The request.
        card: The policy's. Only what it looks at is sent, under its own names.
        number: The request's; its answer has the same one.

    Raises:
        OptionError: The instruction is none.
        PolicyMismatchError: The observation is not what the policy needs, or too large for a message.
        WireError: It holds what cannot be sent.
    """
    observation = check_observation(card, request.observation, request.absent)
    pixels = observation["pixels"]
    # What is left out is said: a camera that is merely missing is a client's mistake.
    absent = dict.fromkeys((*card.absent_cameras, *request.absent))
    message: dict[str, Any] = {
        "version": VERSION,
        "prompt": check_instruction(request.instruction),
        "state": observation["agent_pos"],
        "images": {ours: pixels.get(theirs) for ours, theirs in card.camera_map.items() if ours not in absent} | absent,
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
            f"The images of this env make a request of {len(data)} bytes, and a policy server takes "
            f"{MAX_MESSAGE_BYTES}. Make the env with gym.make(..., image_size=({height}, {width}))."
        )
    return data


def open_request(data: bytes | str) -> tuple[dict[str, Any], int | None]:
    """Returns what a message of a client holds, and its number, which its answer has to carry.

    Raises:
        WireError: The bytes are no message, or the number is none.
    """
    message = decode(data)
    return message, _read_number(message)


def read_request(message: Mapping[str, Any], card: PolicyCard, draw_noise: Callable[[], Array]) -> ChunkRequest:
    """Returns the request for a chunk that a message holds.

    Args:
        message: The message, from :func:`open_request`.
        card: The policy's.
        draw_noise: Makes noise of the policy's shape, for a client that sends none, as openpi's.

    Raises:
        WireError: The message is no request.
        PolicyMismatchError: The observation is not what the policy needs.
    """
    version = message.get("version", VERSION)
    if version != VERSION:
        raise WireError(
            f"the client speaks version {_shown(version)} of the protocol, and this server {VERSION}. {_SAME_RELEASE}"
        )
    try:
        prompt = check_instruction(message.get("prompt"))
    except OptionError as error:
        raise WireError(f"'prompt' is {_shown(error.value)}, and has to be an instruction: {error.allowed}") from error
    if isinstance(message.get("images"), dict) and len(message["images"]) > _MAX_IMAGES:
        raise WireError(f"'images' has {len(message['images'])} entries; at most {_MAX_IMAGES} are allowed")
    images, absent = _read_images(message.get("images"), card)
    # Clients know the policy's own names of its cameras, so errors name these.
    own = replace(card, camera_map={ours: ours for ours in card.camera_map})
    observation = check_observation(own, {"pixels": images, "agent_pos": _read_floats(message, "state")}, absent)
    pixels = {card.camera_map[ours]: image for ours, image in observation["pixels"].items()}
    noise = _read_floats(message, "noise") if message.get("noise") is not None else draw_noise()
    if noise.shape != (card.chunk_size, card.noise_width):
        raise WireError(f"'noise' has the shape {noise.shape}, not {(card.chunk_size, card.noise_width)}")
    if not np.isfinite(noise).all():
        raise WireError("'noise' is not finite")
    leftover, delay = None, message.get("delay", 0)
    if message.get("leftover") is not None:
        leftover = _read_floats(message, "leftover")
        if leftover.ndim != 2 or leftover.shape[1] != WIDTH or len(leftover) > card.chunk_size:
            raise WireError(f"'leftover' has the shape {leftover.shape}, not (up to {card.chunk_size}, {WIDTH})")
        if not np.isfinite(leftover).all():
            raise WireError("'leftover' is not finite")
    longest = 0 if leftover is None else len(leftover)
    if type(delay) is not int or not 0 <= delay <= longest:
        raise WireError(f"'delay' is {_shown(delay)}, not a whole number from 0 to {longest}, the length of 'leftover'")
    return ChunkRequest(observation | {"pixels": pixels}, prompt, noise, leftover, delay, absent)


def _read_images(images: Any, card: PolicyCard) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the images by the policy's own names of its cameras, and those cameras that are left out on purpose."""
    if not isinstance(images, dict):
        raise WireError(f"'images' has to be a map with an image, an array of uint8, for each of {_names(card)}")
    absent = frozenset(ours for ours in card.camera_map if ours in images and images[ours] is None)
    found = {ours: images[ours] for ours in card.camera_map if images.get(ours) is not None}
    missing = [ours for ours in card.camera_map if ours not in images]
    arrays = all(isinstance(image, np.ndarray) for image in found.values())
    if not arrays or len(missing) > card.empty_cameras or not found:
        raise WireError(
            f"'images' has to be a map with an image, an array of uint8, for each of {_names(card)}; nil leaves out "
            "one that training never saw, but not all of them"
        )
    return found, absent


def write_answer(chunk: Chunk, timing: Mapping[str, float], number: int | None = None) -> bytes:
    """Returns the answer to a request.

    Args:
        chunk: The chunk.
        timing: How long what took, in ms.
        number: The request's; None where it has none.
    """
    answer = {"actions": chunk.actions, "latent": chunk.normalized, "server_timing": dict(timing)}
    return encode(answer if number is None else {**answer, "id": number})


def write_error(text: str, number: int | None) -> bytes | str:
    """Returns the answer to a request that failed: a map with its number, or a mere text where it has none."""
    return text if number is None else encode({"id": number, "error": text})


def open_answer(data: bytes) -> tuple[dict[str, Any], int | None]:
    """Returns what an answer holds, and the number of its request.

    Raises:
        WireError: The bytes are no message, or the number is none.
    """
    message = decode(data)
    return message, _read_number(message)


def read_answer(message: Mapping[str, Any], card: PolicyCard) -> tuple[Chunk, dict[str, float]]:
    """Returns the chunk and the server's timing in ms that a message holds.

    Args:
        message: The message, from :func:`open_answer`.
        card: The policy's.

    Raises:
        WireError: The message is no answer.
    """
    actions, latent = _read_floats(message, "actions"), _read_floats(message, "latent")
    if actions.shape != (card.chunk_size, WIDTH) or latent.shape != actions.shape:
        raise WireError(f"the chunk has the shape {actions.shape} {latent.shape}, not {(card.chunk_size, WIDTH)}")
    timing = message.get("server_timing")
    if not isinstance(timing, dict) or len(timing) > _MAX_TIMES or not all(map(_is_time, timing.items())):
        raise WireError("'server_timing' has to be a map of times in ms")
    return Chunk(actions, latent), timing


def _is_time(entry: tuple[Any, Any]) -> bool:
    name, value = entry
    return isinstance(name, str) and name.isidentifier() and isinstance(value, float) and math.isfinite(value)


def _read_number(message: Mapping[str, Any]) -> int | None:
    number = message.get("id")
    if number is not None and (type(number) is not int or not 0 <= number <= _MAX_NUMBER):
        raise WireError(f"'id' is {_shown(number)}, not a whole number from 0 to {_MAX_NUMBER}")
    return number


def _read_floats(message: Mapping[str, Any], key: str) -> Array:
    value = message.get(key)
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise WireError(f"{key!r} has to be an array of floats")
    return value.astype(np.float32, copy=False)


def _read_card(fields: Mapping[str, Any]) -> PolicyCard:
    cameras = {
        _text(name): (_whole(height, _MAX_SIZE), _whole(width, _MAX_SIZE))
        for name, (height, width) in fields["cameras"].items()
    }
    camera_map = {_text(ours): _text(theirs) for ours, theirs in fields["camera_map"].items()}
    if not cameras or cameras.keys() != camera_map.keys():
        raise ValueError(f"cameras {_shown(list(cameras))} with a map of {_shown(list(camera_map))}")
    chunk_size = _whole(fields["chunk_size"], _MAX_SIZE)
    return PolicyCard(
        name=_text(fields["name"]),
        cameras=cameras,
        camera_map=camera_map,
        chunk_size=chunk_size,
        n_action_steps=_whole(fields["n_action_steps"], chunk_size),
        num_steps=_whole(fields["num_steps"], _MAX_SIZE),
        noise_width=_whole(fields["noise_width"], _MAX_SIZE),
        device=_text(fields["device"]),
        # Older servers do not have these.
        empty_cameras=_count(fields.get("empty_cameras", 0)),
        absent_cameras=tuple(_text(name) for name in fields.get("absent_cameras", ())),
        control_hz=_rate(fields.get("control_hz")),
        gripper=None if fields.get("gripper") is None else _text(fields["gripper"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > _MAX_NAME or not value.isprintable():
        raise ValueError(f"{_shown(value)} is no printable text of at most {_MAX_NAME} characters")
    return value


def _whole(value: Any, high: int) -> int:
    if type(value) is not int or not 1 <= value <= high:
        raise ValueError(f"{_shown(value)} is no whole number from 1 to {high}")
    return value


def _shown(value: Any) -> str:
    return printable(repr(value), 200)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_SIZE:
        raise ValueError(f"{value!r} is no whole number from 0 to {_MAX_SIZE}")
    return value


def _rate(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0.0 < value < math.inf:
        raise ValueError(f"{value!r} is no rate in Hz")
    return float(value)


def _names(card: PolicyCard) -> str:
    return ", ".join(map(repr, card.cameras))
