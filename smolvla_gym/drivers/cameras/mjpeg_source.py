"""Reader of MJPEG over HTTP: a plain socket, whose bytes are read as fast as they come so that none grow old."""

from __future__ import annotations

import base64
import contextlib
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from smolvla_gym.drivers.cameras.configs import MjpegConfig, shown_url
from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.drivers.cameras.jpeg import decode_jpeg
from smolvla_gym.drivers.cameras.multipart import (
    ChunkedDecoder,
    MultipartParser,
    parse_headers,
    read_boundary,
    split_head,
)
from smolvla_gym.drivers.cameras.stream_camera import RawFrame, StreamCamera
from smolvla_gym.errors import DeviceError
from smolvla_gym.utils.tokens import authorization
from smolvla_gym.utils.untrusted import printable

TIMESTAMP: Final = "x-timestamp"
"""Header of a part: when the image was taken, in s on a clock of the server."""

INTRINSICS: Final = "x-camera-intrinsics"
"""Header of the response: width, height, fx, fy, ppx, ppy in px, six numbers."""

_CONNECT: Final = 1.0  # s
_ANSWER: Final = 2.0  # s
_POLL: Final = 0.1  # s
_CHUNK: Final = 1 << 18
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: [^\r\n]*)?")


class MjpegSource:
    """An open MJPEG stream.

    Attributes:
        intrinsics: Those that the server states, None where it states none.
    """

    def __init__(
        self, config: MjpegConfig, address: tuple[Any, ...], closing: Callable[[], bool] = lambda: False
    ) -> None:
        """Connect, and read the head of the response.

        Args:
            config: URL and token.
            address: Family and address of the server, as :func:`resolve` found them.
            closing: Whether to give up, as the answer is not wanted any more.

        Raises:
            DeviceError: The server does not answer, or with something else than a stream of images.
        """
        self._name = shown_url(config.url)
        family, target = address
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(_CONNECT)
            connection.connect(target)
            connection.settimeout(_POLL)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(_request(config))
            headers, rest = self._head(connection, closing)
            self._parser = MultipartParser(read_boundary(headers.get("content-type", "")))
            chunked = headers.get("transfer-encoding", "").lower() == "chunked"
            self._chunks = ChunkedDecoder() if chunked else None
            self._feed(rest)
        except (OSError, ValueError) as error:
            connection.close()
            if isinstance(error, DeviceError):
                raise
            raise DeviceError(f"{self._name} gives no images: {getattr(error, 'strerror', None) or error}.") from error
        except BaseException:
            connection.close()
            raise
        self.intrinsics: Intrinsics | None = parse_intrinsics(headers.get(INTRINSICS, ""))
        self._connection = connection
        self._last = b""

    def read(self) -> RawFrame | None:
        """Return the newest image that has arrived, None where none came within a moment.

        Raises:
            ValueError: An image is broken off or too large; the next one may be good.
            DeviceError: The stream has ended, or its parts do not fit together.
        """
        data = None
        with contextlib.suppress(TimeoutError):
            data = self._connection.recv(_CHUNK)
        if data == b"":
            raise DeviceError(f"{self._name} has ended the stream.")
        arrival = time.monotonic()
        newest = None
        try:
            self._feed(data or b"")  # an image may have come with the head of the response
            while (part := self._parser.next()) is not None:
                newest = part
        except ValueError as error:
            # What follows cannot be told from the middle of an image: the stream is opened again.
            raise DeviceError(f"{self._name}: {error}.") from error
        if newest is None:
            return None
        headers, jpeg = newest
        stamp = parse_stamp(headers)
        # Without time stamps a frozen camera shows by images that are equal to the last byte.
        if not jpeg or (stamp is None and jpeg == self._last):
            return None
        self._last = jpeg
        return RawFrame(decode_jpeg(jpeg), arrival, stamp)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _feed(self, data: bytes) -> None:
        self._parser.feed(data if self._chunks is None else self._chunks.feed(data))

    def _head(self, connection: socket.socket, closing: Callable[[], bool]) -> tuple[Mapping[str, str], bytes]:
        """Read the head of the response; return its headers, and what came behind it."""
        buffer, end = bytearray(), time.monotonic() + _ANSWER
        while (split := split_head(buffer)) is None:
            if closing() or time.monotonic() > end:
                raise DeviceError(f"{self._name} has not answered for {_ANSWER:g} s.")
            with contextlib.suppress(TimeoutError):
                data = connection.recv(4096)
                if not data:
                    raise DeviceError(f"{self._name} has closed the connection without an answer.")
                buffer += data
        head, body = split
        line, _, rest = head.partition(b"\n")
        status = _STATUS.fullmatch(line.strip())
        if status is None:
            raise ValueError("the answer is no HTTP")
        if status[1] != b"200":
            why = printable(bytes(buffer[body:]).decode("utf-8", "replace").strip(), 200)
            hint = {b"401": " Give the camera's token, or user and password.", b"404": " Check the path."}
            raise DeviceError(
                f"{self._name} answers with the status {status[1].decode()}{f': {why}' if why else '.'}"
                f"{hint.get(status[1], '')}"
            )
        return parse_headers(rest), bytes(buffer[body:])


class MjpegCamera(StreamCamera):
    """Driver of a camera that sends MJPEG over HTTP, such as a network camera or ``smolvla-gym cameras serve``."""

    def __init__(self, config: MjpegConfig) -> None:
        """Store the configuration; :meth:`start` connects.

        Args:
            config: URL, token and expected images.
        """
        self._config = config
        self._address: tuple[Any, ...] | None = None
        self._address_lock = threading.Lock()
        super().__init__(f"the camera {shown_url(config.url)}", self._connect, config.image)

    def _connect(self) -> MjpegSource:
        with self._address_lock:
            # Once: looking a name up can take many seconds, in which close() could not end the thread.
            if self._address is None:
                self._address = resolve(self._config.url)
        return MjpegSource(self._config, self._address, lambda: self.closing)


def resolve(url: str) -> tuple[Any, ...]:
    """Return the family and the address of the host of a URL.

    Raises:
        DeviceError: There is no such host.
    """
    parts = urlsplit(url)
    try:
        family, _, _, _, address = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise DeviceError(f"The host of {shown_url(url)} is not known: {error}.") from error
    return family, address


def parse_stamp(headers: Mapping[str, str]) -> float | None:
    """Return the time stamp of a part in s, None where it has none that is a number."""
    try:
        stamp = float(headers.get(TIMESTAMP, ""))
    except ValueError:
        return None
    return stamp if math.isfinite(stamp) and abs(stamp) < 1e12 else None


def parse_intrinsics(text: str) -> Intrinsics | None:
    """Return the intrinsics that a server states, None where they are none."""
    try:
        width, height, fx, fy, ppx, ppy = map(float, text[:200].split())
    except ValueError:
        return None
    if not all(map(math.isfinite, (width, height, fx, fy, ppx, ppy))) or not (fx > 0.0 and fy > 0.0):
        return None
    if not (1 <= width <= 10_000 and 1 <= height <= 10_000 and width.is_integer() and height.is_integer()):
        return None
    if max(fx, fy, abs(ppx), abs(ppy)) > 1e5:
        return None
    return Intrinsics(int(width), int(height), fx, fy, ppx, ppy)


def _request(config: MjpegConfig) -> bytes:
    parts = urlsplit(config.url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"Host": parts.netloc.rpartition("@")[2], "Accept": "multipart/x-mixed-replace", "Connection": "close"}
    if config.token is not None:
        headers |= authorization(config.token)
    elif parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("ascii")
