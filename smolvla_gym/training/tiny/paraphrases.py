"""Paraphrases of the tasks' instructions, generated from grammars."""

from __future__ import annotations

import itertools
import re
from functools import cache
from typing import Final

# Alternatives are in square brackets. No grammar may generate an unseen instruction of its task.
_GRAMMARS: Final = {
    "reach": (
        "[|please |now |can you ][move|bring|drive|take] the [gripper|tool|hand|arm] "
        "[over|to|above|over to] the {color} [disc|disk|circle|dot|spot]",
        "[|please |now |can you ][go|move|get] [to|over|above|towards] the {color} [disc|disk|circle|dot|spot]",
        "[|please |now |can you ][point at|reach for|reach|hover over|touch] the {color} [disc|disk|circle|dot|spot]",
    ),
    "lift": (
        "[|please |now |can you ][pick up|lift|lift up|grab|take|grasp|get|hold up|pick] the {color} [cube|block|box]",
        "[|please |now |can you ][pick|lift|take|raise|grab] the {color} [cube|block|box] "
        "[up|off the table|from the table]",
    ),
    "place": (
        "[|please |now |can you ][put|place|set|move|drop|lay|bring] the {color} [cube|block|box] "
        "[on|onto|down on|on top of] the [|white |round ][plate|dish|circle]",
        "[|please |now |can you ][pick up|take|grab] the {color} [cube|block|box] and "
        "[put|place|set|drop] it [on|onto|down on] the [|white |round ][plate|dish|circle]",
    ),
    "stack": (
        "[|please |now |can you ][stack|put|place|set|pile] the {color} [cube|block|box] "
        "[on|onto|on top of|upon] the {base} [cube|block|box|one]",
        "[|please |now |can you ][pick up|take|grab] the {color} [cube|block|box] and "
        "[put|place|set|stack] it [on|onto|on top of] the {base} [cube|block|box|one]",
    ),
    "push": (
        "[|please |now |can you ][push|slide|shove|move|drive|bring] the {color} [puck|cylinder|piece] "
        "[onto|to|into|on|towards] the [|white |round ][circle|goal|mark|target|spot]",
    ),
    "belt": (
        "[|please |now |can you ][pick up|lift|lift up|grab|take|grasp|get|pick] the {color} [cube|block|box] "
        "[from|off|on] the [|moving ]belt",
        "[|please |now |can you ][pick|lift|take] the {color} [cube|block|box] up from the [|moving ]belt",
    ),
}


@cache
def paraphrases(task: str) -> tuple[str, ...]:
    """Return the instruction templates of a task, with the field ``{color}`` and, for two objects, ``{base}``."""
    return tuple(dict.fromkeys(sentence for grammar in _GRAMMARS[task] for sentence in _expand(grammar)))


def _expand(grammar: str) -> list[str]:
    pieces = re.split(r"\[(.*?)\]", grammar)
    choices = [piece.split("|") if i % 2 else [piece] for i, piece in enumerate(pieces)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]
