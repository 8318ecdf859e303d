"""Check an instruction, and bring it into the form that the policy was trained with."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Final

from smolvla_gym.agent.checkpoint.provenance import Provenance, extract_words
from smolvla_gym.errors import OptionError
from smolvla_gym.utils.option_values import is_control_character
from smolvla_gym.utils.untrusted import printable

MAX_CHARACTERS: Final = 1000
"""Longest instruction in characters. SmolVLA reads 48 tokens; counting the tokens of a longer text takes long."""

WARM_UP_INSTRUCTION: Final = "warm up"
"""Instruction of the warm-up chunk, which is computed before the arm moves and is not executed."""

_MAX_QUOTED: Final = 80
"""Characters of an instruction that an error quotes."""


def check_instruction(instruction: object, name: str = "instruction") -> str:
    """Return an instruction as one line of text.

    Args:
        instruction: The instruction in words. A line end after it is removed.
        name: Name of the option, for the error.

    Raises:
        OptionError: It is no text, blank, longer than ``MAX_CHARACTERS``, or has control characters.
    """
    if not isinstance(instruction, str):
        raise OptionError(name, _shorten(instruction), "an instruction in words")
    if len(instruction) > MAX_CHARACTERS:
        allowed = f"it has {len(instruction)} characters, and at most {MAX_CHARACTERS} are read: use one sentence"
        raise OptionError(name, printable(instruction, _MAX_QUOTED), allowed)
    text = str(instruction).rstrip("\r\n")
    if not text.strip():
        raise OptionError(name, text, "an instruction in words")
    for place, character in enumerate(text):
        if is_control_character(character):
            allowed = f"character {place + 1} is the control character {character!a}: write one line of plain text"
            raise OptionError(name, printable(text, _MAX_QUOTED), allowed)
    return text


class InstructionReader:
    """Prepares instructions for a policy's tokenizer."""

    def __init__(
        self,
        policy: str,
        count_tokens: Callable[[str], int],
        *,
        limit: int | None = None,
        special: Sequence[str] = (),
        provenance: Provenance | None = None,
    ) -> None:
        """Create a reader for a policy.

        Args:
            policy: Name of the policy, for errors.
            count_tokens: Returns the number of tokens of a text, including special tokens.
            limit: Largest number of tokens that the policy reads; None: unlimited.
            special: Special tokens of the tokenizer, such as ``"<image>"``.
            provenance: Training conditions of the policy; None: unknown, and the text stays unchanged.
        """
        self._policy, self._count_tokens, self._limit, self._special = policy, count_tokens, limit, tuple(special)
        self._lowercase = provenance is not None and provenance.lowercase
        self._words = frozenset(() if provenance is None else provenance.words)
        self._lock = threading.Lock()
        self._latest = ("", "")  # the latest instruction as given, and as prepared
        self._warned: set[str] = set()

    def read(self, instruction: object) -> str:
        """Return the text for the policy's tokenizer.

        Words that the policy was not trained with cause a warning, once each.

        Raises:
            OptionError: The instruction is invalid, or longer than the policy reads.
        """
        with self._lock:  # an episode may begin while a chunk of the previous one is computed
            if not isinstance(instruction, str) or instruction not in self._latest or not instruction:
                self._latest = str(instruction), self._read(instruction)
            return self._latest[1]

    def _read(self, instruction: object) -> str:
        text = given = check_instruction(instruction)
        if self._lowercase:
            text = text.lower()
        for special in self._special:
            if special and special in text:
                allowed = f"{special!r} is a special token of the policy {self._policy!r}: leave it out"
                raise OptionError("instruction", given, allowed)
        if self._limit is not None and (count := self._count_tokens(text)) > self._limit:
            allowed = (
                f"it has {count} tokens with the special ones, and the policy {self._policy!r} reads the first "
                f"{self._limit}, so its end would be cut off: use fewer words"
            )
            raise OptionError("instruction", printable(given, 4 * _MAX_QUOTED), allowed)
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


def _shorten(value: object) -> object:
    """Return a value that is short enough for a message."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray):
        return bytes(value[:_MAX_QUOTED])
    return f"<{type(value).__name__}>"
