"""Several threads share this interpreter: how long one of them may keep the others waiting."""

from __future__ import annotations

import sys
import threading
from typing import Final

_INTERVAL: Final = 5e-4
"""In s. With Python's own 5 ms, a control loop that wakes up beside the twin's threads is up to 5 ms late."""

_lock = threading.Lock()
_users = 0
_before = 0.0


def take_short_turns() -> None:
    """Makes the interpreter switch between its threads more often, until :func:`take_usual_turns` undoes it."""
    global _users, _before
    with _lock:
        _users += 1
        if _users == 1:
            _before = sys.getswitchinterval()
            sys.setswitchinterval(min(_before, _INTERVAL))


def take_usual_turns() -> None:
    """Undoes :func:`take_short_turns`."""
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            sys.setswitchinterval(_before)
