"""The log file of the events: what stopped or limited the arm."""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
from datetime import datetime
from logging.handlers import QueueListener, RotatingFileHandler
from pathlib import Path
from typing import Any, Final

_SIZE: Final = 5_000_000
_FILES: Final = 3

_REPEAT: Final = 1.0
"""Time in s in which a line of the same kind at the same place is written once, for the kinds of every step."""

_REPEATED: Final = ("position", "collision", "workspace", "shaping")


def default_log_path() -> Path | None:
    """Return the file that keeps events: in the user's folder for the state of programs.

    Where the user has no home folder, as in a container, one line on standard error says so, and None is returned.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the specification of these folders: other paths are ignored
        try:
            state = str(Path.home() / ".local" / "state")
        except RuntimeError:  # HOME is not set, and the user has no entry in /etc/passwd
            state = ""
    if not os.path.isabs(state):
        _warn("there is no home folder; name a file with log=, or set XDG_STATE_HOME")
        return None
    return Path(state) / "smolvla_gym" / "parol6.jsonl"


class EventLog:
    """Log with one JSON object a line and the time of day, in files that are rotated.

    A thread writes, so that a slow disk does not delay the caller. A write that fails is reported once on standard
    error.
    """

    def __init__(self, path: Path) -> None:
        """Begin to write to ``path``; its folder is made."""
        self._queue = queue.SimpleQueue[logging.LogRecord]()
        self._written: dict[tuple[object, object], float] = {}
        self._skipped: dict[tuple[object, object], int] = {}
        self._listener: QueueListener | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._listener = QueueListener(self._queue, _File(path))
            self._listener.start()
        except (OSError, ValueError) as error:
            _warn(error)

    def write(self, event: dict[str, Any]) -> None:
        """Add an event; ``time`` is its moment in s on the monotonic clock."""
        if self._listener is None:
            return
        kind = event.get("rule", event.get("event"))
        if kind in _REPEATED:
            key = (kind, event.get("where"))
            if event["time"] - self._written.get(key, -_REPEAT) < _REPEAT:
                self._skipped[key] = self._skipped.get(key, 0) + 1
                return
            self._written[key] = event["time"]
            if skipped := self._skipped.pop(key, 0):
                event = {**event, "not_written_before": skipped}
        line = json.dumps({"at": datetime.now().astimezone().isoformat(timespec="milliseconds"), **event}, default=str)
        self._queue.put(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Write the events that are left."""
        if self._listener is not None:
            self._listener.stop()
            for handler in self._listener.handlers:
                handler.close()
            self._listener = None


class _File(RotatingFileHandler):
    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=_SIZE, backupCount=_FILES, encoding="utf-8", delay=True)
        self._warned = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not self._warned:
            self._warned = True
            _warn(sys.exc_info()[1])


def _warn(error: BaseException | str | None) -> None:
    print(f"smolvla_gym: events of the arm cannot be written to the log: {error}", file=sys.stderr)
