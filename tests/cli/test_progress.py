"""Progress where standard error is no terminal."""

import io
import re
import sys
import time

from smolvla_gym.cli import progress
from smolvla_gym.cli.progress import EVERY_S, progress_bar


def test_lines_come_by_the_clock_also_where_nothing_changes(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY_S", 0.02)
    with progress_bar("episode", 10, 3) as show:
        time.sleep(0.2)
        show(4, "succeeded [1]")
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "smolvla-gym: episode 3 of 10  (0:00)"
    assert lines[-1] == "smolvla-gym: episode 4 of 10  succeeded [1]  (0:00)"
    assert len(lines) >= 4
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_the_interval_is_what_users_are_promised():
    assert EVERY_S <= 30.0


def test_a_closed_standard_error_ends_nothing(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    with progress.steady_lines(lambda: "on"):
        monkeypatch.setattr(sys, "stderr", closed)
        time.sleep(0.05)


def test_the_rest_is_estimated_from_the_second_report_on(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY_S", 0.02)
    with progress_bar("episode", 1000) as show:
        time.sleep(0.1)  # loading does not come again
        show(1, "")
        time.sleep(0.1)
        assert "left" not in capsys.readouterr().err
        show(11, "")
        time.sleep(0.1)
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"smolvla-gym: episode 11 of 1000  about \d+ (s|min) left  \(0:0\d\)", last)


def test_a_silent_wait_says_what_is_done_within_two_seconds(monkeypatch, capsys):
    monkeypatch.undo()
    assert progress.FIRST_S < 2.0
    monkeypatch.setattr(progress, "FIRST_S", 0.01)
    with progress.steady_lines(lambda: "loading policy"):
        time.sleep(0.2)
    assert capsys.readouterr().err == "smolvla-gym: loading policy  (0:00)\n"
