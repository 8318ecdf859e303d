"""Small policies compute with one thread, and leave the program its own number."""

import threading

import pytest

pytest.importorskip("lerobot")

import torch

from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.agent.policies.local import LocalPolicy
from smolvla_gym.agent.single_thread import is_small, single_thread
from smolvla_gym.agent.warm_up import make_warm_up_request


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_bundled_policy_computes_with_one_thread():
    policy = LocalPolicy(load_checkpoint("bundled", device="cpu"))
    seen = []
    module = policy.checkpoint.policy.model.action_out_proj
    module.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    policy.infer(make_warm_up_request(policy.card))
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2


def test_large_policies_and_other_devices_keep_theirs():
    small, large = torch.nn.Linear(10, 10), torch.nn.Linear(5000, 5000, device="meta")
    assert is_small(small, "cpu")
    assert not is_small(small, "cuda:0")
    assert not is_small(large, "cpu")


def test_the_number_is_restored_after_an_error():
    with pytest.raises(ValueError, match="x"), single_thread():
        raise ValueError("x")
    assert torch.get_num_threads() == 2


def test_two_threads_restore_the_programs_number():
    inside, leave = threading.Event(), threading.Event()

    def compute():
        with single_thread():
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=compute)
    other.start()
    inside.wait(10)
    with single_thread():
        leave.set()
        other.join()
    assert torch.get_num_threads() == 2
    numbers = []
    fresh = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    assert numbers == [2]
