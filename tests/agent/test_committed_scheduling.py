"""Scheduling of chunks that got the actions in execution as given; and the mode that ``"auto"`` chooses."""

import time
from dataclasses import replace

import numpy as np
import pytest

from smolvla_gym.agent.policies.base import Chunk
from smolvla_gym.agent.smolvla_agent import SmolVLAAgent
from smolvla_gym.errors import InferenceError
from tests.agent.chunks import Clock, Numbered, play, step_of


class Trained(Numbered):
    """A policy that begins a chunk with the given actions; component 2 tells the chunk that an action is of."""

    def __init__(self, max_delay=12, chunk=20, horizon=8, before=lambda request: None):
        super().__init__(before)
        self._card = replace(super().card, chunk_size=chunk, n_action_steps=horizon, max_delay=max_delay)

    @property
    def card(self):
        return self._card

    def infer(self, request):
        self.requests.append(request)
        self.before(request)
        first, size = step_of(request), self.card.chunk_size
        actions = np.repeat(np.arange(first, first + size, dtype=np.float32)[:, None], 7, axis=1)
        actions[:, 1] = 0.0
        actions[:, 2] = len(self.requests)
        held = min(request.inference_delay, self.card.max_delay)
        if held:
            actions[:held] = 10.0 * request.leftover[:held]
        return Chunk(actions, actions / 10)


def make(policy, *, realtime=False, hz=30.0, **options):
    agent = SmolVLAAgent(policy, **options)
    agent.attach(Clock(realtime, hz))
    return agent


def check_commitments(policy, actions):
    """What was given was executed: the first step of each request is that of its observation."""
    executed = dict(zip(actions[:, 0].tolist(), actions, strict=True))
    for request in policy.requests:
        for i in range(request.inference_delay):
            if step_of(request) + i > actions[-1, 0]:  # the episode ended meanwhile
                break
            np.testing.assert_allclose(10.0 * request.leftover[i], executed[step_of(request) + i], rtol=1e-5)


@pytest.mark.parametrize("latency", [0, 33, 100, 333, [100, 300, 33], [33, 400, 0, 100]])
def test_what_is_given_is_executed(latency):
    policy = Trained()
    agent = make(policy, latency_ms=latency)
    actions = play(agent, 200)
    assert agent.mode == ("rtc" if np.max(latency) else "sync")
    assert set(np.diff(actions[:, 0])) <= {0.0, 1.0}
    check_commitments(policy, actions)


def test_with_jitter_the_largest_delay_is_told_and_the_chunk_is_used_then():
    policy = Trained()
    agent = make(policy, latency_ms=[100, 300, 33])  # 3, 9 and 1 steps
    actions = play(agent, 200)
    assert {request.inference_delay for request in policy.requests[1:]} == {9}
    assert list(agent.statistics.delays)[:6] == [3, 9, 1, 3, 9, 1]
    assert agent.statistics.stalled_steps == 0
    first_used = {float(chunk): step for step, chunk in reversed(list(zip(*actions[:, [0, 2]].T, strict=True)))}
    for number, request in enumerate(policy.requests[1:-1], 2):
        assert first_used[number] == step_of(request) + 9


def test_a_chunk_that_continues_is_not_blended():
    """Component 2 would have values between the numbers of two chunks."""
    actions = play(make(Trained(), latency_ms=300), 150)
    assert set(actions[:, 2] % 1.0) == {0.0}


def test_a_delay_beyond_the_training_is_told_and_blended():
    policy = Trained(max_delay=4)
    actions = play(make(policy, latency_ms=300), 150)
    assert {request.inference_delay for request in policy.requests[1:]} == {9}
    assert set(actions[:, 2] % 1.0) > {0.0}


def test_a_policy_without_delays_is_told_the_latest_one_and_used_at_once():
    policy = Trained(max_delay=0)
    agent = make(policy, mode="rtc", latency_ms=[100, 300, 33])
    play(agent, 100)
    assert [request.inference_delay for request in policy.requests[1:4]] == [3, 9, 9]
    assert list(agent.statistics.delays)[:3] == [3, 9, 1]


@pytest.mark.parametrize("latency", [1000, [1000, 800, 1060]])
@pytest.mark.parametrize(("max_delay", "mode"), [(36, "rtc"), (0, "rtc"), (0, "async")])
def test_a_chunk_of_64_actions_does_not_stall_at_a_second_of_latency(latency, max_delay, mode):
    policy = Trained(max_delay, chunk=64, horizon=12)
    agent = make(policy, mode=mode, latency_ms=latency)
    actions = play(agent, 600)
    assert agent.statistics.waited_steps == 30  # for the first chunk
    assert agent.statistics.stalled_steps == 0
    assert set(np.diff(actions[30:, 0])) == {1.0}


def test_a_chunk_of_32_actions_stalls_at_a_second_of_latency():
    agent = make(Trained(12, chunk=32, horizon=12), mode="async", latency_ms=1000)
    play(agent, 600)
    assert agent.statistics.stalled_steps > 0


@pytest.mark.realtime
def test_in_real_time_the_slowest_of_the_latest_chunks_counts():
    """One slow chunk raises the delay that is told, and it falls again: the time of taking over is not the delay."""

    def before(request):
        time.sleep(0.12 if len(policy.requests) == 4 else 0.02)

    policy = Trained(max_delay=19, chunk=40, horizon=8, before=before)
    agent = make(policy, realtime=True, hz=100.0)
    assert agent.mode == "rtc"
    try:
        actions = play(agent, 300, period=0.01)
    finally:
        agent.close()
    told = [request.inference_delay for request in policy.requests[1:]]
    slowest = max(told)
    assert slowest >= 12
    assert told[-1] < slowest
    check_commitments(policy, actions)


def test_an_error_is_not_held_back():
    """A failure is reported when it occurs, although the given actions are still to be executed."""

    def before(request):
        if len(policy.requests) == 3:
            raise ValueError("broken")

    policy = Trained(before=before)
    agent = make(policy, latency_ms=[300, 33])
    with pytest.raises(InferenceError, match="broken"):
        play(agent, 60)
    assert len(policy.requests) == 3


@pytest.mark.parametrize(
    ("max_delay", "realtime", "options", "mode"),
    [
        (0, False, {}, "sync"),
        (0, False, {"latency_ms": 100}, "sync"),
        (0, False, {"queue_threshold": 3}, "async"),
        (0, False, {"aggregate": "average"}, "async"),
        (0, True, {}, "async"),
        (0, True, {"latency_ms": 100}, "async"),
        (12, False, {}, "sync"),
        (12, False, {"latency_ms": 0}, "sync"),
        (12, False, {"latency_ms": [0, 100]}, "rtc"),
        (12, True, {}, "rtc"),
        (12, True, {"aggregate": "average"}, "async"),
        (12, True, {"mode": "sync"}, "sync"),
        (12, True, {"mode": "async"}, "async"),
        (0, True, {"mode": "rtc"}, "rtc"),
    ],
)
def test_the_mode_is_chosen_by_the_policy_the_latency_and_the_clock(max_delay, realtime, options, mode):
    agent = make(Trained(max_delay), realtime=realtime, **options)
    try:
        assert agent.mode == mode
    finally:
        agent.close()


def test_the_mode_is_chosen_anew_for_another_env():
    agent = SmolVLAAgent(Trained())
    assert (agent.mode, agent.n_action_steps) == ("sync", 8)
    agent.attach(Clock(realtime=True))
    assert (agent.mode, agent.n_action_steps) == ("rtc", 20)
    agent.attach(Clock(realtime=False))
    assert (agent.mode, agent.n_action_steps) == ("sync", 8)
    agent.close()
