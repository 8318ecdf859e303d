"""Server of cameras as MJPEG over HTTP, on the loopback unless there is a token."""

from __future__ import annotations

import contextlib
import json
import logging
import select
import socket
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.drivers.cameras.multipart import parse_headers, split_head
from smolvla_gym.utils.connection_limiter import ConnectionLimiter
from smolvla_gym.utils.http_guard import refusal
from smolvla_gym.utils.listening_socket import bind_socket, is_on_loopback, limit_sending
from smolvla_gym.utils.tokens import choose_token, is_authorized
from smolvla_gym.utils.untrusted import printable

MAX_STREAMS: Final = 16
"""Streams at the same time."""

_LOG: Final = logging.getLogger(__name__)

_OPEN_S: Final = 5.0  # s until a request has arrived
_SEND_S: Final = 2.0  # s in which a client accepts no byte
_POLL_S: Final = 0.1  # s
_SEND_BUFFER: Final = 1 << 16  # bytes: images wait in the channel, which drops old ones, not in the system
_BOUNDARY: Final = "frame"


class JpegChannel:
    """Newest image of one camera, from the thread that takes images to those that send them.

    Attributes:
        intrinsics: Pinhole model of the images, which clients are told; None where it is not known.
    """

    def __init__(self, intrinsics: Intrinsics | None = None) -> None:
        self.intrinsics: Intrinsics | None = intrinsics
        self._news = threading.Condition()
        self._newest: tuple[int, float, bytes] | None = None
        self._connected, self._epoch = True, 0

    def publish(self, jpeg: bytes, taken: float) -> None:
        """Replace the newest image.

        Args:
            jpeg: The image.
            taken: When it was taken in s, on the monotonic clock.
        """
        with self._news:
            number = 1 if self._newest is None else self._newest[0] + 1
            self._newest = number, taken, jpeg
            self._news.notify_all()

    @property
    def connected(self) -> bool:
        """Whether the camera is there; while it is not, streams end and new ones are refused."""
        return self._connected

    @connected.setter
    def connected(self, value: bool) -> None:
        with self._news:
            if self._connected and not value:
                self._epoch += 1
            self._connected = value
            self._news.notify_all()

    @property
    def epoch(self) -> int:
        """How often the camera was disconnected; a stream belongs to one epoch."""
        return self._epoch

    def wait_newer(self, number: int, timeout: float) -> tuple[int, float, bytes] | None:
        """Return number, time and bytes of the newest image once its number is higher; None after the timeout."""
        with self._news:
            self._news.wait_for(lambda: self._newest is not None and self._newest[0] > number, timeout)
            return self._newest if self._newest is not None and self._newest[0] > number else None


class MjpegServer:
    """Server of cameras: ``/`` lists them as JSON, ``/<name>`` is the stream of one."""

    def __init__(
        self, channels: Mapping[str, JpegChannel], *, host: str = "127.0.0.1", port: int = 0, token: str | None = None
    ) -> None:
        """Bind the port and start to serve.

        Args:
            channels: The cameras by name.
            host: Name or address of the interface. Interfaces other than the loopback require a token.
            port: The port; 0: a free one.
            token: Token that clients have to send; None requires none.

        Raises:
            OptionError: An option has a value that is not allowed, or the port is in use.
        """
        self._channels = dict(channels)
        self._token = None if token is None else choose_token(token)
        self._socket = bind_socket(host, port, self._token)
        self._loopback = is_on_loopback(self._socket)
        self._closing = threading.Event()
        self._limiter = ConnectionLimiter(self._socket, self._handle, MAX_STREAMS, daemon=True)
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._socket.listen()
        self._accepting = threading.Thread(target=self._limiter.run, name="camera server", daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Address of the server, such as ``"http://127.0.0.1:8766"``."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def url(self, name: str) -> str:
        """Return the address of the stream of a camera."""
        return f"{self.address}/{name}"

    def close(self) -> None:
        """End all streams and release the port; calling it twice is harmless."""
        self._closing.set()
        self._limiter.close()
        self._accepting.join()
        self._socket.close()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    # -- a connection ------------------------------------------------------------------------------------------------

    def _handle(self, connection: socket.socket, address: Any) -> None:
        with self._lock:
            self._threads.add(threading.current_thread())
        try:
            with connection, contextlib.suppress(OSError):
                self._answer(connection, address)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _answer(self, connection: socket.socket, address: Any) -> None:
        try:
            head = self._receive(connection)
            if head is None:
                return
            request, _, rest = head.partition(b"\n")
            rows = [row for row in rest.split(b"\n") if row.strip()]
            headers = parse_headers(rest)
            words = request.decode("latin-1").split()
            if len(words) != 3 or words[2] not in ("HTTP/1.0", "HTTP/1.1"):
                raise ValueError("the request is no HTTP")
        except ValueError as error:
            _respond(connection, HTTPStatus.BAD_REQUEST, f"{error}\n")
            return
        names = [row.partition(b":")[0].strip().lower() for row in rows]
        status, reason = self._refusal(names, headers, words[0])
        if reason is None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            limit_sending(connection, _SEND_S)
            path = words[1].partition("?")[0]
            if path == "/":
                _respond(connection, HTTPStatus.OK, json.dumps(self._listed()), "application/json")
                return
            channel = self._channels.get(path.removeprefix("/"))
            if channel is None:
                status, reason = HTTPStatus.NOT_FOUND, f"The cameras here are {', '.join(self._channels)}."
            elif not channel.connected:
                status, reason = HTTPStatus.SERVICE_UNAVAILABLE, "The camera is not connected."
            elif not self._limiter.admit(connection):
                status, reason = HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_STREAMS} streams are sent already."
            else:
                self._stream(connection, channel)
                return
        _LOG.warning("a request of %s was refused: %s", printable(address[0]), reason)
        _respond(connection, status, f"{reason}\n")

    def _receive(self, connection: socket.socket) -> bytes | None:
        """Return the head of the request, None where none comes in time.

        Raises:
            ValueError: It is too long.
        """
        buffer, end = bytearray(), time.monotonic() + _OPEN_S
        while (split := split_head(buffer)) is None:
            if self._closing.is_set() or time.monotonic() > end:
                return None
            if _is_readable(connection, _POLL_S):
                data = connection.recv(4096)
                if not data:
                    return None
                buffer += data
        return split[0]

    def _refusal(self, names: list[bytes], headers: Mapping[str, str], method: str) -> tuple[HTTPStatus, str | None]:
        # A header that stands twice is refused, as two programs may take different ones of them.
        hosts = [headers["host"]] * names.count(b"host") if "host" in headers else []
        origins = [headers["origin"]] * names.count(b"origin") if "origin" in headers else []
        # The name by which other machines reach a server is unknown here, so Host is checked on the loopback only.
        reason = refusal(hosts if self._loopback else ["localhost"], origins, own_pages=False)
        if reason is not None:
            return HTTPStatus.FORBIDDEN, reason
        given = [headers["authorization"]] * names.count(b"authorization") if "authorization" in headers else []
        if self._token is not None and not is_authorized(given, self._token):
            return HTTPStatus.UNAUTHORIZED, "This server requires its token in 'Authorization: Api-Key <token>'."
        if method != "GET":
            return HTTPStatus.METHOD_NOT_ALLOWED, "Cameras are only read: the method is GET."
        return HTTPStatus.OK, None

    def _listed(self) -> dict[str, Any]:
        return {name: {"connected": channel.connected} for name, channel in self._channels.items()}

    def _stream(self, connection: socket.socket, channel: JpegChannel) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        epoch, number = channel.epoch, 0
        model = channel.intrinsics
        about = ""
        if model is not None:
            numbers = (model.width, model.height, model.fx, model.fy, model.ppx, model.ppy)
            about = f"X-Camera-Intrinsics: {' '.join(f'{value:.9g}' for value in numbers)}\r\n"
        connection.sendall(
            f"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary={_BOUNDARY}\r\n{about}"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode()
        )
        while not self._closing.is_set() and channel.connected and channel.epoch == epoch:
            newest = channel.wait_newer(number, _POLL_S)
            # A client that has gone shows when it is read, also while there is nothing to send.
            if _is_readable(connection, 0.0) and not connection.recv(4096):
                return
            if newest is not None:
                number, taken, jpeg = newest
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n"
                connection.sendall(f"{head}X-Timestamp: {taken:.6f}\r\n\r\n".encode() + jpeg + b"\r\n")


def _respond(connection: socket.socket, status: HTTPStatus, text: str, kind: str = "text/plain; charset=utf-8") -> None:
    body = text.encode("utf-8", "replace")
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    limit_sending(connection, _SEND_S)
    connection.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
    # Closing while bytes of the request are still unread would cut the answer off.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        end = time.monotonic() + 0.5
        while time.monotonic() < end and _is_readable(connection, _POLL_S):
            if not connection.recv(1 << 16):
                return


def _is_readable(connection: socket.socket, timeout: float) -> bool:
    if not hasattr(select, "poll"):
        return bool(select.select([connection], [], [], timeout)[0])
    poll = select.poll()  # select() fails in a program with more than 1024 open files
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(1e3 * timeout))
