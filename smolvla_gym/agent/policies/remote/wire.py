"""Encode and decode messages: msgpack, with arrays in openpi's format. Decoding cannot run code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgpack
import numpy as np

from smolvla_gym.utils.untrusted import printable

MAX_MESSAGE_BYTES: Final = 4 * 2**20
"""Largest message. Three images of 640x480 are 2.6 MiB and the rest of a request some kB; a fourth image still fits."""

_MAX_LENGTH: Final = 1024
"""Most entries of a list or map. Long data is sent as an array."""

_MAX_TEXT: Final = 16_384
"""Most bytes of a text."""

_MAX_CONTAINERS: Final = 1024
"""Most lists and maps of a message. An empty list takes one byte on the wire and fifty in memory."""

_MAX_DIMENSIONS: Final = 8

_DTYPES: Final = frozenset(["|b1", "|i1", "|u1", "<i2", "<i4", "<i8", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8"])
"""Little-endian numbers in NumPy's spelling. Objects, texts and structures are excluded."""

_PLAIN: Final = frozenset(
    {type(None), bool, int, float, str, bytes, list, dict, np.ndarray, *(np.dtype(name).type for name in _DTYPES)}
)

_ARRAY: Final = frozenset({b"__ndarray__", b"data", b"dtype", b"shape"})
_SCALAR: Final = frozenset({b"__npgeneric__", b"data", b"dtype"})


class WireError(ValueError):
    """Invalid message."""


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a map of plain values, arrays and NumPy numbers as bytes.

    Raises:
        WireError: A value of another type.
    """
    try:
        packed: bytes = msgpack.packb(message, default=_pack)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"a value cannot be sent: {error}") from error
    return packed


def decode(data: bytes | str) -> dict[str, Any]:
    """Return the map of a message. Its arrays are writable copies.

    Raises:
        WireError: The data is no valid message.
    """
    if isinstance(data, str):
        raise WireError(f"a message is binary, not the text {printable(data, 80)!r}")
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"a message of {len(data)} bytes is too large: {MAX_MESSAGE_BYTES} are allowed")
    containers = itertools.count(1)

    def check(values: Iterable[Any]) -> None:
        if next(containers) > _MAX_CONTAINERS:
            raise WireError(f"a message has {_MAX_CONTAINERS} lists and maps at most")
        for value in values:
            if type(value) not in _PLAIN:
                raise WireError(f"a message holds plain values, not {type(value).__name__}")

    def read_list(items: list[Any]) -> list[Any]:
        check(items)
        return items

    def read_map(items: dict[Any, Any]) -> Any:
        check(items.values())
        if b"__ndarray__" in items:
            return _read_array(items)
        return _read_scalar(items) if b"__npgeneric__" in items else items

    try:
        message = msgpack.unpackb(
            data,
            object_hook=read_map,
            list_hook=read_list,
            ext_hook=_refuse_extension,
            max_str_len=_MAX_TEXT,
            max_array_len=_MAX_LENGTH,
            max_map_len=_MAX_LENGTH,
        )
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"these {len(data)} bytes are no msgpack that is allowed here ({printable(error)})") from error
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise WireError(f"a message is a map with texts as keys, not {type(message).__name__}")
    return message


def _pack(value: Any) -> dict[bytes, Any]:
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.str not in _DTYPES:
        kind = value.dtype if isinstance(value, np.ndarray | np.generic) else type(value).__name__
        raise WireError(f"{kind} is not a plain value")
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


def _read_array(fields: Mapping[Any, Any]) -> np.ndarray[Any, Any]:
    shape, data = fields.get(b"shape"), fields.get(b"data")
    if fields.keys() != _ARRAY or not isinstance(shape, list) or not isinstance(data, bytes):
        raise WireError("an array is a map of __ndarray__, data, dtype and shape")
    dtype = _read_dtype(fields[b"dtype"])
    if len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and 0 <= n <= MAX_MESSAGE_BYTES for n in shape):
        raise WireError(f"an array cannot have the shape {printable(shape, 80)}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise WireError(f"an array of {dtype.str} and the shape {shape} does not have {len(data)} bytes")
    return np.ndarray(shape, dtype, data).copy()


def _read_scalar(fields: Mapping[Any, Any]) -> Any:
    if fields.keys() != _SCALAR or type(fields[b"data"]) not in (bool, int, float):
        raise WireError("a NumPy number is a map of __npgeneric__, data and dtype")
    return _read_dtype(fields[b"dtype"]).type(fields[b"data"])


def _read_dtype(name: Any) -> np.dtype[Any]:
    if not isinstance(name, str) or name not in _DTYPES:
        raise WireError(f"arrays of {printable(repr(name), 40)} are not allowed: one of {', '.join(sorted(_DTYPES))}")
    return np.dtype(name)


def _refuse_extension(code: int, data: bytes) -> Any:
    raise WireError(f"msgpack's extension {code} is not allowed in a message")
