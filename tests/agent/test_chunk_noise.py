import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smolvla_gym.agent.chunk_noise import TimeAlignedNoise

LENGTH, WIDTH = 20, 3


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, LENGTH)), max_size=8))
def test_planned_actions_keep_their_noise(steps):
    noise, rng, moment, seen = TimeAlignedNoise((LENGTH, WIDTH)), np.random.default_rng(0), 0, {}
    for step, planned in [(0, 0), *steps]:
        moment += step
        drawn = noise.draw(rng, moment, planned)
        assert drawn.shape == (LENGTH, WIDTH)
        for i, row in enumerate(drawn):
            if moment + i in seen:
                assert np.array_equal(row, seen[moment + i]) == (i < planned)
        seen = {moment + i: row.copy() for i, row in enumerate(drawn)}
        drawn[:] = 0.0  # the caller may change the returned noise


def test_no_two_moments_share_noise():
    noise, rng = TimeAlignedNoise((LENGTH, WIDTH)), np.random.default_rng(0)
    rows = np.concatenate([noise.draw(rng, 7 * i, LENGTH - 7)[:7] for i in range(400)])
    assert len(np.unique(rows[:, 0])) == len(rows)
    assert abs(rows.mean()) < 0.05
    assert abs(rows.std() - 1.0) < 0.05
    assert abs(np.corrcoef(rows[:-7, 0], rows[7:, 0])[0, 1]) < 0.06
