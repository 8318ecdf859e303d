"""Paraphrases of the tasks' instructions, generated from grammars."""

from __future__ import annotations

import itertools
import re
from functools import cache
from typing import Final

# Alternatives are in square brackets. No grammar may generate an unseen instruction of its task, or has a verb or noun
# that only these have.
_GRAMMARS: Final = {
    "reach": (
        "[|please |now |can you ][move|bring|drive|take] the [gripper|tool|hand|arm] "
        "[over|to|above|over to] the {color} [disc|disk|circle|dot|spot]",
        "[|please |now |can you ][go|move|get] [to|over|above|towards] the {color} [disc|disk|circle|dot|spot]",
        "[|please |now |can you ][point at|reach for|reach|hover over|touch] the {color} [disc|disk|circle|dot|spot]",
        "[the|now the|your] [gripper|tool|hand|arm] [should|has to|must] [be|go|move|come] [over|above|to] "
        "the {color} [disc|disk|circle|dot|spot]",
        "[i want|i need] the [gripper|tool|hand|arm] [over|above|at] the {color} [disc|disk|circle|dot|spot]",
    ),
    "lift": (
        "[|please |now |can you ][pick up|lift|lift up|grab|take|grasp|get|hold up|pick] the {color} [cube|block|box]",
        "[|please |now |can you ][pick|lift|take|raise|grab] the {color} [cube|block|box] "
        "[up|off the table|from the table]",
        "[the|now the] {color} [cube|block|box] [should|has to|must] [go up|come up|leave the table|be lifted|be held]",
        "[i want|i need] the {color} [cube|block|box] [up|lifted|off the table|in the gripper|in the hand]",
        "[|please |now ][hold|keep|bring] the {color} [cube|block|box] [above|over] the table",
    ),
    "place": (
        "[|please |now |can you ][put|place|set|move|drop|lay|bring] the {color} [cube|block|box] "
        "[on|onto|down on|on top of] the [|white |round ][plate|dish|circle]",
        "[|please |now |can you ][pick up|take|grab] the {color} [cube|block|box] and "
        "[put|place|set|drop] it [on|onto|down on] the [|white |round ][plate|dish|circle]",
        "[the|now the] {color} [cube|block|box] [should|has to|must] [be|go|lie|sit|stand] [on|onto] "
        "the [|white |round ][plate|dish|circle]",
        "[i want|i need] the {color} [cube|block|box] [on|on top of] the [|white |round ][plate|dish|circle]",
        "[|please |now ][take|bring|move] the {color} [cube|block|box] to the [|white |round ][plate|dish|circle] "
        "[and leave it there|and drop it|and open the gripper]",
    ),
    "stack": (
        "[|please |now |can you ][stack|put|place|set|pile] the {color} [cube|block|box] "
        "[on|onto|on top of|upon] the {base} [cube|block|box|one]",
        "[|please |now |can you ][pick up|take|grab] the {color} [cube|block|box] and "
        "[put|place|set|stack] it [on|onto|on top of] the {base} [cube|block|box|one]",
        "[the|now the] {color} [cube|block|box] [should|has to|must] [be|go|lie|sit|stand] [on|onto|on top of|above] "
        "the {base} [cube|block|box|one]",
        "[i want|i need] the {color} [cube|block|box] [on|on top of|above] the {base} [cube|block|box|one]",
        "[|please |now ][make|form] a [pile|stack|column] [of|from] the {color} [cube|block|box] [on|over|on top of] "
        "the {base} [cube|block|box|one]",
    ),
    "push": (
        "[|please |now |can you ][push|slide|shove|move|drive|bring] the {color} [puck|cylinder|piece] "
        "[onto|to|into|on|towards] the [|white |round ][circle|goal|mark|target|spot]",
        "[the|now the] {color} [puck|cylinder|piece] [should|has to|must] [be|go|lie|slide] [on|in|at|onto] "
        "the [|white |round ][circle|goal|mark|target|spot]",
        "[i want|i need] the {color} [puck|cylinder|piece] [on|in|at] the [|white |round ]"
        "[circle|goal|mark|target|spot]",
    ),
    "belt": (
        "[|please |now |can you ][pick up|lift|lift up|grab|take|grasp|get|pick] the {color} [cube|block|box] "
        "[from|off|on] the [|moving ]belt",
        "[|please |now |can you ][pick|lift|take] the {color} [cube|block|box] up from the [|moving ]belt",
        "[the|now the] {color} [cube|block|box] [should|has to|must] [leave|come off|be lifted off] the [|moving ]belt",
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
