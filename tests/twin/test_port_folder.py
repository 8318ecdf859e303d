"""Nothing piles up among the temporary files, whatever becomes of a twin."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from smolvla_gym.twin.faults import Faults
from smolvla_gym.twin.firmware import Firmware
from smolvla_gym.twin.port_folder import PREFIX, PortFolder
from smolvla_gym.twin.virtual_board import VirtualBoard

PROGRAM = """
import time
import numpy as np
from smolvla_gym.twin.virtual_board import VirtualBoard
from smolvla_gym.twin.faults import Faults
from smolvla_gym.twin.firmware import Firmware

board = VirtualBoard(Firmware(np.zeros(6)), Faults(), lambda moment: None)
print(board.path, flush=True)
time.sleep(600.0)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture
def start(temporary):
    """Starts a twin in a process of its own; returns that and its folder."""
    started = []

    def begin():
        process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, Path(process.stdout.readline().strip()).parent

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def board() -> VirtualBoard:
    return VirtualBoard(Firmware(np.zeros(6)), Faults(), lambda moment: None)


def test_a_twin_removes_what_one_that_was_killed_left_and_nothing_else(start, temporary):
    killed, left = start()
    _, kept = start()
    mine = temporary / (PREFIX + "notes")
    mine.mkdir()
    (mine / "diary.txt").write_text("of a person")
    link = temporary / (PREFIX + "link")
    link.symlink_to(mine)
    killed.kill()
    killed.wait()
    assert (left / "ttyPAROL6").is_symlink()
    with board() as first, board() as second:
        assert not left.exists()
        assert (kept / "ttyPAROL6").is_symlink()
        first.unplug()  # without a port it still lives
        with board():
            assert Path(first.path).parent.is_dir()
            assert Path(second.path).is_symlink()
    assert (mine / "diary.txt").is_file()
    assert {path for path in temporary.iterdir() if path.name.startswith(PREFIX)} == {kept, mine, link}


def test_twins_that_begin_at_once_leave_each_other_alone(temporary):
    """A folder is swept between being made and being locked: another one is made."""
    true, swept = tempfile.mkdtemp, []

    def make(**options):
        path = Path(true(**options))
        if not swept:
            swept.append(path)
            PortFolder().close()  # of another twin, which begins just now
        return str(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", make)
        folder = PortFolder()
    assert not swept[0].exists()
    assert folder.link.parent.is_dir()
    folder.close()
    folder.close()
    assert not list(temporary.iterdir())
