"""A served policy computes the same chunks as a local one, bit for bit."""

import contextlib

import gymnasium as gym
import numpy as np
import pytest

from smolvla_gym.agent import SmolVLAAgent
from tests.agent.policies.connections import serving
from tests.agent.policies.policies import assert_same, make_request


@pytest.fixture(scope="module")
def bundled():
    pytest.importorskip("lerobot")
    from smolvla_gym.agent import LocalPolicy, load_checkpoint

    return LocalPolicy(load_checkpoint("bundled", device="cpu"), name="bundled")


def episode(agent, steps=60):
    with gym.make("PAROL6Sim-v0", task="lift", cameras=agent.cameras, image_size=(128, 128)) as env:
        agent.attach(env)
        observation, info = env.reset(seed=4)
        agent.reset(info["instruction"], seed=4)
        actions = []
        for _ in range(steps):
            actions.append(agent.act(observation))
            observation, *_ = env.step(actions[-1])
    return np.array(actions), agent.statistics


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "sync", "latency_ms": 100},
        {"mode": "async", "latency_ms": [100, 170], "queue_threshold": 20},
        {"mode": "rtc", "latency_ms": [100, 170], "queue_threshold": 20},
    ],
    ids=lambda options: options["mode"],
)
def test_episodes_equal_those_of_a_local_policy(bundled, options):
    with serving(bundled) as server, contextlib.closing(SmolVLAAgent.connect(server.address, **options)) as agent:
        remote_actions, remote = episode(agent)
    local_actions, local = episode(SmolVLAAgent(bundled, **options))
    assert local_actions.tobytes() == remote_actions.tobytes()
    assert remote == local
    assert local.chunks >= 3


def test_all_that_a_request_holds_travels(wave, remote):
    leftover = np.random.default_rng(1).standard_normal((5, 7), dtype=np.float32)
    for request in (make_request(), make_request(1, leftover, 3), make_request(2, np.zeros((0, 7), np.float32))):
        assert_same(remote.infer(request), wave.chunk(request))


def test_the_card_travels(wave, remote):
    assert remote.card == wave.card
