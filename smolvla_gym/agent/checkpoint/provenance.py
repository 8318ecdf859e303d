"""Read the training conditions that LeRobot does not store: control rate, gripper, instructions, inference delays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from smolvla_gym.errors import CheckpointError
from smolvla_gym.utils import schema
from smolvla_gym.utils.untrusted import read_json_object, reading_as

PROVENANCE: Final = "parol6.json"
"""Name of the file beside ``config.json``. LeRobot and the agent load a checkpoint with or without it."""

_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_MAX_LETTERS: Final = 64

CONTROL_RATE: Final = schema.number(1e-3, 10_000)
"""Check of a control rate in Hz."""

MAX_DELAY: Final = schema.whole(0, 4095)
"""Check of the largest inference delay in actions; a chunk is longer."""


def _word(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_LETTERS or not _WORD.fullmatch(value):
        raise schema.ExpectedError(f"a word of at most {_MAX_LETTERS} letters")
    return value


_FIELDS: Final[Mapping[str, schema.Check]] = {
    "control_hz": CONTROL_RATE,
    "gripper": schema.optional(schema.text(_MAX_LETTERS)),
    "lowercase": schema.flag,
    "words": schema.list_of(_word, 0, 10_000),
    "rtc_max_delay": MAX_DELAY,
}


@dataclass(frozen=True)
class Provenance:
    """Training conditions of a policy.

    Attributes:
        control_hz: Control rate in Hz of the demonstrations, at which the actions of a chunk follow each other.
        gripper: Gripper of the demonstrations; None: unknown.
        lowercase: Whether all instructions were in lower case, so that the tokenizer knows no other words.
        words: Vocabulary of the instructions in lower case; empty: unknown or unlimited.
        rtc_max_delay: Largest inference delay in actions of the training: the policy continues up to that many given
            actions. 0: it was trained without.
    """

    control_hz: float
    gripper: str | None = None
    lowercase: bool = False
    words: tuple[str, ...] = ()
    rtc_max_delay: int = 0


def extract_words(sentences: Iterable[str]) -> tuple[str, ...]:
    """Return the words of sentences in lower case, without duplicates, sorted."""
    return tuple(sorted({word for sentence in sentences for word in _WORD.findall(sentence.lower())}))


def read_provenance(checkpoint: Path) -> Provenance | None:
    """Return the training conditions of a checkpoint, or None if it has no such file.

    Raises:
        CheckpointError: The file is broken.
    """
    path = checkpoint / PROVENANCE
    if not path.exists():
        return None
    with reading_as(CheckpointError, path, "Take another copy of the checkpoint."):
        return Provenance(**schema.check_fields(read_json_object(path), _FIELDS, ("control_hz",), others=True))
