"""Journal of the episodes of an evaluation, with which an interrupted evaluation is resumed."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

from smolvla_gym.agent.chunk_statistics import AgentStatistics
from smolvla_gym.errors import RecordingError
from smolvla_gym.evaluation.conditions import Condition, Outcome
from smolvla_gym.utils.option_values import is_control_character
from smolvla_gym.utils.untrusted import parse_json, printable, read_file

JOURNAL_NAME: Final = "episodes.jsonl"

_MAX_BYTES: Final = 1 << 30
_MAX_NUMBER: Final = 2**53
_FORMAT: Final = 1
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
"""Flag that refuses symbolic links: in a folder that others can write to a link may lead to another file."""

Key = tuple[int, Condition, int]
"""Number of the policy, condition and seed of an episode."""


class EpisodeJournal:
    """Append-only file of lines of JSON: the options first, then one line an episode; a context manager.

    A line counts once its end is on the disk; an incomplete one is dropped when the evaluation is resumed.

    Attributes:
        done: Outcomes in the file, by policy, condition and seed.
        found: Number of outcomes in the file when it was opened.
        seconds: Duration of the evaluation until the latest outcome, in s.
    """

    def __init__(self, path: Path, options: Mapping[str, Any], total: int) -> None:
        """Create a journal whose file is written with the first episode; it replaces an older one.

        Args:
            path: The file.
            options: Options that decide about the results, as JSON values.
            total: Number of episodes of the whole evaluation.
        """
        self.path = path
        self.done: dict[Key, Outcome] = {}
        self.found = 0
        self.seconds: float = 0.0
        self._head = {"format": _FORMAT, "episodes": total, "options": dict(options)}
        self._handle = -1

    @classmethod
    def resume(cls, path: Path) -> Self:
        """Open a file to resume its evaluation.

        Raises:
            RecordingError: It is missing, broken, or cannot be written.
        """
        head, episodes, length = _read(path)
        journal = cls(path, head["options"], head["episodes"])
        for entry, outcome in episodes:
            journal.done[entry["policy"], Condition.from_dict(entry["condition"]), outcome.seed] = outcome
            journal.seconds = max(journal.seconds, float(entry["seconds"]))
        journal.found = len(journal.done)
        try:
            journal._handle = os.open(path, os.O_WRONLY | os.O_APPEND | _NO_LINK)
            os.ftruncate(journal._handle, length)
        except OSError as error:
            raise journal._failure(error) from error
        return journal

    def of(self, policy: int) -> dict[Condition, list[Outcome]]:
        """Return the episodes of a policy by their condition."""
        episodes: dict[Condition, list[Outcome]] = {}
        for (number, condition, _), outcome in self.done.items():
            if number == policy:
                episodes.setdefault(condition, []).append(outcome)
        return episodes

    def add(self, policy: int, condition: Condition, outcome: Outcome, seconds: float) -> None:
        """Add an episode. After this returns the episode survives a crash and a power loss.

        Args:
            policy: Number of the policy.
            condition: Its condition.
            outcome: Its outcome.
            seconds: Duration of the evaluation until now, in s.

        Raises:
            RecordingError: It cannot be written; those before are kept.
        """
        if self._handle < 0:
            try:
                self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | _NO_LINK, 0o666)
            except OSError as error:
                raise self._failure(error) from error
            self._write(self._head)
        entry = {"policy": policy, "condition": condition.to_dict(), "seconds": round(seconds, 3)}
        self._write({**entry, "outcome": asdict(outcome)})
        self.done[policy, condition, outcome.seed] = outcome

    def _write(self, entry: Mapping[str, Any]) -> None:
        line = (json.dumps(entry, ensure_ascii=False, default=list) + "\n").encode()
        try:
            while line:
                line = line[os.write(self._handle, line) :]
            os.fsync(self._handle)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> RecordingError:
        return RecordingError(f"{self.path} could not be written: {error.strerror or error}.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1


def read_head(path: Path) -> tuple[dict[str, Any], int, int]:
    """Return the options of an evaluation, its number of episodes so far, and that of the whole evaluation.

    Raises:
        RecordingError: The file is missing or broken.
    """
    head, episodes, _ = _read(path)
    return head["options"], len(episodes), head["episodes"]


def digest(policy: str) -> str | None:
    """Return a digest of the files of a policy that is a folder on this machine; None for one on the hub."""
    from smolvla_gym.agent.checkpoint.hub import BUNDLED, bundled_checkpoint

    folder = bundled_checkpoint() if policy == BUNDLED else Path(policy).expanduser()
    if not folder.is_dir():
        return None
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            name, content = os.fsencode(path.relative_to(folder)), hashlib.file_digest(file, "sha256").hexdigest()
        total.update(name + f" {content}\n".encode())
    return total.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], list[tuple[dict[str, Any], Outcome]], int]:
    """Return the head, the episodes, and the length in bytes of the complete lines."""
    try:
        content = read_file(path, _MAX_BYTES)
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        head = parse_json(lines[0]) if lines else {}
        if not isinstance(head, dict) or head.get("format") != _FORMAT or not isinstance(head.get("options"), dict):
            raise ValueError(f"its first line is not that of an evaluation in format {_FORMAT}")
        if type(head["episodes"]) is not int or not 0 < head["episodes"] <= _MAX_NUMBER:
            raise ValueError(f"its number of episodes is {head['episodes']!r:.50}")
        return head, [_entry(parse_json(line)) for line in lines[1:]], len(whole)
    except OSError as error:
        raise RecordingError(f"There is no evaluation to resume in {path.parent}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RecordingError(
            f"{path} cannot be resumed ({printable(error, 200)}). Remove it, or choose another folder."
        ) from error


def _entry(entry: Any) -> tuple[dict[str, Any], Outcome]:
    outcome = dict(entry["outcome"])
    condition = Condition.from_dict(entry["condition"])
    statistics: dict[str, Any] = dict(outcome["statistics"])
    statistics |= {name: deque(statistics[name], maxlen=length) for name, length in _lengths.items()}
    outcome["statistics"] = AgentStatistics(**statistics)
    episode = Outcome(**outcome)
    for value, kind in ((entry["policy"], int), (episode.seed, int), (episode.steps, int), (episode.success, bool)):
        if not isinstance(value, kind):
            raise ValueError(f"{value!r:.50} is no {kind.__name__}")
    listed = [x for v in statistics.values() if isinstance(v, deque) for x in v]
    single = [v for v in statistics.values() if not isinstance(v, deque)]
    numbers = (*listed, *single, entry["seconds"], episode.steps)
    if not all(isinstance(value, int | float) and abs(value) <= _MAX_NUMBER for value in numbers):
        raise ValueError("a value of an episode is no number, or huge")
    if any(isinstance(value, bool) for value in listed):
        raise ValueError("a truth value stands among the statistics")
    for text in (episode.instruction, "" if episode.failure is None else episode.failure):  # both are printed
        if not isinstance(text, str) or any(map(is_control_character, text)):
            raise ValueError(f"{text!r:.50} is no line of text")
    hash(condition)
    return entry, episode


_lengths: Final = {name: value.maxlen for name, value in vars(AgentStatistics()).items() if isinstance(value, deque)}
"""Maximum length of each list of the statistics, by its name."""
