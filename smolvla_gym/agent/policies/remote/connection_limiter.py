"""Accepting of connections, so that strangers who only open connections end nothing and shut nobody out."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

MAX_OPENING: Final = 32
"""Connections that have not come in yet: no request so far, or no token. The oldest makes room for a new one."""

MAX_CLIENTS: Final = 64
"""Clients at once."""

_LOOK: Final = 0.1
"""How often in s to look whether the server ends."""

_PAUSE: Final = 0.2
"""How long in s nothing is accepted where the system gives no more connections."""

_LOG: Final = logging.getLogger(__name__)


class ConnectionLimiter:
    """Accepts connections and hands each to a thread of its own, until it is closed.

    A connection counts as opening until :meth:`let_in`. A client with a token needs milliseconds for that, so that it
    comes in although strangers hold all other places.
    """

    def __init__(self, listening: socket.socket, handle: Callable[[socket.socket, Any], None]) -> None:
        """Prepare the door.

        Args:
            listening: A socket that is bound. The door does not close it.
            handle: Serves one connection in the calling thread, and closes it.
        """
        self._listening, self._handle = listening, handle
        self._lock = threading.Lock()
        self._opening: dict[socket.socket, None] = {}
        self._inside: set[socket.socket] = set()
        self._closed = threading.Event()

    def run(self) -> None:
        """Accept connections until :meth:`close`; errors of the system are waited for to pass."""
        with contextlib.suppress(OSError):  # it is closed already
            self._listening.settimeout(_LOOK)
        failing = False
        while not self._closed.is_set():
            try:
                connection, address = self._listening.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if self._closed.is_set() or self._listening.fileno() < 0:
                    return
                if not failing:
                    _LOG.warning("no connection is accepted at the moment (%s)", error.strerror or error)
                failing = True
                self._evict()  # its descriptor may be the one that is missing
                self._closed.wait(_PAUSE)
                continue
            failing = False
            self._take(connection, address)

    @property
    def full(self) -> bool:
        """Whether no more clients are let in."""
        with self._lock:
            return len(self._inside) >= MAX_CLIENTS

    def let_in(self, connection: socket.socket) -> bool:
        """Count a connection as a client from here on; returns False where there are too many."""
        with self._lock:
            if len(self._inside) >= MAX_CLIENTS or connection not in self._opening:
                return False
            del self._opening[connection]
            self._inside.add(connection)
            return True

    def close(self) -> None:
        """Accept nothing more and drop the connections that have not come in; doing it twice does no harm."""
        self._closed.set()
        with self._lock:
            for connection in self._opening:
                _hang_up(connection)

    def _take(self, connection: socket.socket, address: Any) -> None:
        connection.settimeout(None)
        with self._lock:
            self._opening[connection] = None
            full = len(self._opening) > MAX_OPENING
        if full:
            self._evict()
        # No daemon: its client is to be told that the server ends.
        thread = threading.Thread(target=self._serve, args=(connection, address), name="client")
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            _LOG.warning("a connection was dropped: %s", error)
            self._forget(connection)
            connection.close()

    def _serve(self, connection: socket.socket, address: Any) -> None:
        try:
            self._handle(connection, address)
        finally:
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._opening.pop(connection, None)
            self._inside.discard(connection)

    def _evict(self) -> None:
        with self._lock:
            if self._opening:
                oldest = next(iter(self._opening))
                del self._opening[oldest]
                _hang_up(oldest)


def _hang_up(connection: socket.socket) -> None:
    # Not close(): the thread that serves it still uses its descriptor.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
