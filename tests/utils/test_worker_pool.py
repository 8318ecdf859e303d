"""Processes that share work, and what becomes of them."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import as_completed

import pytest

from smolvla_gym.errors import SmolVLAGymError
from smolvla_gym.utils.worker_pool import process_pool


def die(number):
    os.kill(os.getpid(), signal.SIGKILL if number == 1 else 0)
    return number


def say_pid_and_sleep(folder):
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def let_one_die():
    with process_pool(2) as pool:
        for future in as_completed([pool.submit(die, number) for number in range(4)]):
            future.result()


def test_a_process_that_is_killed_is_noticed():
    """As one is where the memory is full; multiprocessing.Pool would wait for its result for ever."""
    with pytest.raises(SmolVLAGymError, match="One of 2 processes was killed"):
        let_one_die()


def interrupt(folder):
    with process_pool(1) as pool:
        pool.submit(say_pid_and_sleep, folder)
        while not (pids := [int(path.name) for path in folder.iterdir()]):
            time.sleep(0.05)
        os.kill(pids[0], signal.SIGINT)  # of a terminal, which all of them get
        time.sleep(0.3)
        assert is_alive(pids[0])
        raise KeyboardInterrupt


def test_an_interruption_ends_them_at_once(tmp_path):
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupt(tmp_path)
    assert not is_alive(int(next(tmp_path.iterdir()).name))
    assert time.monotonic() - began < 40


def start_workers_and_die(folder):
    with process_pool(2) as pool:
        for _ in range(8):
            pool.submit(say_pid_and_sleep, folder)
        wait_for_pids(folder)
        os.kill(os.getpid(), signal.SIGKILL)


def wait_for_pids(folder):
    deadline = time.monotonic() + 60
    while len(pids := [int(path.name) for path in folder.iterdir()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return pids


def test_they_end_with_the_process_that_started_them(tmp_path):
    """Otherwise they would compute what is queued, and then wait for more for ever."""
    parent = multiprocessing.get_context("spawn").Process(target=start_workers_and_die, args=(tmp_path,))
    parent.start()
    pids = wait_for_pids(tmp_path)
    parent.join(60)
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))
