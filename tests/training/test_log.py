"""Log of a training run: resumed, interrupted, and on a full disk."""

import json

import pytest

pytest.importorskip("matplotlib")

from smolvla_gym.training.training_log import TrainingLog
from tests.training.full_disk import full_disk


def rows(folder):
    return [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]


def test_a_resumed_run_replaces_later_rows(tmp_path):
    log = TrainingLog(tmp_path)
    for step in (10, 20, 30):
        log.loss(step, 1 / step)
    log.success(20, "lift", 3, 20)
    again = TrainingLog(tmp_path)
    again.loss(20, 0.5)
    assert rows(tmp_path) == again.rows == [
        {"step": 10, "loss": 0.1},
        {"step": 20, "task": "lift", "successes": 3, "episodes": 20},
        {"step": 20, "loss": 0.5},
    ]  # fmt: skip
    assert again.plot().stat().st_size > 5000


def test_half_a_line_is_ignored(tmp_path):
    TrainingLog(tmp_path).loss(10, 0.1)
    with (tmp_path / "training.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    log = TrainingLog(tmp_path)
    log.loss(30, 0.3)
    assert [row["step"] for row in rows(tmp_path)] == [10, 30]


def test_a_full_disk_ends_no_training_and_spoils_no_line(tmp_path, capsys):
    log = TrainingLog(tmp_path)
    for step in range(20):
        log.loss(step, 0.1)
    with full_disk(30):
        log.loss(20, 0.1)
        log.loss(21, 0.1)
        log.plot()
    assert capsys.readouterr().err.count("could not be written") == 1
    assert [row["step"] for row in rows(tmp_path)] == list(range(20))
    assert not list(tmp_path.glob("*.part"))
    log.loss(22, 0.1)
    assert [row["step"] for row in rows(tmp_path)] == list(range(23))  # what was kept in memory meanwhile is there, too


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"step": "x", "loss": 1.0}',
        '{"step": 1, "loss": "x"}',
        '{"step": 1' + "0" * 400 + ', "loss": 1.0}',
        '{"step": 1, "task": ["lift"], "successes": 1, "episodes": 2}',
        '{"step": 1, "task": "lift", "successes": 1, "episodes": 0}',
        '{"step": 1, "task": "lift", "successes": 3, "episodes": 2}',
        '{"step": 1, "task": "lift"}',
    ],
)
def test_other_lines_are_ignored(tmp_path, line):
    (tmp_path / "training.jsonl").write_text(line + '\n{"step": 1, "loss": 0.5}\n')
    log = TrainingLog(tmp_path)
    log.loss(2, 0.25)
    assert log.rows == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("precious")
    for name in ("training.jsonl.part", "training.png.part"):
        (tmp_path / name).symlink_to(tmp_path / "mine")
    log = TrainingLog(tmp_path)
    log.loss(1, 0.5)
    log.plot()
    assert (tmp_path / "mine").read_text() == "precious"
