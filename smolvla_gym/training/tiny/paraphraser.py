"""Draw paraphrases of the instructions of a batch, so that a policy does not depend on single sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_REPLACED: Final = 0.4
"""Probability with which a token of a garbled sentence is replaced."""

_INSERTED: Final = 4
"""Largest number of tokens that are inserted into a garbled sentence."""


class Paraphraser:
    """Draws paraphrases of sentences, and garbles some of them.

    No list of paraphrases has every verb that people use. Garbling keeps the tokens that a sentence has in common
    with its paraphrases, such as the colour, and replaces other tokens by noise. The policy learns to rely on the
    former.
    """

    def __init__(
        self,
        tokens: NDArray[np.int64],
        masks: NDArray[np.bool_],
        paraphrases: Sequence[Sequence[int]] | None,
        vocabulary: int,
        garbled: float,
    ) -> None:
        """Find the tokens that each sentence has in common with its paraphrases.

        Args:
            tokens: Tokens of all sentences, shape (S, T), padded at the end.
            masks: False for padding, shape (S, T).
            paraphrases: For each sentence the indices of its paraphrases, including itself; None: no paraphrases, so
                that all tokens of a sentence are kept.
            vocabulary: Number of different tokens.
            garbled: Share of the drawn sentences that are garbled, 0..1.
        """
        self._tokens, self._masks, self._garbled = tokens, masks, garbled
        self._same = [np.array(group) for group in paraphrases or [[i] for i in range(len(tokens))]]
        sets = [set(row[mask].tolist()) for row, mask in zip(tokens, masks, strict=True)]
        common: dict[tuple[int, ...], frozenset[int]] = {}
        for same in self._same:
            key = tuple(same.tolist())
            if key not in common:
                common[key] = frozenset.intersection(*(frozenset(sets[i]) for i in key))
        self._kept = [common[tuple(same.tolist())] for same in self._same]
        # A token that one sentence keeps, such as a colour, would change the meaning of another.
        self._noise = np.array(sorted(set(range(vocabulary)) - frozenset().union(*common.values())))

    def draw(
        self, sentences: NDArray[np.int64], random: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return paraphrases of sentences.

        Args:
            sentences: Indices of the sentences, shape (B,).
            random: Source of the random numbers.

        Returns:
            Tokens and masks, shape (B, T) each.
        """
        drawn = np.array([self._same[i][int(random.integers(len(self._same[i])))] for i in sentences], dtype=np.int64)
        tokens, masks = self._tokens[drawn], self._masks[drawn]
        if self._garbled and len(self._noise):
            for row in np.flatnonzero(random.random(len(drawn)) < self._garbled):
                garbled = self._garble(tokens[row][masks[row]], self._kept[drawn[row]], random)
                tokens[row, : len(garbled)] = garbled
                masks[row, : len(garbled)] = True
        return tokens, masks

    def _garble(
        self, sentence: NDArray[np.int64], kept: frozenset[int], random: np.random.Generator
    ) -> NDArray[np.int64]:
        free = np.array([token not in kept for token in sentence.tolist()])
        if not free.any():
            return sentence
        replaced = free & (random.random(len(sentence)) < _REPLACED)
        garbled = np.where(replaced, random.choice(self._noise, len(sentence)), sentence)
        # The last token ends the sentence.
        room = min(_INSERTED, self._tokens.shape[1] - len(sentence))
        places = random.integers(0, len(sentence), int(random.integers(room + 1)))
        return np.insert(garbled, places, random.choice(self._noise, len(places)))
