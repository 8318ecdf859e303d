"""Read safetensors files; the header is checked before anything is allocated."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.utils import schema
from smolvla_gym.utils.untrusted import parse_json_object, read_file

_MAX_HEADER: Final = 1 << 20
"""Largest header in bytes. SmolVLA's has 100 kB."""

_MIN_SPARSE_CHECK: Final = 1 << 20
"""Size in bytes from which on a file is checked for holes."""

_BYTES: Final[Mapping[str, int]] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "BOOL": 1}
_FIELDS: Final[Mapping[str, schema.Check]] = {
    "dtype": schema.one_of(*_BYTES),
    "shape": schema.list_of(schema.whole(0, 2**40), 0, 8),
    "data_offsets": schema.list_of(schema.whole(0, 2**50), 2, 2),
}
_TENSOR: Final = schema.object_of(_FIELDS, tuple(_FIELDS))
_NUMPY: Final = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}


@dataclass(frozen=True)
class SavedTensor:
    """Description of a tensor in the header of its file.

    Attributes:
        dtype: Its type in safetensors' spelling, such as ``"F32"``.
        shape: Its shape.
        start: Offset of its first byte after the header.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int = 0

    @property
    def size(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of its bytes."""
        return self.size * _BYTES[self.dtype]


def read_header(path: Path) -> dict[str, SavedTensor]:
    """Return the tensors' descriptions in a safetensors file, without reading the tensors.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: It is no safetensors file, truncated, has holes, or its header is too large.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size >= _MIN_SPARSE_CHECK and _is_sparse(file.fileno(), status.st_size):
            raise ValueError(f"most of its {status.st_size} bytes are not on the disk (a sparse file)")
        return _parse_header(file.read(8), file, status.st_size)


def _is_sparse(handle: int, size: int) -> bool:
    """Return whether less than a quarter of a file is data. Block counts of ``stat`` lag on some file systems."""
    if not hasattr(os, "SEEK_HOLE"):
        return False
    data = place = 0
    for _ in range(1000):
        try:
            begin = os.lseek(handle, place, os.SEEK_DATA)
            place = os.lseek(handle, begin, os.SEEK_HOLE)
        except OSError:  # no data after this place, or a file system without this information
            if place == 0:
                data = size
            break
        data += place - begin
        if 4 * data >= size:
            break
    os.lseek(handle, 0, os.SEEK_SET)
    return 4 * data < size


def read_tensors(path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    """Return the tensors of a small safetensors file.

    Args:
        path: The file.
        max_bytes: Largest accepted size in bytes.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: It is no safetensors file, or larger.
    """
    content = read_file(path, max_bytes)
    file = BytesIO(content)
    header = _parse_header(file.read(8), file, len(content))
    begin = file.tell()
    return {name: _array(name, tensor, content, begin) for name, tensor in header.items()}


def _array(name: str, tensor: SavedTensor, content: bytes, begin: int) -> NDArray[Any]:
    if tensor.dtype not in _NUMPY:
        raise ValueError(f"{schema.format_value(name)} has the type {tensor.dtype}")
    values = np.frombuffer(content, np.dtype(_NUMPY[tensor.dtype]), tensor.size, begin + tensor.start)
    return values.reshape(tensor.shape).copy()


def _parse_header(prefix: bytes, file: Any, size: int) -> dict[str, SavedTensor]:
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
        raise ValueError(f"its header would have {length} bytes; expected at most {min(_MAX_HEADER, max(0, size - 8))}")
    raw = file.read(length)
    content = parse_json_object(raw, max_depth=4)
    content.pop("__metadata__", None)
    tensors, places = {}, []
    for name, entry in content.items():
        checked = schema.check_field(schema.format_value(name), entry, _TENSOR)
        start, end = checked["data_offsets"]
        tensor = SavedTensor(checked["dtype"], checked["shape"], start)
        if end - start != tensor.nbytes:
            raise ValueError(f"{schema.format_value(name)} has {end - start} bytes for the shape {tensor.shape}")
        tensors[name] = tensor
        places.append((start, end))
    place = 0
    for start, end in sorted(places):
        if start != place:
            raise ValueError("its tensors overlap or have gaps")
        place = end
    if place != size - 8 - length:
        raise ValueError(f"it has {size - 8 - length} bytes after its header, which describes {place}")
    return tensors
