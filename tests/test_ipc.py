"""A worker process: its messages, and the end of each of the two processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from smolvla_gym import errors
from smolvla_gym.ipc import SharedFrame, Worker, WorkerExitedError, WorkerTimeoutError, make_frame_memory, pack_object
from smolvla_gym.ipc.messages import decode_error, encode_error

LIMIT = 20.0

ERRORS = {
    "OptionError": ("device", "gpu", "cpu"),
    "UnknownNameError": ("task", "lft", ("lift",)),
    **{
        name: ("text",)
        for name, kind in vars(errors).items()
        if isinstance(kind, type)
        and issubclass(kind, errors.SmolVLAGymError)
        and name not in ("OptionError", "UnknownNameError", "MissingExtraError")
    },
}


@pytest.fixture(scope="module", autouse=True)
def module_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).with_name("workers")), prepend=os.pathsep)
        yield


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def worker(told):
    worker = Worker("ipc_worker", on_message=told.append)
    yield worker
    worker.close(LIMIT)
    worker.close(LIMIT)
    assert worker.exit_status() == 0


def test_replies_come_to_their_requests_from_all_threads(worker):
    replies = {}

    def ask(number):
        replies[number] = worker.request("echo", timeout=LIMIT, number=number, text="x" * 100_000)["number"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == {number: number for number in range(8)}


def test_progress_comes_before_the_reply_and_other_messages_to_the_callback(worker, told):
    seen = []
    assert worker.request("count", timeout=LIMIT, progress=seen.append) == "done"
    assert seen == [0, 1, 2]
    with pytest.raises(WorkerTimeoutError):
        worker.request("tell", timeout=0.0)
    worker.request("echo", timeout=LIMIT)
    assert told == [{"told": 1}]
    assert worker.silence < LIMIT


def test_objects_travel_in_fields(worker):
    assert worker.request("object", timeout=LIMIT, value=pack_object({1: (2.5, None)})) == "{1: (2.5, None)}"


def test_errors_of_the_worker_are_raised(worker):
    with pytest.raises(errors.OptionError, match="device='gpu'") as caught:
        worker.request("fail", timeout=LIMIT, kind="OptionError", arguments=ERRORS["OptionError"])
    assert caught.value.__notes__ == ["a note"]


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_keep_their_type_and_text(kind):
    error = getattr(errors, kind)(*ERRORS[kind])
    again = decode_error(encode_error(error))
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_an_error_of_another_package_is_a_device_error():
    error = decode_error(encode_error(KeyError("x")))
    assert isinstance(error, errors.DeviceError)
    assert "KeyError" in str(error)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for descriptors in /proc")
def test_a_worker_inherits_only_what_it_is_given():
    size = (2, 3)
    memory = make_frame_memory(size)
    frame = SharedFrame(size, memory)
    with open(os.devnull) as file:
        os.set_inheritable(file.fileno(), True)
        worker = Worker("ipc_worker", descriptors=(memory,))
        descriptors = worker.request("descriptors", timeout=LIMIT)
        worker.close(LIMIT)
    assert memory in descriptors
    assert len(descriptors) <= 6  # three, the pipe to the parent, the memory, and the folder that was listed
    SharedFrame(size, memory).pixels[:] = 7
    os.close(memory)
    assert (frame.pixels == 7).all()


@pytest.mark.skipif(sys.platform == "win32", reason="closes a descriptor as on POSIX")
def test_what_a_worker_prints_is_no_message_where_standard_error_is_closed():
    program = (
        "import os; os.close(2)\n"
        "from smolvla_gym.ipc import Worker\n"
        "worker = Worker('ipc_worker')\n"
        f"print(worker.request('print', timeout={LIMIT}))\n"
        f"worker.close({LIMIT})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=3 * LIMIT)
    assert (done.returncode, done.stdout) == (0, "printed\n")


def test_the_end_of_the_worker_ends_its_requests():
    worker = Worker("ipc_worker")
    worker.request("echo", timeout=LIMIT)
    with pytest.raises(WorkerExitedError) as caught:
        worker.request("die", timeout=LIMIT)
    assert caught.value.status == 3
    with pytest.raises(WorkerExitedError):
        worker.request("echo", timeout=LIMIT)
    assert worker.ended
    worker.close(LIMIT)


def test_a_worker_that_hangs_is_killed():
    worker = Worker("ipc_worker")
    worker.request("echo", timeout=LIMIT)
    with pytest.raises(WorkerTimeoutError):
        worker.request("sleep", timeout=0.1, seconds=60)
    begin = time.monotonic()
    worker.close(0.2)
    assert time.monotonic() - begin < LIMIT
    assert worker.exit_status() == -9 or sys.platform == "win32"


PROGRAM = """
import os, sys, time
from smolvla_gym.ipc import Worker
worker = Worker("ipc_worker")
worker.request("echo", timeout=60)
print(worker.pid, flush=True)
if sys.argv[1] == "exit with":
    try:
        worker.request("exit with", timeout=60)
    except Exception:
        pass
if sys.argv[1] == "fork" and os.fork() == 0:
    time.sleep(60)
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("end", ["kill", "exit with", "fork"])
def test_the_worker_ends_with_its_parent(end):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, end], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as program:
        try:
            pid = int(program.stdout.readline())
            program.wait(LIMIT)
            deadline = time.monotonic() + LIMIT
            stat = Path(f"/proc/{pid}/stat")
            while stat.exists() and " Z " not in stat.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, 9)  # the fork
