"""OpenGL calls come from one thread, whichever thread asks for an image."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from smolvla_gym.errors import RenderingError
from smolvla_gym.sim.render_thread import render_thread


@pytest.fixture
def thread():
    return render_thread()


def test_all_functions_run_in_one_other_thread(thread):
    mine = threading.get_ident()
    seen = {thread.call(threading.get_ident)}
    callers = [threading.Thread(target=lambda: seen.add(thread.call(threading.get_ident))) for _ in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(seen) == 1
    assert mine not in seen


BEGINNERS = """
import sys, threading
from smolvla_gym.sim.render_thread import RenderThread
sys.setswitchinterval(1e-6)
failed = []
def call(thread, barrier):
    barrier.wait()
    try:
        thread.call(int)
    except Exception as error:
        failed.append(error)
for _ in range(300):
    thread, barrier = RenderThread(), threading.Barrier(3)
    callers = [threading.Thread(target=call, args=(thread, barrier)) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
print(len(failed), threading.active_count())
"""


def test_the_first_callers_may_come_at_once():
    result = subprocess.run([sys.executable, "-c", BEGINNERS], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == ["0", "301"]


def test_an_error_is_raised_where_the_function_was_asked_for(thread):
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 // 0)
    assert thread.call(lambda: "goes on") == "goes on"


def test_a_process_has_one(thread):
    thread.call(int)
    before = threading.active_count()
    assert render_thread() is thread
    assert render_thread().call(lambda: 3) == 3
    assert threading.active_count() == before


def test_a_function_may_ask_for_another(thread):
    assert thread.call(lambda: thread.call(lambda: 1)) == 1


def test_what_the_garbage_collector_frees_in_the_middle_of_a_function_waits_for_its_end(thread):
    order = []

    def draw():
        order.append("begin")
        thread.clean_up(lambda: order.append("freed"))
        order.append("end")

    thread.call(draw)
    thread.clean_up(lambda: order.append("freed at once"))
    assert order == ["begin", "end", "freed", "freed at once"]


def test_ctrl_c_waits_for_the_function(thread):
    """What is drawn must not change while it is drawn."""
    begun, end, ended = threading.Event(), threading.Event(), []

    def draw():
        begun.set()
        end.wait(5.0)
        ended.append(True)

    def interrupt():
        begun.wait(5.0)
        os.kill(os.getpid(), signal.SIGINT)
        threading.Timer(0.05, end.set).start()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        thread.call(draw)
    assert ended
    assert thread.call(lambda: 4) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_is_refused_at_once(thread):
    thread.call(int)
    child = os.fork()
    if child == 0:
        try:
            thread.call(int)
        except RenderingError:
            thread.clean_up(lambda: os._exit(2))  # what it would free is the parent's
            os._exit(7 + render_thread().call(int))  # for what is made in this process
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


_INTERRUPTED = """
import random, signal, time
from smolvla_gym.sim.render_thread import render_thread

def interrupt(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
thread, random, interrupted = render_thread(), random.Random(0), 0
thread.call(int)
for _ in range(1500):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 4e-4))
        thread.call(lambda: time.sleep(1e-4))
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(interrupted, thread.call(lambda: "goes on"))
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_a_signal_at_any_moment_leaves_no_caller_waiting():
    """A signal between a function's end and its return once made the caller wait for a second result."""
    done = subprocess.run([sys.executable, "-c", _INTERRUPTED], capture_output=True, text=True, timeout=60, check=True)
    interrupted, *goes_on = done.stdout.split()
    assert int(interrupted) > 100
    assert goes_on == ["goes", "on"]
