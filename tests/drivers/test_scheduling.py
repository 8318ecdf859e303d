"""How soon the system runs a thread."""

import os
import platform
import sys
import threading

import pytest

from smolvla_gym.drivers.scheduling import request_background_scheduling, request_low_latency_scheduling

LINUX = sys.platform == "linux"


def in_a_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_a_prompt_thread_stays_what_it_was_otherwise():
    def look():
        return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.getpriority(
            os.PRIO_PROCESS, threading.get_native_id()
        )

    def be():
        if LINUX:  # a library may have made the threads of this process real-time ones, which have no slices
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        before = look() if LINUX else None
        worked = request_low_latency_scheduling(), request_low_latency_scheduling()
        return worked, before, look() if LINUX else None

    (first, again), before, after = in_a_thread(be)
    assert first == again
    assert before == after
    known = LINUX and platform.machine() in ("x86_64", "aarch64")
    if known and tuple(int(part) for part in platform.release().split(".")[:2]) >= (6, 12):
        assert first
    if not LINUX:
        assert not first


@pytest.mark.skipif(not LINUX, reason="priorities of threads are Linux'")
def test_only_the_thread_that_gives_way_does():
    def niceness():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    assert in_a_thread(lambda: (request_background_scheduling(), niceness())[1]) == max(before, 10)
    assert niceness() == before
