"""A policy in a process of its own: the same chunks, the same errors, and nothing of it is left behind."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("lerobot")

from smolvla_gym.agent.checkpoint import load_checkpoint
from smolvla_gym.agent.local_policy import LocalPolicy
from smolvla_gym.agent.policy import ChunkRequest
from smolvla_gym.agent.policy_process import PolicyProcess
from smolvla_gym.agent.smolvla import SmolVLAAgent
from smolvla_gym.errors import (
    CheckpointError,
    OptionError,
    PolicyConnectionError,
    PolicyMismatchError,
    SmolVLAGymError,
)


def alive(pid):
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_end(pid, seconds=10.0):
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


@pytest.fixture(scope="module")
def policy(tiny):
    made = PolicyProcess(tiny, device="cpu", num_steps=3)
    yield made
    made.close()
    made.close()


def ask(observation, card, left=None):
    noise = np.random.default_rng(0).standard_normal((card.chunk_size, card.noise_width), dtype=np.float32)
    return ChunkRequest(observation, "Pick up the red cube.", noise, left, 2)


def test_it_gives_the_same_chunks_as_one_in_this_process(policy, tiny, observation):
    here = LocalPolicy(load_checkpoint(tiny, device="cpu"), num_steps=3, name=str(tiny))
    assert policy.card == here.card
    for left in (None, np.full((5, 7), 0.5, np.float32)):
        request = ask(observation, here.card, left)
        ours, theirs = here.infer(request), policy.infer(request)
        np.testing.assert_allclose(theirs.actions, ours.actions, atol=1e-5)
        np.testing.assert_allclose(theirs.latent, ours.latent, atol=1e-5)
        np.testing.assert_array_equal(policy.infer(request).actions, theirs.actions)


def test_a_killed_process_is_told_and_cannot_be_confused_with_a_slow_one(tiny, observation):
    policy = PolicyProcess(tiny, device="cpu")
    os.kill(policy.pid, signal.SIGKILL)
    with pytest.raises(PolicyConnectionError):
        policy.infer(ask(observation, policy.card))
    policy.close()


def test_it_ends_when_it_is_closed_or_forgotten(tiny):
    agent = SmolVLAAgent.from_pretrained(tiny, device="cpu", process=True)
    closed = agent._policy.pid
    agent.close()
    assert wait_for_end(closed)
    agent = SmolVLAAgent.from_pretrained(tiny, device="cpu", process=True)
    forgotten = agent._policy.pid
    del agent
    gc.collect()
    assert wait_for_end(forgotten)


def test_it_ends_with_the_program_that_started_it_however_that_ends(tiny):
    code = (
        "import sys, time; from smolvla_gym.agent.policy_process import PolicyProcess\n"
        "print(PolicyProcess(sys.argv[1], device='cpu').pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tiny)], stdout=subprocess.PIPE, text=True) as program:
        pid = int(program.stdout.readline())
        assert alive(pid)
        program.kill()
    assert wait_for_end(pid)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"path_or_repo": "no such folder"}, CheckpointError, "There is no folder 'no such folder'"),
        ({"device": "gpu"}, OptionError, "device='gpu'"),
        ({"num_steps": 0}, SmolVLAGymError, "num_steps"),
        ({"camera_map": {"top": "wrist"}}, PolicyMismatchError, "camera_map names 'top'"),
    ],
)
def test_what_loading_raises_there_is_raised_here(tiny, options, kind, message):
    with pytest.raises(kind, match=message):
        PolicyProcess(**{"path_or_repo": tiny, "device": "cpu"} | options)


def test_wrong_options_of_the_agent_leave_no_process_behind(tiny):
    children = set(os.listdir("/proc")) if os.path.isdir("/proc") else set()
    with pytest.raises(OptionError, match="n_action_steps"):
        SmolVLAAgent.from_pretrained(tiny, device="cpu", process=True, n_action_steps=0)
    for pid in set(os.listdir("/proc")) - children if children else ():
        if pid.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
                assert b"policy_process" not in file.read()
