"""Start of the Rerun viewer for this machine alone. ``rerun.spawn`` lets it listen on every network interface."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import Final

from smolvla_gym.errors import RecordingError

HOST: Final = "127.0.0.1"
PORT: Final = 9876
"""Default port of Rerun; a viewer that runs already is used."""

_START: Final = 20.0
"""Timeout in s of the start of the viewer."""

_POLL: Final = 0.05


def open_viewer(port: int = PORT) -> str:
    """Start a viewer unless one runs, and return the address to log to. The viewer stays when this program ends.

    Args:
        port: TCP port of the viewer on the loopback.

    Raises:
        RecordingError: The viewer does not start.
    """
    address = f"rerun+http://{HOST}:{port}/proxy"
    if _listens(port):
        return address
    process = subprocess.Popen(  # noqa: S603 - no shell, constant arguments
        [sys.executable, "-m", "rerun_cli", "--bind", HOST, "--port", str(port), "--expect-data-soon"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "RERUN_APP_ONLY": "true"},
        start_new_session=True,  # neither Ctrl-C here nor the end of this program closes its window
    )
    end = time.monotonic() + _START
    while not _listens(port):
        status = process.poll()
        if status is not None or time.monotonic() > end:
            why = "does not answer" if status is None else f"ended (exit status {status})"
            if status is None:
                process.terminate()
            raise RecordingError(
                f"The Rerun viewer {why}: is there a screen? A file works without one: --rerun FILE.rrd."
            )
        time.sleep(_POLL)
    return address


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), 1.0).close()
    except OSError:
        return False
    return True
