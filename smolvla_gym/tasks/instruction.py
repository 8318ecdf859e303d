"""Layout of a scene for an instruction: the objects that it names are on the table."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from smolvla_gym.errors import OptionError
from smolvla_gym.sim.scene import COLORS
from smolvla_gym.tasks.base import Layout

_COLOR: Final = re.compile(rf"\b({'|'.join(COLORS)})\b", re.IGNORECASE)


def names_objects(instruction: str) -> bool:
    """Return whether an instruction names an object by its colour."""
    return _COLOR.search(instruction) is not None


def instructed(layout: Layout, instruction: str) -> Layout:
    """Return a scene with the objects that an instruction names, in the places of those that were drawn.

    The first colour is that of the object to move, the second that of the object to which it moves. Another object
    that had the colour gets the colour that it replaces.

    Args:
        layout: The scene that was drawn.
        instruction: A sentence such as ``"pick up the red cube"``, in upper or lower case. One without a colour leaves
            the scene as it is.

    Raises:
        OptionError: The sentence names fewer or more objects than the task has.
    """
    named = [name.lower() for name in _COLOR.findall(instruction)]
    if not named:
        return replace(layout, instruction=instruction)
    places = [layout.target] + ([layout.base] if layout.base >= 0 else [])
    if len(named) != len(places) or len(set(named)) != len(named):
        objects = "two objects of different colours" if len(places) == 2 else "one object"
        allowed = f"a sentence that names {objects}, such as {layout.instruction!r}; colours are {', '.join(COLORS)}"
        raise OptionError('options["instruction"]', instruction, allowed)
    colors = list(layout.colors)
    for place, color in zip(places, named, strict=True):
        if color in colors:
            colors[colors.index(color)] = colors[place]
        colors[place] = color
    fields = iter(("{color}", "{base}"))
    # Braces of the sentence itself are no fields.
    template = _COLOR.sub(lambda match: next(fields), instruction.replace("{", "{{").replace("}", "}}"))
    return replace(layout, instruction=instruction, instruction_template=template, colors=tuple(colors))
