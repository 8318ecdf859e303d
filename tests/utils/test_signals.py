"""Signals end a command in order, whenever they come."""

import os
import signal
import subprocess
import sys
import time

import pytest

from smolvla_gym.utils import signals
from smolvla_gym.utils import startup as start

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")

CODES = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated"), signal.SIGHUP: (129, "hung up")}


@pytest.fixture(autouse=True)
def _heeded(monkeypatch):
    """A runner's shell may have them ignored."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in CODES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def heed_signals():
    for number in CODES:
        signal.signal(number, signal.SIG_DFL)


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, *arguments, "-c", code], capture_output=True, text=True, preexec_fn=heed_signals, timeout=60
    )


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("argv", [["-m", "smolvla_gym"], ["/venv/bin/smolvla-gym", "eval"]])
def test_a_command_that_imports_ends_without_a_traceback(number, argv):
    """The signal comes while the package is imported: a module that it needs sends it."""
    code = (
        f"import sys; sys.argv = {argv[:1]!r}; sys.orig_argv = ['python', *{argv!r}]\n"
        f"class Sender:\n"
        f"    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'gymnasium': import _signal; _signal.raise_signal({int(number)})\n"
        f"sys.meta_path.insert(0, Sender())\n"
        f"import smolvla_gym"
    )
    done = run(code)
    assert (done.returncode, done.stderr) == (CODES[number][0], f"smolvla-gym: {CODES[number][1]}\n")


@pytest.mark.parametrize(
    ("argv", "original"),
    [
        ("mine.py", ["python", "mine.py", "-m", "smolvla_gym"]),
        ("-m", ["python", "-m", "mine"]),
        ("-c", ["python", "-c", "import smolvla_gym"]),
        # A worker process: it has the arguments of its program.
        ("/bin/smolvla-gym", ["python", "-c", "spawn_main()", "--multiprocessing-fork"]),
    ],
)
def test_other_programs_keep_their_handlers(monkeypatch, argv, original):
    monkeypatch.setattr(sys, "argv", [argv])
    monkeypatch.setattr(sys, "orig_argv", original)
    start.exit_at_once()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", CODES)
def test_the_first_signal_raises_and_the_second_does_not(number):
    before = signal.getsignal(number)
    with signals.Interruption() as interruption:
        with pytest.raises(signals.Interrupted):
            signal.raise_signal(number)
        signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert interruption.number == number
    assert signal.getsignal(number) is before


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as below nohup
    with signals.Interruption():
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_signal_in_a_destructor_is_not_lost(capsys):
    class Slow:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def work():
        with signals.Interruption():
            slow = Slow()
            del slow  # Python prints and drops what is raised here
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                pass

    with pytest.raises(signals.Interrupted):
        work()
    assert capsys.readouterr().err == ""


def test_workers_do_not_hear_the_terminal():
    with signals.withheld():
        worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    for number in (signal.SIGINT, signal.SIGHUP):
        worker.send_signal(number)
    worker.communicate(b"\n", timeout=30)
    assert worker.returncode == 0
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(CODES)


def test_a_dataset_is_written_to_its_end_when_the_terminal_closes():
    from smolvla_gym.data.transaction import signals_later

    done = []

    def write():
        with signals_later():
            os.kill(os.getpid(), signal.SIGHUP)
            done.append("written")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert done == ["written"]
