"""Check an instruction before a policy reads it, and bring it into the form that the policy was trained with."""

from __future__ import annotations

import threading
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from typing import Final

from smolvla_gym.agent.checkpoint.provenance import Provenance, extract_words
from smolvla_gym.errors import OptionError
from smolvla_gym.utils.untrusted import printable

MAX_CHARACTERS: Final = 1000
"""Longest instruction in characters. SmolVLA reads 48 tokens; counting the tokens of a longer text takes long."""

WARM_UP_INSTRUCTION: Final = "warm up"
"""Instruction of the chunk that is computed for nothing before the arm moves."""

_SHOWN: Final = 80
_JOINERS: Final = "\u200c\u200d"
"""Format characters that are part of words in some scripts."""


def check_instruction(instruction: object, name: str = "instruction") -> str:
    """Return an instruction as one line of text.

    Args:
        instruction: What to do, in words. A line end after it makes no difference.
        name: What the caller calls it.

    Raises:
        OptionError: It is no text, empty, longer than ``MAX_CHARACTERS``, or has control characters.
    """
    if not isinstance(instruction, str):
        raise OptionError(name, _shorten(instruction), "a text that says what to do")
    if len(instruction) > MAX_CHARACTERS:
        allowed = f"it has {len(instruction)} characters, and at most {MAX_CHARACTERS} are read: say it in one sentence"
        raise OptionError(name, printable(instruction, _SHOWN), allowed)
    text = str(instruction).rstrip("\r\n")
    if not text.strip():
        raise OptionError(name, text, "a text that says what to do")
    for place, character in enumerate(text):
        if _is_control(character):
            allowed = f"character {place + 1} is the control character {character!a}: write one line of plain text"
            raise OptionError(name, printable(text, _SHOWN), allowed)
    return text


class InstructionReader:
    """What a policy makes of an instruction before it makes tokens of it."""

    def __init__(
        self,
        policy: str,
        count_tokens: Callable[[str], int],
        *,
        limit: int | None = None,
        special: Sequence[str] = (),
        provenance: Provenance | None = None,
    ) -> None:
        """Remember how the policy reads.

        Args:
            policy: What the policy is called.
            count_tokens: Returns the number of tokens of a text, all that are added to it included.
            limit: Tokens that the policy reads; None: any number.
            special: Texts that its tokenizer takes for something else than words, such as ``"<image>"``.
            provenance: What it was trained with; None: unknown, and the text stays as it is.
        """
        self._policy, self._count_tokens, self._limit, self._special = policy, count_tokens, limit, tuple(special)
        self._lowercase = provenance is not None and provenance.lowercase
        self._words = frozenset(() if provenance is None else provenance.words)
        self._lock = threading.Lock()
        self._latest = ("", "")  # the instruction as it was given last, and as it is read
        self._warned: set[str] = set()

    def read(self, instruction: object) -> str:
        """Return the text that the policy's tokenizer is to get.

        Words that the policy was not trained with are warned about, each once.

        Raises:
            OptionError: The instruction is none, or the policy would read only its beginning.
        """
        with self._lock:  # an episode begins while a chunk of the one before is computed
            if not isinstance(instruction, str) or instruction not in self._latest or not instruction:
                self._latest = str(instruction), self._read(instruction)
            return self._latest[1]

    def _read(self, instruction: object) -> str:
        text = given = check_instruction(instruction)
        if self._lowercase:
            text = text.lower()
        for special in self._special:
            if special and special in text:
                allowed = f"{special!r} is no word for the policy {self._policy!r} but a mark of its own: leave it out"
                raise OptionError("instruction", given, allowed)
        if self._limit is not None and (count := self._count_tokens(text)) > self._limit:
            allowed = (
                f"it has {count} tokens, its end included, and the policy {self._policy!r} reads the first "
                f"{self._limit}, so its end would be cut off: say it in fewer words"
            )
            raise OptionError("instruction", printable(given, 4 * _SHOWN), allowed)
        self._warn_unknown(text)
        return text

    def _warn_unknown(self, text: str) -> None:
        if not self._words or text == WARM_UP_INSTRUCTION:
            return
        unknown = [word for word in extract_words([text]) if word not in self._words and word not in self._warned]
        if unknown:
            self._warned.update(unknown)
            warnings.warn(
                f"The policy {self._policy!r} was trained without the words {', '.join(map(repr, unknown))} and may do "
                f"something else. It knows these: {', '.join(sorted(self._words)):.2000}.",
                stacklevel=5,
            )


def _is_control(character: str) -> bool:
    category = unicodedata.category(character)
    return category in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _JOINERS


def _shorten(value: object) -> object:
    """Return a value that can stand in a message."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray):
        return bytes(value[:_SHOWN])
    return f"<{type(value).__name__}>"
