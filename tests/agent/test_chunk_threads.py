"""Chunk scheduling in real time: the thread that computes, resets, and policies that fail."""

import gc
import itertools
import threading
import time
import weakref

import numpy as np
import pytest

from smolvla_gym.agent.agent_options import AgentNotAttachedError, AgentNotResetError
from smolvla_gym.errors import (
    ActionError,
    InferenceError,
    InferenceTimeoutError,
    PolicyConnectionError,
)
from tests.agent.chunks import Clock, Numbered, failing, make, observe, play, wait_for

# Reset.


@pytest.mark.parametrize("realtime", [False, True])
@pytest.mark.parametrize("mode", ["async", "rtc"])
def test_no_chunk_survives_a_reset(mode, realtime):
    agent = make(mode=mode, latency_ms=150, realtime=realtime)
    for episode in range(4):
        agent.reset("count", seed=episode)
        for step in range(8):
            number = 1000 * (episode + 1) + step
            action = agent.act(observe(number))
            held = action[0] == observe(number)["agent_pos"][0]
            assert held or 1000 * (episode + 1) <= action[0] < 1000 * (episode + 2)
            if realtime:
                time.sleep(0.03)
    agent.close()


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
    for step in range(80):
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


@pytest.mark.alone
@pytest.mark.realtime
def test_a_thread_computes_while_the_queue_plays():
    threads = set()
    policy = Numbered(lambda request: threads.add(threading.current_thread()))
    agent = make(policy, mode="async", realtime=True, hz=100.0, latency_ms=60)
    path = play(agent, 100, period=0.01)[:, 0]
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


@pytest.mark.alone
@pytest.mark.realtime
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
    real = play(agent, 120, period=0.01)
    delays = agent.statistics.delays
    agent.close()
    assert len(set(delays)) > 1
    # A delay of n steps at 100 Hz is any latency above n - 1 of them.
    again = make(mode=mode, hz=100.0, latency_ms=[max(0.0, 10.0 * n - 5.0) for n in delays] + [1e6])
    np.testing.assert_array_equal(play(again, 120), real)
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
    period = 0.01 if realtime else 0.0
    with pytest.raises(kind, match=message):
        play(agent, 100, period=period)
    assert agent.queue_length == 0  # nothing goes on by itself
    assert len(play(agent, 30, period=period)) == 30  # and a new episode works
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


@pytest.mark.parametrize("realtime", [False, pytest.param(True, marks=pytest.mark.realtime)])
def test_a_policy_that_cannot_be_reached_is_asked_again(realtime):
    calls = itertools.count()

    def before(request):
        if 2 <= next(calls) < 5:
            raise PolicyConnectionError("gone")

    agent = make(Numbered(before), mode="async", realtime=realtime, hz=100.0)
    path = play(agent, 100, period=0.01 if realtime else 0.0)[:, 0]
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
    play(agent, 25, period=0.02)
    assert agent.statistics.chunks > 1
    assert threading.main_thread() not in threads
    agent.close()
