"""Binary layout of the control board's frames: header, length, joints as 24-bit numbers, other fields, trailer."""

from __future__ import annotations

import operator
import struct
from collections.abc import Sequence
from typing import Final

NUM_JOINTS = 6
Steps = tuple[int, int, int, int, int, int]

HEADER: Final = b"\xff\xff\xff"
"""Start of every frame; the next byte is the number of bytes after it."""

TRAILER: Final = b"\x01\x02"
"""End of every frame."""

_JOINT_BYTES: Final = 3 * NUM_JOINTS


def pack_frame(position: Sequence[int], speed: Sequence[int], fields: dict[str, str], rest: Sequence[int]) -> bytes:
    """Return the bytes of a whole frame.

    Args:
        position: Positions of J1 to J6 in microsteps.
        speed: Speeds of J1 to J6 in microsteps/s.
        fields: Names of the other fields and their codes of the struct module, in order.
        rest: Their values.

    Raises:
        ValueError: A value does not fit its field.
    """
    values = (
        _field(name, value, struct.calcsize(code), code == "h")
        for (name, code), value in zip(fields.items(), rest, strict=True)
    )
    payload = _joints("position", position) + _joints("speed", speed) + b"".join(values) + TRAILER
    return HEADER + bytes([len(payload)]) + payload


def _joints(name: str, values: Sequence[int]) -> bytes:
    if len(values) != NUM_JOINTS:
        raise ValueError(f"{name}={values!r} has {len(values)} values instead of {NUM_JOINTS}.")
    return b"".join(_field(f"{name}[{joint}]", value, 3, True) for joint, value in enumerate(values))


def _field(name: str, value: int, size: int, signed: bool) -> bytes:
    try:
        return operator.index(value).to_bytes(size, "big", signed=signed)
    except (OverflowError, TypeError):
        low = -(1 << 8 * size - 1) if signed else 0
        high = low + (1 << 8 * size) - 1
        raise ValueError(f"{name}={value!r} does not fit: a whole number from {low} to {high} is needed.") from None


def unpack_frame(kind: str, frame: bytes, length: int, fields: dict[str, str]) -> tuple[Steps, Steps, tuple[int, ...]]:
    """Return positions, speeds and the other fields of a whole frame.

    Args:
        kind: Name of the frame in error messages.
        frame: The bytes.
        length: Length of such a frame in bytes.
        fields: Names of the other fields and their codes of the struct module, in order.

    Raises:
        ValueError: The bytes are not such a frame.
    """
    payload = length - len(HEADER) - 1
    if len(frame) != length:
        raise ValueError(f"A {kind} frame has {length} bytes, not {len(frame)}.")
    if not frame.startswith(HEADER):
        raise ValueError(f"A {kind} frame begins with {HEADER.hex(' ')}, not {frame[: len(HEADER)].hex(' ')}.")
    if frame[len(HEADER)] != payload:
        raise ValueError(f"The length byte of a {kind} frame is {payload}, not {frame[len(HEADER)]}.")
    if not frame.endswith(TRAILER):
        raise ValueError(f"A {kind} frame ends with {TRAILER.hex(' ')}, not {frame[-len(TRAILER) :].hex(' ')}.")
    data = frame[len(HEADER) + 1 : -len(TRAILER)]
    rest = struct.unpack(">" + "".join(fields.values()), data[2 * _JOINT_BYTES :])
    return _steps(data[:_JOINT_BYTES]), _steps(data[_JOINT_BYTES : 2 * _JOINT_BYTES]), rest


def _steps(data: bytes) -> Steps:
    j1, j2, j3, j4, j5, j6 = (int.from_bytes(data[i : i + 3], "big", signed=True) for i in range(0, _JOINT_BYTES, 3))
    return j1, j2, j3, j4, j5, j6
