"""Chunk scheduling in simulated time, and its options."""

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolvla_gym.agent import chunk_statistics as statistics_module
from smolvla_gym.agent.agent_options import AgentNotAttachedError
from smolvla_gym.agent.chunk_scheduler import ChunkingOptions
from smolvla_gym.agent.policies.base import Chunk
from smolvla_gym.agent.smolvla_agent import SmolVLAAgent
from smolvla_gym.errors import (
    ActionError,
    OptionError,
    UnknownNameError,
)
from tests.agent.chunks import CHUNK, Numbered, make, observe, play, step_of


@pytest.mark.parametrize("mode", ["sync", "async", "rtc"])
@pytest.mark.parametrize("latency", [0, 33, 34, 100, 333])
def test_the_arm_never_jumps_nor_repeats(mode, latency):
    """However late chunks come, the arm does one thing after the other."""
    agent = make(mode=mode, latency_ms=latency)
    path = play(agent, 120)[:, 0]
    moved = np.diff(path)
    assert set(moved) <= {0.0, 1.0}
    assert (moved == 0).sum() <= agent.statistics.stalled_steps + agent.statistics.waited_steps
    assert agent.statistics.steps == 120


@pytest.mark.parametrize(("latency", "delay"), [(0, 0), (1, 1), (33, 1), (33.4, 2), (100, 3), (466, 14)])
def test_a_chunk_is_usable_after_its_latency(latency, delay):
    agent = make(latency_ms=latency)
    play(agent, 60)
    assert set(agent.statistics.delays) == {delay}
    assert agent.statistics.waited_steps == delay


def test_sync_holds_while_it_waits():
    agent = make(mode="sync", latency_ms=100)  # 3 steps
    path = play(agent, 25)[:, 0]
    assert path.tolist() == [0, 0, 0, *range(8), 7, 7, 7, *range(8, 16), 15, 15, 15]
    assert (agent.statistics.waited_steps, agent.statistics.stalled_steps) == (3, 6)


@pytest.mark.parametrize("mode", ["async", "rtc"])
def test_async_does_not_stall_once_it_runs(mode):
    agent = make(mode=mode, latency_ms=300)  # 9 steps, and 10 actions are left when a chunk is asked for
    path = play(agent, 300)[:, 0]
    assert agent.statistics.waited_steps == 9
    assert agent.statistics.stalled_steps == 0
    assert path.tolist() == [*[0] * 9, *range(291)]
    assert set(agent.statistics.delays) == {9}
    # What was in a chunk for the time that it took is left out, but for the first one: the arm held.
    assert agent.statistics.expired_actions == 9 * (agent.statistics.chunks - 1)


@pytest.mark.parametrize("mode", ["sync", "async", "rtc"])
def test_a_moment_that_two_chunks_plan_has_one_noise(mode):
    policy = Numbered()
    play(make(policy, mode=mode, latency_ms=300), 100)
    assert len(policy.requests) > 4
    for before, after in itertools.pairwise(policy.requests):
        moved = int(step_of(after) - step_of(before))
        assert 0 < moved < CHUNK
        same = np.array_equal(after.noise[: CHUNK - moved], before.noise[moved:])
        assert same == (mode != "sync")


@pytest.mark.parametrize("mode", ["sync", "async", "rtc"])
def test_a_chunk_that_failed_is_asked_for_with_other_noise(mode):
    """A policy may fail because of its noise, as in half precision; to ask for the same again would be no way out."""

    def fail(request):
        if len(policy.requests) == 3:
            raise ActionError("not finite")

    policy = Numbered(fail)
    agent = make(policy, mode=mode)
    with pytest.raises(ActionError):
        play(agent, 100)
    agent.act(observe(step_of(policy.requests[-1])))
    failed, again = policy.requests[-2:]
    assert step_of(failed) == step_of(again)
    assert not np.isin(failed.noise, again.noise).any()


def test_an_empty_queue_holds_and_is_counted():
    agent = make(mode="async", latency_ms=500, queue_threshold=5)  # 15 steps, 5 actions left
    play(agent, 100)
    statistics = agent.statistics
    assert statistics.waited_steps == 15
    assert statistics.stalled_steps >= 10 * (statistics.chunks - 2)
    assert statistics.report()["stalled_steps"] == statistics.stalled_steps
    # The arm stood still meanwhile: only executed actions have expired.
    assert statistics.expired_actions == 5 * (statistics.chunks - 1)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda values: np.array(values, np.float32)])
def test_a_recorded_distribution_is_taken_in_turn(kind):
    agent = make(mode="async", latency_ms=kind([100, 200, 33]))
    play(agent, 200)
    assert list(agent.statistics.delays)[:6] == [3, 6, 1, 3, 6, 1]


@pytest.mark.parametrize("latency", [100, 100.0, np.float32(100), np.array(100)])
def test_a_latency_is_any_number(latency):
    agent = make(latency_ms=latency)
    play(agent, 20)
    assert set(agent.statistics.delays) == {3}


def test_overlaps_are_aggregated():
    class Shifted(Numbered):
        def infer(self, request):
            chunk = super().infer(request)
            shift = 0.5 * len(self.requests)
            return Chunk(chunk.actions + np.float32(shift), chunk.normalized)

    late = make(Shifted(), mode="async", latency_ms=0, aggregate="latest_only", queue_threshold=10)
    mean = make(Shifted(), mode="async", latency_ms=0, aggregate="average", queue_threshold=10)
    a, b = (play(agent, 12, advance=False)[:, 0] for agent in (late, mean))
    assert a[:10].tolist() == b[:10].tolist()
    # The observation stays at 0: the second chunk begins at 0 + 1.0, the first one went on at 10 + 0.5.
    assert a[10] == 1.0
    assert b[10] == (10.5 + 1.0) / 2


def test_default_queue_threshold():
    card = Numbered().card  # chunks of 20, of which it executes 8
    assert ChunkingOptions.choose(card, mode="async").queue_threshold == 12
    assert ChunkingOptions.choose(card, mode="rtc", n_action_steps=10).queue_threshold == 5
    assert ChunkingOptions.choose(replace(card, n_action_steps=20), mode="async").queue_threshold == 10
    assert ChunkingOptions.choose(card, mode="sync").queue_threshold == 0


def test_rtc_requests_have_leftover_actions_and_inference_delay():
    policy = Numbered()
    agent = make(policy, mode="rtc", latency_ms=200, queue_threshold=10)  # 6 steps
    play(agent, 100)
    assert policy.requests[0].leftover is None
    for request in policy.requests[1:]:
        step = step_of(request)
        left = request.leftover[:, 0] * 10
        np.testing.assert_allclose(left, np.arange(step, step + 10))
        assert request.inference_delay == 6


def test_the_delay_estimate_drops_a_slow_chunk():
    policy = Numbered()
    agent = make(policy, mode="rtc", latency_ms=[33, 33, 300, *[33] * 100])
    play(agent, 400)
    delays = [request.inference_delay for request in policy.requests[1:]]
    assert 9 in delays
    assert delays[-1] == 1


def test_the_other_modes_ask_for_no_continuation():
    for mode in ("sync", "async"):
        policy = Numbered()
        play(make(policy, mode=mode, latency_ms=100), 100)
        assert all(request.leftover is None and request.inference_delay == 0 for request in policy.requests)


def test_the_arm_first_holds_its_pose():
    agent = make(latency_ms=100)
    agent.reset("count")
    assert agent.act(observe(0.25)).tolist() == [0.25] * 7
    assert agent.act(observe(0.75)).tolist() == [0.25] * 7  # it does not follow its own sagging


def test_border_and_inner_jumps_are_separate():
    agent = make(mode="sync", n_action_steps=5)
    play(agent, 20, advance=False)  # 0 1 2 3 4 0 1 2 3 4 ...
    report = agent.statistics.report()
    assert (report["border_jump_max_rad"], report["inner_jump_max_rad"]) == (4.0, 1.0)
    assert len(agent.statistics.border_jumps) == 3
    assert len(agent.statistics.inner_jumps) == 16


def test_an_endless_episode_uses_bounded_memory(monkeypatch):
    monkeypatch.setattr(statistics_module, "HISTORY_LENGTH", 20)
    agent = make(mode="async", latency_ms=[300, *[33] * 100])
    play(agent, 500)
    statistics = agent.statistics
    assert [len(values) for values in (statistics.delays, statistics.border_jumps, statistics.inner_jumps)] == [20] * 3
    assert (statistics.steps, statistics.chunks > 20) == (500, True)
    assert statistics.report()["max_delay"] == 1  # the first one is forgotten
    assert pickle.loads(pickle.dumps(statistics)) == statistics


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(["sync", "async", "rtc"]),
    latencies=st.lists(st.floats(0, 1500), min_size=1, max_size=5),
    steps=st.integers(1, CHUNK),
    seed=st.integers(0, 99),
)
def test_the_same_seed_gives_the_same_actions(mode, latencies, steps, seed):
    runs = []
    for _ in range(2):
        policy = Numbered()
        agent = make(policy, mode=mode, latency_ms=latencies, n_action_steps=steps)
        runs.append(play(agent, 60, seed=seed))
    np.testing.assert_array_equal(*runs)
    assert np.isfinite(runs[0]).all()


# Options.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_action_steps": 0}, "n_action_steps=0 .* 1 to 20"),
        ({"n_action_steps": 21}, "n_action_steps=21 .* 1 to 20"),
        ({"n_action_steps": 2.0}, "n_action_steps=2.0"),
        ({"n_action_steps": True}, "n_action_steps=True"),
        ({"mode": "sync", "queue_threshold": 3}, "queue_threshold=3 .* mode='sync'"),
        ({"mode": "async", "queue_threshold": 20}, "queue_threshold=20 .* 0 to 19"),
        ({"mode": "rtc", "queue_threshold": -1}, "queue_threshold=-1"),
        ({"mode": "rtc", "aggregate": "average"}, "aggregate='average' .* mode='rtc'"),
        ({"latency_ms": -1}, "latency_ms=-1 .* from 0 on"),
        ({"latency_ms": float("nan")}, "latency_ms=nan"),
        ({"latency_ms": []}, "latency_ms="),
        ({"latency_ms": [1, -2]}, "latency_ms="),
        ({"latency_ms": "fast"}, "latency_ms='fast'"),
        ({"latency_ms": True}, "latency_ms=True"),
        ({"latency_ms": ["1"]}, "latency_ms="),
        ({"latency_ms": np.zeros((2, 2))}, "latency_ms="),
        ({"latency_ms": np.array([1.0, np.inf])}, "latency_ms="),
        ({"latency_ms": np.array([True])}, "latency_ms="),
        ({"timeout_s": 0}, "timeout_s=0"),
        ({"timeout_s": float("inf")}, "timeout_s=inf"),
    ],
)
def test_options_are_checked_at_once(options, message):
    with pytest.raises(OptionError, match=message):
        SmolVLAAgent(Numbered(), **options)


@pytest.mark.parametrize("options", [{"mode": "asinc"}, {"mode": "async", "aggregate": "newest"}, {"mode": None}])
def test_names_are_checked_at_once(options):
    with pytest.raises(UnknownNameError, match="Known: "):
        SmolVLAAgent(Numbered(), **options)


@pytest.mark.parametrize("options", [{"mode": "async"}, {"mode": "rtc"}, {"latency_ms": 100}])
def test_options_that_need_a_clock_are_refused_without(options):
    with pytest.raises(AgentNotAttachedError, match=r"agent\.attach\(env\)"):
        SmolVLAAgent(Numbered(), **options).reset("count")
