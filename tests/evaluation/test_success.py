import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolvla_gym.evaluation.success import mcnemar, success_rate, wilson_interval


def test_published_values():
    # Newcombe (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for successes, episodes, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(successes, episodes) == pytest.approx((low, high), abs=6e-5)


def test_the_rate_of_episodes():
    assert success_rate([True, False, True, True]) == (3, 4, 0.75, *wilson_interval(3, 4))


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_it_holds_the_rate_and_is_symmetric(case):
    successes, episodes = case
    low, high = wilson_interval(successes, episodes)
    assert 0.0 <= low <= successes / episodes <= high <= 1.0
    assert wilson_interval(episodes - successes, episodes) == pytest.approx((1.0 - high, 1.0 - low))


def test_two_policies_on_the_same_seeds():
    # By hand: 2 * (1 + 9) / 2^9; seeds without a difference do not count.
    assert mcnemar(8, 1) == mcnemar(1, 8) == pytest.approx(20 / 512)
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0
    assert mcnemar(0, 10) == pytest.approx(2 / 1024)


@given(st.integers(0, 60), st.integers(0, 60))
def test_more_of_a_difference_is_less_likely_by_chance(first, second):
    assert 0.0 < mcnemar(first, second) <= 1.0
    if first > second:
        assert mcnemar(first + 1, second) <= mcnemar(first, second)
