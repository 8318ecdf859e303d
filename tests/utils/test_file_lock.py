"""A second program, here another open file, is kept out until the first one ends."""

import contextlib
import subprocess
import sys

import pytest

from smolvla_gym.errors import RecordingError
from smolvla_gym.utils.file_lock import lock_file, lock_folder

pytest.importorskip("fcntl")

HOLDER = """
import sys, time, pathlib
from smolvla_gym.utils.file_lock import lock_folder
with lock_folder(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(("hold", "name"), [(lock_folder, "."), (lock_file, "result.json")])
def test_one_at_a_time(hold, name, tmp_path):
    with hold(tmp_path / name), pytest.raises(RecordingError, match="Another program"), hold(tmp_path / name):
        pass
    with hold(tmp_path / name):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_files_of_a_folder_do_not_exclude_each_other(tmp_path):
    with lock_file(tmp_path / "a"), lock_file(tmp_path / "b"):
        pass


def test_an_exception_releases(tmp_path):
    with contextlib.suppress(ZeroDivisionError), lock_folder(tmp_path), lock_file(tmp_path / "a"):
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
