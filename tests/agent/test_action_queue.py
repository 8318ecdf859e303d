import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolvla_gym.agent.action_queue import ActionQueue
from smolvla_gym.agent.aggregation import AGGREGATES, get_aggregate
from smolvla_gym.agent.policies.base import Chunk
from smolvla_gym.errors import UnknownNameError


def chunk(first, length=5, scale=1.0):
    """Actions that are the numbers of their moments; in the policy's units they are negative."""
    actions = np.repeat(np.arange(first, first + length, dtype=np.float32)[:, None], 7, axis=1) * scale
    return Chunk(actions, -actions)


def drain(queue):
    actions = []
    while (action := queue.pop()) is not None:
        actions.append(float(action[0]))
    return actions


def test_actions_come_in_order_and_then_none():
    queue = ActionQueue()
    assert queue.merge(chunk(0, 3), requested_at=0) == 0
    assert len(queue) == 3
    assert drain(queue) == [0, 1, 2]
    assert queue.pop() is None
    assert queue.executed == 3


def test_the_chunk_is_copied():
    queue = ActionQueue()
    given_ = chunk(0, 2)
    queue.merge(given_, 0)
    given_.actions[:] += 1
    assert drain(queue) == [0, 1]


def test_the_action_is_a_copy():
    queue = ActionQueue()
    queue.merge(chunk(0, 2), 0)
    queue.pop()[:] = 9
    queue.merge(chunk(1, 4), 1, get_aggregate("average"))
    assert drain(queue) == [1, 2, 3, 4]


def test_a_late_chunk_goes_where_it_belongs():
    queue = ActionQueue()
    queue.merge(chunk(0, 5), 0)
    for _ in range(2):
        queue.pop()
    requested_at = queue.executed
    for _ in range(2):
        queue.pop()
    assert queue.merge(chunk(2, 5), requested_at) == 2
    assert drain(queue) == [4, 5, 6]


def test_no_action_expires_while_the_arm_holds():
    queue = ActionQueue()
    queue.merge(chunk(0, 3), 0)
    queue.pop()
    requested_at = queue.executed
    for _ in range(10):
        queue.pop()  # eight of them find nothing
    assert queue.merge(chunk(1, 5), requested_at) == 2
    assert drain(queue) == [3, 4, 5]


def test_a_chunk_that_is_altogether_late_gives_its_last_action():
    queue = ActionQueue()
    queue.merge(chunk(0, 9), 0)
    for _ in range(9):
        queue.pop()
    assert queue.merge(chunk(0, 3), 0) == 2
    assert drain(queue) == [2]


def test_leftover_actions_are_in_normalized_units():
    queue = ActionQueue()
    queue.merge(chunk(0, 4), 0)
    queue.pop()
    assert queue.leftover[:, 0].tolist() == [-1, -2, -3]
    assert queue.leftover.shape == (3, 7)


def test_clear_drops_all_actions():
    queue = ActionQueue()
    queue.merge(chunk(0, 2), 0)
    queue.clear()
    assert len(queue) == 0
    assert queue.pop() is None
    assert len(queue.leftover) == 0


@pytest.mark.parametrize("shape", [(7,), (0, 7), (1, 2, 7)])
def test_only_chunks_are_taken(shape):
    array = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match="shape"):
        ActionQueue().merge(Chunk(array, array), 0)


@given(
    played=st.integers(0, 8),
    flight=st.integers(0, 12),
    lengths=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    name=st.sampled_from(sorted(AGGREGATES)),
)
def test_every_action_is_executed_at_its_moment(played, flight, lengths, name):
    """Two chunks that agree on what to do at each moment give that, however late the second one is."""
    queue = ActionQueue()
    queue.merge(chunk(0, lengths[0]), 0)
    done = [a for a in (queue.pop() for _ in range(played)) if a is not None]
    requested_at = queue.executed
    done += [a for a in (queue.pop() for _ in range(flight)) if a is not None]
    moment = queue.executed
    expired = queue.merge(chunk(requested_at, lengths[1]), requested_at, get_aggregate(name))
    assert 0 <= expired <= lengths[1]
    assert np.allclose(queue.leftover, -queue.planned)
    assert [a[0] for a in done] == list(range(len(done)))
    left = drain(queue)
    if expired == lengths[1]:  # altogether late, and something else is planned
        assert left == list(range(moment, lengths[0]))
    else:
        assert left == pytest.approx(list(range(requested_at + expired, requested_at + lengths[1])))
        assert requested_at + expired == moment or (expired, len(left)) == (lengths[1] - 1, 1)


# Aggregation.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("latest_only", [1, 1, 1]),
        ("weighted_average", [0.7, 0.7, 0.7]),
        ("average", [0.5, 0.5, 0.5]),
        ("conservative", [0.3, 0.3, 0.3]),
        ("crossfade", [0.25, 0.5, 0.75]),
    ],
)
def test_the_named_functions(name, expected):
    old, new = np.zeros((3, 7), np.float32), np.ones((3, 7), np.float32)
    mixed = get_aggregate(name)(old, new)
    assert mixed.dtype == np.float32
    assert mixed[:, 3] == pytest.approx(expected)


def test_unknown_names_are_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'average'"):
        get_aggregate("averag")
