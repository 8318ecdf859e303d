"""Accept connections with limits, so that idle connections neither end the server nor lock out clients."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

MAX_OPENING: Final = 32
"""Connections that are not admitted yet: no request so far, or no token. A new one evicts the oldest."""

MAX_CLIENTS: Final = 64
"""Clients that are connected at the same time."""

_POLL_S: Final = 0.1
"""Period in s at which the accepting thread checks whether the limiter is closed."""

_RETRY_S: Final = 0.2
"""Pause in s after the system refused another connection."""

_LOG: Final = logging.getLogger(__name__)


class ConnectionLimiter:
    """Accepts connections and hands each to its own thread, until it is closed.

    A connection counts as opening until :meth:`admit`. A client with a token is admitted within milliseconds, so it
    gets in even if other connections hold all opening places.
    """

    def __init__(
        self,
        listening: socket.socket,
        handle: Callable[[socket.socket, Any], None],
        max_clients: int = MAX_CLIENTS,
        *,
        daemon: bool = False,
    ) -> None:
        """Create a limiter.

        Args:
            listening: A bound socket. The limiter does not close it.
            handle: Serves one connection in the calling thread, and closes it.
            max_clients: Most clients at the same time.
            daemon: Whether a program may end while clients are served. Otherwise they get the end of the connection
                when the server stops.
        """
        self._daemon = daemon
        self._listening, self._handle, self._max_clients = listening, handle, max_clients
        self._lock = threading.Lock()
        self._opening: dict[socket.socket, None] = {}
        self._admitted: set[socket.socket] = set()
        self._closed = threading.Event()

    def run(self) -> None:
        """Accept connections until :meth:`close`; after an error of the system it pauses and goes on."""
        with contextlib.suppress(OSError):  # the socket is closed already
            self._listening.settimeout(_POLL_S)
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
                self._evict_oldest()  # frees a file descriptor
                self._closed.wait(_RETRY_S)
                continue
            failing = False
            self._start_thread(connection, address)

    @property
    def full(self) -> bool:
        """True if the number of clients has reached its limit."""
        with self._lock:
            return len(self._admitted) >= self._max_clients

    def admit(self, connection: socket.socket) -> bool:
        """Count a connection as a client from now on; return False if there are too many clients."""
        with self._lock:
            if len(self._admitted) >= self._max_clients or connection not in self._opening:
                return False
            del self._opening[connection]
            self._admitted.add(connection)
            return True

    def close(self) -> None:
        """Stop accepting, and drop connections that are not admitted. Calling it twice is harmless."""
        self._closed.set()
        with self._lock:
            for connection in self._opening:
                _shut_down(connection)

    def _start_thread(self, connection: socket.socket, address: Any) -> None:
        connection.settimeout(None)
        with self._lock:
            self._opening[connection] = None
            full = len(self._opening) > MAX_OPENING
        if full:
            self._evict_oldest()
        thread = threading.Thread(target=self._serve, args=(connection, address), name="client", daemon=self._daemon)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more threads
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
            self._admitted.discard(connection)

    def _evict_oldest(self) -> None:
        with self._lock:
            if self._opening:
                oldest = next(iter(self._opening))
                del self._opening[oldest]
                _shut_down(oldest)


def _shut_down(connection: socket.socket) -> None:
    # Not close(): the thread that serves the connection still uses its descriptor.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
