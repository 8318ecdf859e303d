"""A bridge that runs."""

from __future__ import annotations

import threading
import time

import gymnasium as gym
import pytest

import smolvla_gym
from smolvla_gym.agent.scripted import ExpertAgent
from smolvla_gym.integrations.bridge.bridge import Bridge

DOMAIN = 97


@pytest.fixture
def connect():
    """Runs a bridge in a thread, with the env in it, and returns the other end."""
    from tests.integrations.bridge.commander import Commander, CycloneTransport  # skips where there is no CycloneDDS

    stop, threads, ends = threading.Event(), [], []

    def make(make_env=None, domain=DOMAIN, expert=False):
        def work():
            env = (
                make_env() if make_env else gym.make(smolvla_gym.SIM_ID, cameras=(), task="reach", max_episode_steps=-1)
            )
            transport = CycloneTransport(domain)
            try:
                Bridge(env, transport, agent=ExpertAgent() if expert else None, seed=3).run(stop, 60)
            finally:
                transport.close()
                env.close()

        end = Commander(domain)
        ends.append(end)
        threads.append(threading.Thread(target=work))
        threads[-1].start()
        end.wait(lambda: "/joint_states" in end.seen and "/status" in end.seen, 40)
        time.sleep(1.0)  # the bridge's readers are found later than its writers
        return end

    yield make
    stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    for end in ends:
        end.close()
