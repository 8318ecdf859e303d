"""A policy in a worker process: the same chunks and errors, and no process is left behind."""

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

from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.agent.policies.base import ChunkRequest
from smolvla_gym.agent.policies.local import LocalPolicy
from smolvla_gym.agent.policies.process import PolicyProcess
from smolvla_gym.agent.smolvla_agent import SmolVLAAgent
from smolvla_gym.errors import CheckpointError, InferenceError, OptionError


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
        local, remote = here.infer(request), policy.infer(request)
        np.testing.assert_allclose(remote.actions, local.actions, atol=1e-5)
        np.testing.assert_allclose(remote.normalized, local.normalized, atol=1e-5)
        np.testing.assert_array_equal(policy.infer(request).actions, remote.actions)


@pytest.mark.slow
def test_it_ends_when_the_agent_is_forgotten(tiny):
    agent = SmolVLAAgent.from_pretrained(tiny, device="cpu", process=True)
    pid = agent.policy.pid
    assert alive(pid)
    del agent
    gc.collect()
    assert wait_for_end(pid)


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_ctrl_c_leaves_the_policy_alone_and_it_ends_with_the_program_that_started_it(tiny):
    """A terminal sends Ctrl-C to all processes of the group; the program is killed, which lets it do nothing more."""
    code = """
import sys, time
import numpy as np
from smolvla_gym import SmolVLAAgent

agent = SmolVLAAgent.from_pretrained(sys.argv[1], device="cpu", process=True)
try:
    print(agent.policy.pid, flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
agent.reset("lift the red cube")
pixels = {name: np.zeros((64, 64, 3), np.uint8) for name in agent.cameras}
agent.act({"pixels": pixels, "agent_pos": np.zeros(7, np.float32)})
print(agent.statistics.chunks, "chunk", flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", code, str(tiny)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as program:
        try:
            pid = int(program.stdout.readline())
            os.killpg(program.pid, signal.SIGINT)
            assert program.stdout.readline() == "1 chunk\n"
            assert alive(pid)
        finally:
            program.kill()
    assert wait_for_end(pid)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"path_or_repo": "no such folder"}, CheckpointError, "There is no folder 'no such folder'"),
        ({"dtype": "int8"}, OptionError, "dtype='int8'"),
    ],
)
def test_errors_of_loading_are_raised_in_the_parent(tiny, options, kind, message):
    with pytest.raises(kind, match=message):
        PolicyProcess(**{"path_or_repo": tiny, "device": "cpu"} | options)


def test_a_process_that_was_killed_is_an_error_at_once(policy, observation):
    """The last test: it ends the policy of the module."""
    agent = SmolVLAAgent(policy)
    agent.reset("lift the red cube")
    os.kill(policy.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(InferenceError, match=r"process .* ended \(exit status -9;.* Load the policy again"):
            agent.act(observation)
    assert agent.statistics.retries == 0
    policy.close()
    assert wait_for_end(policy.pid)
