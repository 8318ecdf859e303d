"""Chunk scheduling; the number of an action is the control step that it is for."""

import gc
import itertools
import pickle
import threading
import time
import weakref
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolvla_gym.agent import chunk_statistics as statistics_module
from smolvla_gym.agent.agent_options import AgentNotAttachedError, AgentNotResetError
from smolvla_gym.agent.chunk_scheduler import ChunkingOptions
from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy, PolicyCard
from smolvla_gym.agent.smolvla_agent import SmolVLAAgent
from smolvla_gym.errors import (
    ActionError,
    InferenceError,
    InferenceTimeoutError,
    OptionError,
    PolicyConnectionError,
    UnknownNameError,
)

pytestmark = pytest.mark.realtime

CHUNK = 20


class Numbered(ChunkPolicy):
    """Action i of a chunk is the number of the step it is for; the observation tells the step.

    What it is asked is kept. ``before`` is called with each request and may sleep or raise.
    """

    def __init__(self, before=lambda request: None):
        self.requests, self.before = [], before

    @property
    def card(self):
        return PolicyCard("numbered", {"wrist": (16, 16)}, {"wrist": "wrist"}, CHUNK, 8, 5, 32, "cpu")

    def infer(self, request):
        self.requests.append(request)
        self.before(request)
        first = step_of(request)
        actions = np.repeat(np.arange(first, first + CHUNK, dtype=np.float32)[:, None], 7, axis=1)
        # The noise shows which draw a chunk was made of.
        actions[:, 1] = request.noise[0, 0]
        return Chunk(actions, actions / 10)


class Clock(gym.Env):
    """An env of which only the clock and the spaces matter."""

    observation_space = gym.spaces.Dict({
        "pixels": gym.spaces.Dict({"wrist": gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)}),
        "agent_pos": gym.spaces.Box(-10, 10, (7,), np.float32),
    })  # fmt: skip
    action_space = gym.spaces.Box(-10, 10, (7,), np.float32)

    def __init__(self, realtime=False, hz=30.0):
        self.metadata = {"render_fps": hz, "realtime": realtime}


def observe(step):
    """The image tells the step: no arm has joints at 100 rad."""
    image = np.zeros((16, 16, 3), np.uint8)
    image.reshape(-1)[:4] = np.frombuffer(np.float32(step).tobytes(), np.uint8)
    state = np.full(7, min(step, 1.0), np.float32)
    state[0] = step if step < 6 else 1.0
    return {"pixels": {"wrist": image}, "agent_pos": state}


def step_of(request):
    return float(request.observation["pixels"]["wrist"].reshape(-1)[:4].copy().view(np.float32)[0])


def make(policy=None, *, realtime=False, hz=30.0, **options):
    agent = SmolVLAAgent(policy or Numbered(), **options)
    agent.attach(Clock(realtime, hz))
    return agent


def play(agent, steps, period=0.0, seed=1, advance=True):
    """Runs an arm that is where its actions put it, and returns those; a held step repeats the last one."""
    agent.reset("count", seed=seed)
    actions, at = [], 0.0
    for _ in range(steps):
        began = time.monotonic()
        action = agent.act(observe(at))
        actions.append(action)
        at = float(action[0]) + 1 if advance and (len(actions) < 2 or action[0] != actions[-2][0]) else at
        time.sleep(max(0.0, began + period - time.monotonic()))
    return np.array(actions)


# Simulated time.


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


# Reset.


@pytest.mark.parametrize("realtime", [False, True])
@pytest.mark.parametrize("mode", ["async", "rtc"])
def test_no_chunk_survives_a_reset(mode, realtime):
    agent = make(mode=mode, latency_ms=150, realtime=realtime)
    for episode in range(5):
        agent.reset("count", seed=episode)
        for step in range(8):
            number = 1000 * (episode + 1) + step
            action = agent.act(observe(number))
            held = action[0] == observe(number)["agent_pos"][0]
            assert held or 1000 * (episode + 1) <= action[0] < 1000 * (episode + 2)
            if realtime:
                time.sleep(0.03)
    agent.close()


def wait_for(true):
    deadline = time.monotonic() + 10.0
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_dropped_request_is_not_computed(mode):
    release, seen = threading.Event(), []

    def before(request):
        seen.append(request.instruction)
        if request.instruction == "first":
            release.wait()

    agent = make(Numbered(before), mode=mode, realtime=True, hz=100.0, timeout_s=0.3)
    for instruction in ("first", "second", "third"):
        agent.reset(instruction)
        if mode == "sync":
            with pytest.raises(InferenceTimeoutError):
                agent.act(observe(0))
        else:
            agent.act(observe(0))
        wait_for(lambda: "first" in seen)
    agent.reset("fourth")
    threading.Timer(0.05, release.set).start()
    agent.act(observe(0))
    wait_for(lambda: "fourth" in seen)
    assert seen == ["warm up", "first", "fourth"]
    agent.close()


def test_the_rest_of_an_old_chunk_is_no_delay_of_the_next_one():
    release, policy = threading.Event(), Numbered()
    agent = make(policy, mode="rtc", realtime=True, hz=50.0)
    policy.before = lambda request: release.wait() if request.instruction == "old" else None
    agent.reset("old")
    agent.act(observe(0))
    wait_for(lambda: policy.requests[-1].instruction == "old")
    agent.reset("new")
    for step in range(100):
        if step == 30:
            release.set()
        agent.act(observe(step))
        time.sleep(0.02)
    assert agent.statistics.delays[0] >= 30
    guided = [request for request in policy.requests if request.leftover is not None]
    assert len(guided) > 3
    assert all(request.inference_delay < len(request.leftover) for request in guided)
    agent.close()


# Real time.


def test_a_thread_computes_while_the_queue_plays():
    threads = set()
    policy = Numbered(lambda request: threads.add(threading.current_thread()))
    agent = make(policy, mode="async", realtime=True, hz=100.0, latency_ms=60)
    path = play(agent, 200, period=0.01)[:, 0]
    assert set(np.diff(path)) <= {0.0, 1.0}
    assert agent.statistics.stalled_steps == 0
    assert threading.main_thread() not in threads
    assert len(threads) == 1
    agent.close()


def test_the_first_chunk_is_not_part_of_an_episode():
    policy = Numbered()
    agent = make(policy, mode="async", realtime=True)
    assert len(policy.requests) == 1  # attach() has computed one for nothing
    play(agent, 3, period=0.01)
    assert policy.requests[1].instruction == "count"
    agent.close()


def test_sync_waits_for_its_chunk():
    agent = make(mode="sync", realtime=True, latency_ms=50)
    path = play(agent, 17)[:, 0]
    assert path.tolist() == list(range(17))
    assert (agent.statistics.waited_steps, agent.statistics.stalled_steps) == (0, 0)
    agent.close()


@pytest.mark.parametrize("mode", ["async", "rtc"])
def test_a_trace_of_real_time_replays_in_lockstep(mode):
    """The same code puts chunks together: with the delays that came about, the same actions."""
    pauses = itertools.cycle([0.0, 0.013, 0.04, 0.002, 0.07])
    policy = Numbered(lambda request: time.sleep(next(pauses)))
    agent = make(policy, mode=mode, realtime=True, hz=100.0)
    real = play(agent, 250, period=0.01)
    delays = agent.statistics.delays
    agent.close()
    assert len(set(delays)) > 1
    # A delay of n steps at 100 Hz is any latency above n - 1 of them.
    again = make(mode=mode, hz=100.0, latency_ms=[max(0.0, 10.0 * n - 5.0) for n in delays] + [1e6])
    np.testing.assert_array_equal(play(again, 250), real)
    assert again.statistics.report() == agent.statistics.report()


def test_threads_and_pictures_do_not_pile_up():
    before = threading.active_count()
    for _ in range(20):
        agent = make(mode="async", realtime=True)
        play(agent, 3)
        agent.close()
    agents = [make(mode="async", realtime=True) for _ in range(5)]  # forgotten, not closed
    del agents, agent
    gc.collect()
    deadline = time.monotonic() + 5.0
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_an_idle_thread_keeps_no_pictures():
    policy = Numbered()
    agent = make(policy, mode="sync", realtime=True)
    image = np.zeros((16, 16, 3), np.uint8)
    forgotten = weakref.ref(image)
    agent.reset("count")
    agent.act({**observe(0), "pixels": {"wrist": image}})
    policy.requests.clear()
    del image
    wait_for(lambda: forgotten() is None)
    agent.close()


# What goes wrong.


def failing(error, after=1):
    calls = itertools.count()

    def before(request):
        if next(calls) == after:
            raise error

    return Numbered(before)


@pytest.mark.parametrize("realtime", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (RuntimeError("out of memory"), InferenceError, "RuntimeError: out of memory"),
        (ActionError("not finite"), ActionError, "not finite"),
    ],
)
def test_errors_of_the_policy_are_raised(realtime, error, kind, message):
    agent = make(failing(error, after=2 if realtime else 1), mode="async", realtime=realtime, hz=100.0)
    with pytest.raises(kind, match=message):
        play(agent, 100, period=0.01)
    assert agent.queue_length == 0  # nothing goes on by itself
    assert len(play(agent, 30, period=0.01)) == 30  # and a new episode works
    agent.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_policy_that_hangs_is_an_error(mode):
    release, calls = threading.Event(), itertools.count()
    policy = Numbered(lambda request: release.wait() if next(calls) == 1 else None)
    agent = make(policy, mode=mode, realtime=True, hz=100.0, timeout_s=0.3)
    agent.reset("count")
    held = []

    def hold():
        while True:
            held.append(agent.act(observe(5))[0])
            time.sleep(0.01)

    with pytest.raises(InferenceTimeoutError, match=r"no chunk within 0\.3 s"):
        hold()
    assert set(held) <= {5}
    assert len(held) > 5 or mode == "sync"
    release.set()
    assert len(play(agent, 10, period=0.01)) == 10
    agent.close()


@pytest.mark.parametrize("realtime", [False, True])
def test_a_policy_that_cannot_be_reached_is_asked_again(realtime):
    calls = itertools.count()

    def before(request):
        if 2 <= next(calls) < 5:
            raise PolicyConnectionError("gone")

    agent = make(Numbered(before), mode="async", realtime=realtime, hz=100.0)
    path = play(agent, 100, period=0.01)[:, 0]
    assert agent.statistics.retries == 3
    assert set(np.diff(path)) <= {0.0, 1.0}
    assert path[-1] > 80
    agent.close()


def test_one_that_stays_away_is_an_error():
    def before(request):
        time.sleep(0.02)
        raise PolicyConnectionError("gone")

    agent = make(Numbered(before), mode="async", timeout_s=0.2)
    with pytest.raises(PolicyConnectionError, match="gone"):
        play(agent, 1000)


@pytest.mark.parametrize(
    ("error", "kind"), [(RuntimeError("gone"), InferenceError), (PolicyConnectionError("gone"), PolicyConnectionError)]
)
def test_a_first_chunk_that_fails_leaves_no_clock(error, kind):
    fails, threads = [], []

    def before(request):
        threads.append(threading.current_thread())
        if fails:
            raise fails.pop()

    agent = make(Numbered(before), mode="async", realtime=True, hz=100.0)
    agent.reset("count")
    running, slower = threading.active_count(), Clock(realtime=True, hz=50.0)
    fails.append(error)
    with pytest.raises(kind, match="gone"):
        agent.attach(slower)
    assert threading.active_count() == running - 1
    with pytest.raises(AgentNotResetError):
        agent.act(observe(0))
    with pytest.raises(AgentNotAttachedError):
        agent.reset("count")
    agent.attach(slower)
    threads.clear()
    play(agent, 50, period=0.02)
    assert agent.statistics.chunks > 1
    assert threading.main_thread() not in threads
    agent.close()


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
