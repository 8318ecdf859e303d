"""The log file of the events."""

from __future__ import annotations

import json

from smolvla_gym.drivers.board.event_log import EventLog, default_log_path


def test_a_log_that_cannot_be_written_is_reported_once(tmp_path, capsys):
    (tmp_path / "file").touch()
    log = EventLog(tmp_path / "file" / "log.jsonl")
    log.write({"time": 0.0, "rule": "fault"})
    log.close()
    folder = tmp_path / "log.jsonl"
    folder.mkdir()
    log = EventLog(folder)
    for k in range(3):
        log.write({"time": float(k), "rule": "fault"})
    log.close()
    assert capsys.readouterr().err.count("cannot be written") == 2


def test_the_log_does_not_repeat_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = default_log_path()
    assert path.is_relative_to(tmp_path)
    log = EventLog(path)
    for k in range(150):
        log.write({"time": k / 100, "rule": "position", "where": "joint_1", "why": "clamped"})
        log.write({"time": k / 100, "event": "shaping", "limits": {"speed": 1}})
    for _ in range(2):
        log.write({"time": 1.5, "rule": "fault", "where": "arm", "why": "estop"})
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all("T" in line["at"] for line in lines)
    assert [line.get("rule", line.get("event")) for line in lines] == [*["position", "shaping"] * 2, *["fault"] * 2]
    assert [line["not_written_before"] for line in lines[2:4]] == [99, 99]
