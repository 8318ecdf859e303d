"""Keys of a table file: their checks, meanings and JSON schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from smolvla_gym.errors import OptionError, UnknownNameError
from smolvla_gym.sim.own_table.description import MAX_OBSTACLES, MAX_OWN_OBJECTS
from smolvla_gym.sim.textures import TEXTURES
from smolvla_gym.utils.schema import Check, ExpectedError, format_value, number, one_of

NAMED_COLORS: Final = {
    "red": (0.80, 0.08, 0.07), "green": (0.10, 0.55, 0.15), "blue": (0.07, 0.22, 0.75), "yellow": (0.90, 0.72, 0.05),
    "orange": (0.90, 0.40, 0.05), "purple": (0.42, 0.14, 0.52), "pink": (0.90, 0.45, 0.60), "brown": (0.35, 0.20, 0.10),
    "black": (0.06, 0.06, 0.07), "white": (0.92, 0.92, 0.92), "grey": (0.45, 0.45, 0.45),
}  # fmt: skip
"""Colours that a table file can name, as RGB in 0..1."""

SHAPES: Final = {"box": 3, "cylinder": 2, "sphere": 1, "capsule": 2}
"""Shapes without a file, and the number of entries of their size."""

_WORD: Final = re.compile(r"[^\W_]+(?:[ '-][^\W_]+){0,4}")
_LONGEST_WORD: Final = 40
_NUMBERS: Final = {1: "one number", 2: "two numbers", 3: "three numbers", 4: "four numbers"}


@dataclass(frozen=True)
class Key:
    """Key of a table file.

    Attributes:
        check: Check of its value.
        schema: JSON schema of its value.
        meaning: Description for people.
        required: Whether its section needs it.
    """

    check: Check
    schema: Mapping[str, Any]
    meaning: str
    required: bool = False


def _number(low: float, high: float, meaning: str) -> Key:
    return Key(number(low, high), {"type": "number", "minimum": low, "maximum": high}, meaning)


def _numbers(counts: tuple[int, ...], low: float, high: float, unit: str, meaning: str, required: bool = False) -> Key:
    counted = " or ".join(_NUMBERS[count] for count in counts)
    inner = number(low, high)

    def check(value: Any) -> tuple[float, ...]:
        expected = ExpectedError(f"a list of {counted} from {low:g} to {high:g}{unit and ', '}{unit}")
        if not isinstance(value, list) or len(value) not in counts:
            raise expected
        try:
            return tuple(inner(entry) for entry in value)
        except ValueError:
            raise expected from None

    entries = {"type": "number", "minimum": low, "maximum": high}
    schema = {"type": "array", "items": entries, "minItems": min(counts), "maxItems": max(counts)}
    return Key(check, schema, meaning, required)


def _choice(choices: tuple[str, ...], meaning: str, required: bool = False) -> Key:
    return Key(one_of(*choices), {"enum": list(choices)}, meaning, required)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_WORD and _WORD.fullmatch(value) is not None


def _check_word(value: Any) -> str:
    if not _is_word(value):
        raise ExpectedError(f"one to five words of letters and digits, of up to {_LONGEST_WORD} characters")
    return str(value)


def _word(meaning: str, required: bool = False) -> Key:
    return Key(_check_word, {"type": "string", "maxLength": _LONGEST_WORD}, meaning, required)


def _words(meaning: str, low: int) -> Key:
    def check(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not low <= len(value) <= 8 or not all(map(_is_word, value)):
            raise ExpectedError(f"a list of {low} to 8 texts, each of one to five words of letters and digits")
        return tuple(dict.fromkeys(value))

    items = {"type": "string", "maxLength": _LONGEST_WORD}
    return Key(check, {"type": "array", "items": items, "minItems": low, "maxItems": 8}, meaning)


def _check_color(value: Any) -> tuple[float, float, float] | str:
    if isinstance(value, str) and value in NAMED_COLORS:
        return value
    if isinstance(value, list) and len(value) == 3:
        try:
            red, green, blue = (number(0.0, 1.0)(entry) for entry in value)
        except ValueError:
            pass
        else:
            return red, green, blue
    raise ExpectedError(f"red, green and blue from 0 to 1 in a list, or one of {', '.join(NAMED_COLORS)}")


def _color(meaning: str) -> Key:
    entries = {"type": "number", "minimum": 0, "maximum": 1}
    schema = {
        "anyOf": [{"enum": list(NAMED_COLORS)}, {"type": "array", "items": entries, "minItems": 3, "maxItems": 3}]
    }
    return Key(_check_color, schema, meaning)


def _check_file(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200 or any(ord(c) < 32 for c in value):
        raise ExpectedError("the name of a file beside the table file, or in a folder beside it")
    return value


def _file(meaning: str) -> Key:
    return Key(_check_file, {"type": "string", "maxLength": 200}, meaning)


def _check_area(value: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    expected = ExpectedError(
        "[[x, x], [y, y]] in m, each the lower one first and at least 0.02 apart, from -0.5 to 0.5"
    )
    if not isinstance(value, list) or len(value) != 2:
        raise expected
    ranges: list[tuple[float, float]] = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise expected
        try:
            low, high = (number(-0.5, 0.5)(end) for end in pair)
        except ValueError:
            raise expected from None
        if high - low < 0.02:
            raise expected
        ranges.append((low, high))
    return ranges[0], ranges[1]


_POINT: Final = (-2.0, 2.0, "in m")

TABLE: Final[Mapping[str, Key]] = {
    "size": _numbers((2,), 0.2, 3.0, "in m", "edges of the table's top along x and y in m"),
    "center": _numbers((2,), -1.5, 1.5, "in m", "x and y in m of the middle of the top; the arm stands at 0, 0"),
    "height": _number(0.0, 0.1, "height in m of the top above the foot of the arm"),
    "color": _color("colour of the top"),
    "texture": _file(f"an image file (PNG or JPEG), or one of {', '.join(TEXTURES)}"),
    "area": Key(
        _check_area, {"type": "array", "minItems": 2, "maxItems": 2},
        "[[x, x], [y, y]]: range in m of the middles of the objects (default: where the gripper reaches)",
    ),
}  # fmt: skip

OBSTACLE: Final[Mapping[str, Key]] = {
    "name": _word("name in messages", required=True),
    "center": _numbers((3,), *_POINT, "middle of the box in m, in the frame of the arm's base", required=True),
    "size": _numbers((3,), 0.001, 4.0, "in m", "edges of the box in m", required=True),
    "color": _color("colour in the images"),
}

CAMERA: Final[Mapping[str, Key]] = {
    "position": _numbers((3,), *_POINT, "position in m; of the wrist camera in the frame of its mount"),
    "target": _numbers((3,), *_POINT, "point in m in the middle of the image; only of the scene camera"),
    "rotation": _numbers(
        (4,), -1.0, 1.0, "", "quaternion w, x, y, z of a camera that looks along -z, with +y up in the image"
    ),
    "calibration": _file("a calibration.json of `smolvla-gym calibrate`, which has the pose, in place of the others"),
    "fovy": _number(10.0, 120.0, "vertical field of view in degrees; only of the scene camera"),
}

GRIPPER: Final[Mapping[str, Key]] = {"name": _choice(("ssg48", "pneumatic"), "the gripper", required=True)}

OBJECT: Final[Mapping[str, Key]] = {
    "name": _word("name, and the noun of instructions", required=True),
    "shape": _choice((*SHAPES, "mesh", "mjcf"), "shape; not needed where a mesh or an MJCF file is given"),
    "size": _numbers(
        (1, 2, 3), 0.004, 0.4, "in m",
        "in m: three edges of a box; diameter and height of a cylinder; diameter of a sphere; diameter and whole "
        "length of a capsule",
    ),
    "mesh": _file("an OBJ, STL or GLB file"),
    "mjcf": _file("an MJCF file of one rigid body"),
    "scale": _number(1e-6, 1e3, "metres of a unit of the mesh file; 0.001 for a file in mm (default: 1)"),
    "collision": _choice(("auto", "hull"), "convex parts of the mesh: found by itself, or a single hull"),
    "rotation": _numbers(
        (3,), -360.0, 360.0, "in degrees", "turns about x, then y, then z of the table in degrees: how it is put down"
    ),
    "mass": _number(0.001, 1.0, "mass in kg (default: that of printed plastic)"),
    "friction": _number(0.05, 2.0, "coefficient of sliding friction (default: 0.8)"),
    "color": _color("colour (default: grey); a named one is the adjective, too"),
    "texture": _file("an image file (PNG or JPEG) for a mesh with texture coordinates"),
    "nouns": _words("what instructions may call it (default: its name)", 1),
    "adjectives": _words("words of which an instruction puts one before the noun (default: a named colour)", 0),
}  # fmt: skip

SECTIONS: Final[Mapping[str, Mapping[str, Key]]] = {
    "table": TABLE, "gripper": GRIPPER, "obstacles": OBSTACLE, "cameras": CAMERA, "objects": OBJECT,
}  # fmt: skip
"""Keys of each section; ``obstacles`` and ``objects`` are lists, ``cameras`` has a section for each camera."""


def check_section(where: str, content: object, keys: Mapping[str, Key]) -> dict[str, Any]:
    """Return the checked values of a section.

    Args:
        where: The file and the section, for errors.
        content: The section as it was read.
        keys: Its keys.

    Raises:
        UnknownNameError: It has an unknown key.
        OptionError: It is no section, lacks a key, or a value is not allowed.
    """
    if not isinstance(content, dict):
        raise OptionError(where, content, f"a section with the keys {', '.join(keys)}")
    for name in content:
        if name not in keys:
            raise UnknownNameError(f"key of {where}", name, keys)
    values: dict[str, Any] = {}
    for name, key in keys.items():
        if name not in content:
            if key.required:
                raise OptionError(f"{where}.{name}", None, f"{name} has to be there: {key.meaning}")
            continue
        try:
            values[name] = key.check(content[name])
        except ValueError as error:
            shown = content[name] if isinstance(content[name], str | int | float | bool | list) else "a section"
            shown = shown if len(repr(shown)) < 120 else format_value(shown)
            raise OptionError(f"{where}.{name}", shown, str(error)) from None
    return values


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a table file, for editors that complete and check TOML."""

    def section(keys: Mapping[str, Key]) -> dict[str, Any]:
        return {
            "type": "object",
            "additionalProperties": False,
            "required": [name for name, key in keys.items() if key.required],
            "properties": {name: {**key.schema, "description": key.meaning} for name, key in keys.items()},
        }

    cameras = {name: section(CAMERA) for name in ("wrist", "scene")}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Table of a PAROL6 arm",
        "type": "object",
        "additionalProperties": False,
        "required": ["objects"],
        "properties": {
            "table": section(TABLE),
            "gripper": section(GRIPPER),
            "obstacles": {"type": "array", "maxItems": MAX_OBSTACLES, "items": section(OBSTACLE)},
            "cameras": {"type": "object", "additionalProperties": False, "properties": cameras},
            "objects": {"type": "array", "minItems": 1, "maxItems": MAX_OWN_OBJECTS, "items": section(OBJECT)},
        },
    }
