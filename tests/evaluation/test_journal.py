"""The record of an evaluation, whole or cut off anywhere."""

import contextlib
import os
from collections import deque

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smolvla_gym.agent.chunk_statistics import AgentStatistics
from smolvla_gym.errors import RecordingError
from smolvla_gym.evaluation.conditions import Condition, Outcome
from smolvla_gym.evaluation.journal import EpisodeJournal, digest, read_head
from smolvla_gym.utils.json_file import save_json

CONDITIONS = [Condition("sync", 0.0), Condition("rtc", 100.0, "stack", "swapped", 3)]


def outcome(seed):
    statistics = AgentStatistics(seed, False, 1, 2, 3, 4, 5, deque([1, 2]), deque([0.1, 1 / 3]), deque([2e-17]))
    return Outcome(seed, "dräng den Würfel", seed > 1, 7, statistics, None if seed > 1 else "dropped")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("journal") / "episodes.jsonl"
    with EpisodeJournal(path, {"seed": 0}, 8) as journal:
        for number, (policy, condition, seed) in enumerate(
            (p, c, s) for p in (0, 1) for c in CONDITIONS for s in (1, 2)
        ):
            journal.add(policy, condition, outcome(seed), number * 1.5)
    return journal, path.read_bytes()


def test_what_is_read_is_what_was_written(written, tmp_path):
    journal, content = written
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(content)
    assert read_head(path) == ({"seed": 0}, 8, 8)
    with EpisodeJournal.resume(path) as again:
        assert again.done == journal.done
        assert (again.seconds, again.found) == (10.5, 8)
        assert again.of(1)[CONDITIONS[1]] == [outcome(1), outcome(2)]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_off_anywhere(written, tmp_path, data):
    journal, content = written
    end = data.draw(st.integers(0, len(content)))
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(content[:end])
    lines = content[:end].count(b"\n")
    if lines == 0:
        with pytest.raises(RecordingError):
            EpisodeJournal.resume(path)
        return
    with EpisodeJournal.resume(path) as again:
        assert list(again.done.items()) == list(journal.done.items())[: lines - 1]
        again.add(9, CONDITIONS[0], outcome(3), 99.0)
    with EpisodeJournal.resume(path) as again:
        assert len(again.done) == lines


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1" + "0" * 20])
def test_huge_numbers_are_refused(written, tmp_path, number):
    _, content = written
    path = tmp_path / "episodes.jsonl"
    for old in (b'"seconds": ', b'"episodes": '):
        path.write_bytes(content.replace(old, old + number.encode(), 1))
        with pytest.raises(RecordingError):
            EpisodeJournal.resume(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"failure": "dropped"', '"failure": ["dropped"]'),
        ('"failure": "dropped"', '"failure": {}'),
        ('"failure": "dropped"', r'"failure": "\u001b[31m"'),
        ('"failure": "dropped"', r'"failure": "\ud800"'),
        ('"instruction": "dräng den Würfel"', '"instruction": 5'),
        ('"instruction": "dräng den Würfel"', r'"instruction": "\u001b[31m"'),
        ('"steps": 7', '"steps": 1' + "0" * 400),
        ('"border_jumps": [0.1', '"border_jumps": [true'),
    ],
)
def test_texts_that_a_terminal_would_obey_and_other_types_are_refused(written, tmp_path, old, new):
    content = written[1].decode()
    assert old in content
    path = tmp_path / "episodes.jsonl"
    path.write_text(content.replace(old, new, 1))
    with pytest.raises(RecordingError):
        EpisodeJournal.resume(path)


def test_a_digest_of_files_whose_names_are_no_unicode(tmp_path):
    with contextlib.suppress(OSError):  # a file system that refuses such names
        (tmp_path / os.fsdecode(b"a\xff")).write_bytes(b"1")
    assert digest(str(tmp_path)) is not None


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), new=st.sampled_from([b"-", b'"', b"{", b"[", b"9", b"null", b"\xff", b"true", b"\n"]))
def test_whatever_stands_there_is_read_or_refused(written, tmp_path, place, new):
    _, content = written
    at = int(place * len(content))
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(content[:at] + new + content[at + 1 :])
    with contextlib.suppress(RecordingError), EpisodeJournal.resume(path):
        pass


def test_nothing_is_written_through_links(written, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(written[1] + b"cut off")
    link = tmp_path / "episodes.jsonl"
    link.symlink_to(other)
    with pytest.raises(RecordingError):
        EpisodeJournal.resume(link)
    with EpisodeJournal(link, {}, 1) as journal, pytest.raises(RecordingError):
        journal.add(0, CONDITIONS[0], outcome(1), 0.0)
    (tmp_path / "eval.json.part").symlink_to(other)
    save_json(tmp_path / "eval.json", {}, "result")
    assert other.read_bytes() == written[1] + b"cut off"
    assert not (tmp_path / "eval.json").is_symlink()
