import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolvla_gym.evaluation.success import wilson_interval


def test_published_values():
    # Newcombe (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for successes, episodes, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(successes, episodes) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_it_holds_the_rate_and_is_symmetric(case):
    successes, episodes = case
    low, high = wilson_interval(successes, episodes)
    assert 0.0 <= low <= successes / episodes <= high <= 1.0
    assert wilson_interval(episodes - successes, episodes) == pytest.approx((1.0 - high, 1.0 - low))
