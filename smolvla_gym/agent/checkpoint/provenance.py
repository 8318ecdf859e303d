"""What LeRobot does not keep of a policy's training: control rate, gripper and the words of its instructions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from smolvla_gym.errors import CheckpointError
from smolvla_gym.utils.untrusted import read_json_object

PROVENANCE: Final = "parol6.json"
"""Beside ``config.json``. LeRobot and the agent load a checkpoint with or without it."""

_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_MAX_HZ: Final = 10_000
_MAX_WORDS: Final = 10_000
_MAX_LETTERS: Final = 64


@dataclass(frozen=True)
class Provenance:
    """What a policy was trained with.

    Attributes:
        control_hz: Frames a second of the demonstrations: the rate in Hz at which its actions follow each other.
        gripper: The gripper that was mounted; None: unknown.
        lowercase: Whether all its instructions were in lower case, and its tokenizer knows no other words.
        words: Paraphraser of its instructions, in lower case; none: unknown, or as many as a language has.
    """

    control_hz: float
    gripper: str | None = None
    lowercase: bool = False
    words: tuple[str, ...] = ()


def extract_words(sentences: Iterable[str]) -> tuple[str, ...]:
    """Return the words of sentences in lower case, each once, sorted."""
    return tuple(sorted({word for sentence in sentences for word in _WORD.findall(sentence.lower())}))


def read_provenance(checkpoint: Path) -> Provenance | None:
    """Return what a checkpoint was trained with, None where it does not say.

    Raises:
        CheckpointError: The file is broken.
    """
    path = checkpoint / PROVENANCE
    if not path.exists():
        return None
    try:
        return _parse(read_json_object(path))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is broken ({type(error).__name__}: {error}). Take another copy of the checkpoint."
        ) from error


def _parse(content: dict[str, Any]) -> Provenance:
    hz, gripper = content["control_hz"], content.get("gripper")
    lowercase, words = content.get("lowercase", False), content.get("words", [])
    if isinstance(hz, bool) or not isinstance(hz, int | float) or not 0 < hz <= _MAX_HZ:
        raise ValueError(f"control_hz is {hz!r:.40}, not a number above 0 and up to {_MAX_HZ}")
    if not isinstance(gripper, str | None) or len(gripper or "") > _MAX_LETTERS:
        raise ValueError(f"gripper is {gripper!r:.40}, not a name")
    if not isinstance(lowercase, bool):
        raise ValueError(f"lowercase is {lowercase!r:.40}, not true or false")
    if not isinstance(words, list) or len(words) > _MAX_WORDS:
        raise ValueError(f"words is not a list of at most {_MAX_WORDS} words")
    for word in words:
        if not isinstance(word, str) or len(word) > _MAX_LETTERS or not _WORD.fullmatch(word):
            raise ValueError(f"words has {word!r:.80}, which is not a word")
    return Provenance(float(hz), gripper, lowercase, tuple(words))
