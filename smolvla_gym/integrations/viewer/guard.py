"""Guard between the page's server and its clients: it checks connections, requests and messages.

viser's server accepts every Origin and Host, lets a client change every attribute of a control, and keeps uploaded
files. The guard is part of each connection: it checks a request before viser gets it, and of all messages it passes on
only the text of a field and handles only the click of a button.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.frames import CTRL_OPCODES, Frame, Opcode
from websockets.http11 import Request, Response

from smolvla_gym.utils.http_guard import FragmentLimit, refusal

MAX_MESSAGE_BYTES: Final = 1 << 16
"""Largest message of a client in bytes; the page's own are below 1 kB. A larger one closes its connection."""

MAX_TEXT: Final = 500
"""Characters of a text field, as many as the bridge accepts."""

MAX_CLIENTS: Final = 16
"""Open WebSockets."""

MAX_OPENING: Final = 32
"""Connections that have not sent a WebSocket request yet, such as those that load the page's files. One more closes
the oldest."""

_RATE, _BURST = 50.0, 100.0
"""Messages of a connection per s, and at once; the guard drops those above, except clicks of urgent buttons."""

_MAX_CONTROL_FRAMES: Final = 1000
"""Pings and pongs above the rate before the guard closes the connection. Each ping has an answer, and the answers to a
client that reads none fill the memory."""

_READ_BYTES: Final = 1024
"""Bytes that are read from a connection before another one is read. asyncio's own 256 KiB hold 37000 messages of a
flood, and an EMERGENCY STOP of another client waited for all of them: 4 s."""

_HEADERS: Final = {
    # No other site may show the page in a frame, where it could steal clicks, or load parts of it.
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


class Guard:
    """Rules for the clients of one page. All of it runs in the thread of the page's server."""

    def __init__(self, max_dropped: int = 30_000) -> None:
        """Begin with no controls: every message is dropped.

        Args:
            max_dropped: Messages of a connection that are dropped before the guard closes it.
        """
        self.max_dropped = max_dropped
        self._buttons: dict[str, Callable[[], None]] = {}
        self._urgent: dict[str, bytes] = {}
        self._texts: dict[str, Callable[[str], bool]] = {}
        self._opening: dict[GuardedConnection, None] = {}
        self._open: set[GuardedConnection] = set()

    def allow_button(self, uuid: str, press: Callable[[], None], *, urgent: bool = False) -> None:
        """Let clients click a button.

        Args:
            uuid: The button's.
            press: Called for each click; it must not block. viser does not learn of the click.
            urgent: Whether a click counts even above the rate of messages.
        """
        self._buttons[uuid] = press
        if urgent:
            self._urgent[uuid] = uuid.encode()

    def allow_text(self, uuid: str, take: Callable[[str], bool]) -> None:
        """Let clients fill a text field.

        Args:
            uuid: The field's.
            take: Called with the text; returns whether it accepts it. An accepted text is shown to the other clients.
        """
        self._texts[uuid] = take

    @property
    def num_clients(self) -> int:
        """Number of open WebSockets."""
        return len(self._open)

    # -- connections -------------------------------------------------------------------------------------------------

    def add_connection(self, connection: GuardedConnection) -> None:
        """Count a new connection; if too many have sent no request, close the oldest of them."""
        self._opening[connection] = None
        if len(self._opening) > MAX_OPENING:
            oldest = next(iter(self._opening))
            del self._opening[oldest]
            oldest.transport.abort()

    def remove_connection(self, connection: GuardedConnection) -> None:
        """Forget a connection."""
        self._opening.pop(connection, None)
        self._open.discard(connection)

    def admit(
        self, connection: ServerConnection, request: Request, serve: Callable[[Any, Any], Response | None] | None
    ) -> Response | None:
        """Return the answer to an HTTP request, or None if it becomes a WebSocket.

        Args:
            connection: Connection of the request.
            request: The request.
            serve: Answers requests for the page's files.
        """
        headers = request.headers
        why = refusal(headers.get_all("Host"), headers.get_all("Origin"), own_pages=True)
        if why is not None:
            return connection.respond(HTTPStatus.FORBIDDEN, why + "\n")
        if not isinstance(connection, GuardedConnection):
            return connection.respond(HTTPStatus.INTERNAL_SERVER_ERROR, "This connection is not guarded.\n")
        if len(headers.get_all("Upgrade")) > 1:
            return connection.respond(HTTPStatus.BAD_REQUEST, "One header Upgrade is expected.\n")
        response = None if serve is None else serve(connection, request)
        if response is not None:
            response.headers.update(_HEADERS)
            return response
        if self.num_clients >= MAX_CLIENTS:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_CLIENTS} clients are connected already.\n")
        self._opening.pop(connection, None)
        self._open.add(connection)
        return None

    # -- messages ----------------------------------------------------------------------------------------------------

    def is_urgent(self, raw: bytes | bytearray | memoryview) -> bool:
        """Return whether a message may be a click of an urgent button."""
        content = bytes(raw)
        return any(uuid in content for uuid in self._urgent.values())

    def check(self, raw: bytes, *, in_time: bool) -> bytes | None:
        """Return the message for viser, or None. The guard itself handles a click.

        Args:
            raw: A message of a client.
            in_time: Whether the client keeps the rate of messages; otherwise only urgent clicks count.
        """
        if not in_time and not self.is_urgent(raw):
            return None
        message = _decode(raw)
        if message is None:
            return None
        uuid, value = message
        if uuid in self._buttons:
            if value is True and (in_time or uuid in self._urgent):
                self._buttons[uuid]()
            return None
        take = self._texts.get(uuid)
        if take is None or not in_time or not isinstance(value, str) or not take(value):
            return None
        # Encoded anew, so that nothing but the text reaches viser.
        return msgspec.msgpack.encode({"type": "GuiUpdateMessage", "uuid": uuid, "updates": {"value": value}})


def _decode(raw: bytes) -> tuple[str, object] | None:
    """Return the control and its new value, or None for any other message."""
    try:
        message = msgspec.msgpack.decode(raw)
    except (msgspec.DecodeError, ValueError, TypeError, RecursionError):
        return None
    if not isinstance(message, dict) or message.keys() != {"type", "uuid", "updates"}:
        return None
    uuid, updates = message["uuid"], message["updates"]
    if message["type"] != "GuiUpdateMessage" or not isinstance(uuid, str):
        return None
    if not isinstance(updates, dict) or updates.keys() != {"value"}:
        return None
    return uuid, updates["value"]


class GuardedConnection(ServerConnection):
    """Connection from which viser receives only messages that pass the guard."""

    guard: Guard
    """Set by the subclass that :func:`smolvla_gym.integrations.viewer.server.start_server` makes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See the base class."""
        super().__init__(*args, **kwargs)
        self._messages, self._control = _Rate(), _Rate()
        self._dropped = self._control_frames = 0
        self._fragments = FragmentLimit()
        self._in_time = deque[bool]()
        """Return whether each message that waits keeps the rate."""
        self._closing: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        """Count the connection."""
        transport.max_size = _READ_BYTES
        super().connection_made(transport)
        self.guard.add_connection(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.guard.remove_connection(self)
        super().connection_lost(exc)

    def process_event(self, event: Any) -> None:
        """Drop messages above the rate, and connections with too many pings or fragments of a message."""
        if isinstance(event, Frame):
            if event.opcode in CTRL_OPCODES and not self._control.take():
                self._control_frames += 1
            if self._fragments.is_passed(event.opcode, event.fin) or self._control_frames > _MAX_CONTROL_FRAMES:
                self.transport.abort()
                return
            if event.opcode in (Opcode.TEXT, Opcode.BINARY):
                in_time = self._messages.take()
                if not in_time:
                    self._drop_one()
                    if event.fin and not self.guard.is_urgent(event.data):
                        return
                self._in_time.append(in_time)
        super().process_event(event)

    async def recv(self, decode: bool | None = None) -> Any:
        """Return the next message that passes the guard."""
        while True:
            raw = await super().recv(decode)
            in_time = self._in_time.popleft()
            if isinstance(raw, bytes) and (passed := self.guard.check(raw, in_time=in_time)) is not None:
                return passed
            await asyncio.sleep(0)  # receiving a message that waits does not yield, and other clients would starve

    def _drop_one(self) -> None:
        self._dropped += 1
        if self._dropped > self.guard.max_dropped and self._closing is None:
            self._closing = self.loop.create_task(self.close(1008, "too many messages"))

    def recv_streaming(self, decode: bool | None = None) -> Any:
        """Refuse: parts of a message cannot be checked."""
        raise NotImplementedError


class _Rate:
    """Number of messages that may arrive at once, which grows with time up to a limit."""

    def __init__(self) -> None:
        self._left, self._counted = _BURST, time.monotonic()

    def take(self) -> bool:
        """Return whether one more message keeps the rate."""
        now = time.monotonic()
        self._left = min(_BURST, self._left + _RATE * (now - self._counted))
        self._counted = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
