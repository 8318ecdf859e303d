"""OpenGL calls come from one thread, whichever thread asks for an image."""

import os
import signal
import threading

import pytest

from smolvla_gym.errors import RenderingError
from smolvla_gym.sim.render_thread import RenderThread


@pytest.fixture
def thread():
    thread = RenderThread()
    yield thread
    thread.end()


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


def test_an_error_is_raised_where_the_function_was_asked_for(thread):
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 // 0)
    assert thread.call(lambda: "goes on") == "goes on"


def test_it_ends_and_starts_again(thread):
    before = threading.active_count()
    thread.call(int)
    assert threading.active_count() == before + 1
    thread.end()
    thread.end()
    assert threading.active_count() == before
    assert thread.call(lambda: 3) == 3


def test_a_forgotten_one_ends():
    before = threading.active_count()
    RenderThread().call(int)
    assert threading.active_count() == before


def test_a_function_may_ask_for_another_and_end_the_thread(thread):
    assert thread.call(lambda: thread.call(lambda: 1)) == 1
    thread.call(thread.end)
    assert thread.call(lambda: 2) == 2


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
            thread.end()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
