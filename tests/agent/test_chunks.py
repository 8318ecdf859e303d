import numpy as np
import pytest

from smolvla_gym.agent.chunks import ActionQueue


def test_actions_come_in_order_and_then_none():
    queue = ActionQueue()
    chunk = np.arange(21, dtype=np.float32).reshape(3, 7)
    queue.push(chunk)
    assert len(queue) == 3
    assert [queue.pop().tolist() for _ in range(3)] == chunk.tolist()
    assert queue.pop() is None


def test_the_chunk_is_copied():
    queue = ActionQueue()
    chunk = np.zeros((2, 7), dtype=np.float32)
    queue.push(chunk)
    chunk += 1
    assert not queue.pop().any()


def test_clear_forgets():
    queue = ActionQueue()
    queue.push(np.zeros((2, 7), dtype=np.float32))
    queue.clear()
    assert len(queue) == 0
    assert queue.pop() is None


def test_only_chunks_are_taken():
    with pytest.raises(ValueError, match="shape"):
        ActionQueue().push(np.zeros(7, dtype=np.float32))
