"""Check an ONNX file before ONNX Runtime gets it: only what the exporter writes, and nothing outside the file.

ONNX Runtime opens the files that a graph names, and a graph may have operators of other domains, functions and
subgraphs. The check reads the file's Protocol Buffers itself, so that loading needs no package but ONNX Runtime, and a
field that the exporter does not write is refused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Final

import numpy as np

from smolvla_gym.utils.schema import format_value

OPSET: Final = 18
"""Version of the operators that the exporter writes."""

MAX_BYTES: Final = (1 << 31) - 1
"""Largest size of a graph: Protocol Buffers have no larger messages."""

MAX_NODES: Final = 50_000
"""Largest number of nodes. The prefix of the bundled policy has 400, that of SmolVLA some thousands."""

# fmt: off
OPERATORS: Final = frozenset((
    "Add", "And", "Cast", "CastLike", "Concat", "Conv", "Cos", "CumSum", "Div", "Equal", "Expand", "Gather", "Gemm",
    "GreaterOrEqual", "Identity", "LayerNormalization", "Less", "LessOrEqual", "MatMul", "Mod", "Mul", "Neg", "Not",
    "Or", "Pow", "Range", "Reciprocal", "ReduceMean", "ReduceSum", "Relu", "Reshape", "SequenceAt", "Shape",
    "Sigmoid", "Sin", "Slice", "Softmax", "Split", "SplitToSequence", "Sqrt", "Squeeze", "Sub", "Tanh", "Tile",
    "Transpose", "Unsqueeze", "Where",
))
# fmt: on
"""Operators that the exporter writes."""

_FLOAT, _INT64, _BOOL = 1, 7, 9
_SIZES: Final = {_FLOAT: 4, _INT64: 8, _BOOL: 1}
"""Bytes of an element by the type's number in ONNX."""

_MAX_INTEGER: Final = 1 << 16
"""Largest integer among the constants, which are shapes, positions and axes."""

_ENDS: Final = (np.iinfo(np.int64).max, np.iinfo(np.int64).min)
"""Integers by which a slice ends at the end of an axis."""

_VARINT, _BYTES64, _BYTES, _BYTES32 = 0, 1, 2, 5

# Numbers of the fields of each message that the exporter writes.
_MODEL: Final = {"ir": 1, "producer": 2, "producer_version": 3, "model_version": 5, "graph": 7, "opset": 8}
_GRAPH: Final = {"node": 1, "name": 2, "initializer": 5, "input": 11, "output": 12}
_NODE: Final = {"input": 1, "output": 2, "name": 3, "op": 4, "attribute": 5, "domain": 7}
_ATTRIBUTE: Final = {"name": 1, "f": 2, "i": 3, "s": 4, "floats": 7, "ints": 8, "type": 20}
_TENSOR: Final = {"dims": 1, "type": 2, "name": 8, "raw": 9}
_OPSET: Final = {"domain": 1, "version": 2}


def check_model(content: bytes) -> None:
    """Refuse an ONNX file with anything that the exporter does not write.

    Args:
        content: Content of the file.

    Raises:
        ValueError: The content is no such file.
    """
    fields = list(_fields(memoryview(content), _MODEL.values(), "model"))
    opsets = [_read_opset(value) for number, value in fields if number == _MODEL["opset"]]
    if opsets != [("", OPSET)]:
        raise ValueError(f"it has the operator sets {opsets[:4]}; expected ONNX's of version {OPSET} alone")
    graphs = [value for number, value in fields if number == _MODEL["graph"]]
    if len(graphs) != 1:
        raise ValueError(f"it has {len(graphs)} graphs; expected 1")
    counts: Counter[int] = Counter()
    for number, value in _fields(_message(graphs[0]), _GRAPH.values(), "graph"):
        counts[number] += 1
        if counts[_GRAPH["node"]] > MAX_NODES:
            raise ValueError(f"it has more than {MAX_NODES} nodes")
        if number == _GRAPH["node"]:
            _check_node(_message(value))
        elif number == _GRAPH["initializer"]:
            _check_tensor(_message(value))


def _read_opset(value: int | memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for number, part in _fields(_message(value), _OPSET.values(), "operator set"):
        if number == _OPSET["version"] and isinstance(part, int):
            version = part
        else:
            domain = _text(part)
    return domain, version


def _check_node(node: memoryview) -> None:
    operator = ""
    for number, value in _fields(node, _NODE.values(), "node"):
        if number == _NODE["op"]:
            operator = _text(value)
        elif number == _NODE["domain"] and _text(value):
            raise ValueError(f"a node has an operator of the domain {format_value(_text(value))}")
        elif number == _NODE["attribute"]:
            # Subgraphs, tensors and references have other fields.
            list(_fields(_message(value), _ATTRIBUTE.values(), "attribute"))
    if operator not in OPERATORS:
        raise ValueError(f"a node has the operator {format_value(operator)}, which the exporter does not write")


def _check_tensor(tensor: memoryview) -> None:
    """Refuse a tensor whose data is not in the file, or which has another size than it states."""
    dims: list[int] = []
    kind, raw = 0, memoryview(b"")
    for number, value in _fields(tensor, _TENSOR.values(), "tensor"):
        if number == _TENSOR["dims"]:
            dims += [value] if isinstance(value, int) else _varints(value)
        elif number == _TENSOR["type"] and isinstance(value, int):
            kind = value
        elif number == _TENSOR["raw"]:
            raw = _message(value)
    if kind not in _SIZES:
        raise ValueError(f"a tensor has the type {kind}; expected float32, int64 or bool")
    if len(dims) > 8 or math.prod(dims) * _SIZES[kind] != len(raw):
        raise ValueError(f"a tensor has {len(raw)} bytes for the shape {tuple(dims[:8])}")
    if kind == _INT64:
        numbers = np.frombuffer(raw, "<i8")
        if ((abs(numbers) > _MAX_INTEGER) & ~np.isin(numbers, _ENDS)).any():
            raise ValueError(f"it has an integer above {_MAX_INTEGER}")
    elif kind == _FLOAT and not (np.frombuffer(raw, "<f4") < np.inf).all():  # masks have minus infinity
        raise ValueError("it has numbers that are not finite")


# -- Protocol Buffers --------------------------------------------------------------------------------------------------


def _fields(message: memoryview, allowed: Collection[int], what: str) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a message: an integer, or its bytes.

    Raises:
        ValueError: The message is broken, or has a field that is not allowed.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if number not in allowed:
            raise ValueError(f"its {what} has the field {number}, which the exporter does not write")
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == _BYTES:
            length, place = _varint(message, place)
        elif kind in (_BYTES32, _BYTES64):
            length = 4 if kind == _BYTES32 else 8
        else:
            raise ValueError(f"its {what} has a field of the kind {kind}")
        if length > len(message) - place:
            raise ValueError("it is truncated")
        yield number, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ValueError("it is truncated")
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("it has a number of more than 64 bits")


def _varints(message: memoryview) -> list[int]:
    values, place = [], 0
    while place < len(message):
        value, place = _varint(message, place)
        values.append(value)
    return values


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message is expected")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)[:200]).decode("utf-8", "replace")
