"""A second program, here another open file, is kept out until the first one ends."""

import contextlib
import subprocess
import sys

import pytest

from smolvla_gym.errors import RecordingError
from smolvla_gym.utils.file_lock import lock_folder

pytest.importorskip("fcntl")

HOLDER = """
import sys, time, pathlib
from smolvla_gym.utils.file_lock import lock_folder
with lock_folder(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_at_a_time(tmp_path):
    with lock_folder(tmp_path), pytest.raises(RecordingError, match="Another program"), lock_folder(tmp_path):
        pass
    with lock_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_exception_releases(tmp_path):
    with contextlib.suppress(ZeroDivisionError), lock_folder(tmp_path):
        raise ZeroDivisionError
    with lock_folder(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_killed_program_holds_nothing(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RecordingError), lock_folder(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with lock_folder(tmp_path):
        pass


def test_a_folder_that_was_renamed_is_not_held(tmp_path, monkeypatch):
    """As when the other program gives it its final name between opening and locking."""
    folder = tmp_path / "part"
    folder.mkdir()
    import fcntl

    lock = fcntl.flock

    def late(handle, how):
        folder.rename(tmp_path / "done")
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(RecordingError), lock_folder(folder):
        pass
