"""Paraphrased and garbled instructions of a batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolvla_gym.errors import OptionError
from smolvla_gym.training.tiny.options import TrainOptions
from smolvla_gym.training.tiny.paraphraser import Paraphraser

# "lift the red", "take the red cube", "please lift the red cube" and the same of blue; 0 pads, 9 ends a sentence.
LIFT, TAKE, PLEASE, THE, RED, BLUE, CUBE, END = 1, 2, 3, 4, 5, 6, 7, 9
SENTENCES = [
    sentence
    for color in (RED, BLUE)
    for sentence in ([LIFT, THE, color, END], [TAKE, THE, color, CUBE, END], [PLEASE, LIFT, THE, color, CUBE, END])
]
SAME = [[0, 1, 2]] * 3 + [[3, 4, 5]] * 3
VOCABULARY = 40
LENGTH = 9


def words(garbled, paraphrases=SAME, length=LENGTH):
    masks = np.array([[i < len(sentence) for i in range(length)] for sentence in SENTENCES])
    tokens = np.array([sentence + [0] * (length - len(sentence)) for sentence in SENTENCES])
    return Paraphraser(tokens, masks, paraphrases, VOCABULARY, garbled)


def said(tokens, masks):
    return [row[mask].tolist() for row, mask in zip(tokens, masks, strict=True)]


def test_draws_every_sentence_of_the_same_meaning_and_no_other():
    drawn = said(*words(0.0).draw(np.repeat([0, 4], 50), np.random.default_rng(0)))
    assert {tuple(sentence) for sentence in drawn[:50]} == {tuple(SENTENCES[i]) for i in (0, 1, 2)}
    assert {tuple(sentence) for sentence in drawn[50:]} == {tuple(SENTENCES[i]) for i in (3, 4, 5)}


@given(seed=st.integers(0, 2**32 - 1), sentence=st.integers(0, 5), length=st.integers(6, 12))
def test_garbling_keeps_common_tokens(seed, sentence, length):
    tokens, masks = words(1.0, length=length).draw(np.array([sentence]), np.random.default_rng(seed))
    assert tokens.shape == masks.shape == (1, length)
    (garbled,) = said(tokens, masks)
    color, other = (RED, BLUE) if sentence < 3 else (BLUE, RED)
    assert [token for token in garbled if token in (THE, color, END)] == [THE, color, END]
    assert garbled[-1] == END
    assert other not in garbled
    assert not masks[0, len(garbled) :].any()


def test_garbling_replaces_and_inserts():
    drawn = said(*words(1.0).draw(np.zeros(200, dtype=np.int64), np.random.default_rng(0)))
    strange = [sum(token > END for token in sentence) for sentence in drawn]
    assert max(strange) >= 4
    assert max(map(len, drawn)) == LENGTH
    assert sum(LIFT not in sentence and TAKE not in sentence for sentence in drawn) > 20
    half = said(*words(0.5).draw(np.zeros(200, dtype=np.int64), np.random.default_rng(0)))
    assert 60 < sum(sentence in SENTENCES for sentence in half) < 160


def test_without_paraphrases_all_tokens_are_kept():
    drawn = said(*words(1.0, paraphrases=None).draw(np.arange(6), np.random.default_rng(0)))
    assert drawn == SENTENCES


def test_a_share_above_1_is_refused():
    with pytest.raises(OptionError, match="garbled_words"):
        TrainOptions(steps=1, garbled_words=1.5)
