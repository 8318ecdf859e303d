"""Serve a policy to clients on other machines, over websockets."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, InvalidStateError, wait
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.sync.server import ServerConnection, serve

from smolvla_gym.agent.inference_thread import STOP_TIMEOUT_S, InferenceThread
from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy, PolicyCard
from smolvla_gym.agent.policies.remote.messages import (
    open_message,
    read_request,
    write_answer,
    write_description,
    write_error,
)
from smolvla_gym.agent.policies.remote.wire import MAX_MESSAGE_BYTES, WireError
from smolvla_gym.agent.warm_up import make_warm_up_request
from smolvla_gym.errors import PolicyMismatchError, SmolVLAGymError
from smolvla_gym.utils.connection_limiter import MAX_CLIENTS, ConnectionLimiter
from smolvla_gym.utils.http_guard import FragmentLimit, refusal
from smolvla_gym.utils.listening_socket import bind_socket, is_on_loopback, limit_sending
from smolvla_gym.utils.tokens import choose_token, is_authorized
from smolvla_gym.utils.untrusted import printable

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8765

_LOG: Final = logging.getLogger(__name__)

_QUIET: Final = logging.Logger("websockets")
"""Replaces the library's logger, which writes a traceback for each connection that is no websocket client."""
_QUIET.addHandler(logging.NullHandler())

_MAX_ERROR: Final = 2000
"""Most characters of an error in an answer."""


@dataclass(frozen=True)
class ServerTimeouts:
    """Timeouts of a policy server.

    Attributes:
        open_s: Longest time in s until a connection has sent its HTTP request with all headers.
        send_s: Longest time in s in which a client accepts no byte of an answer.
        close_s: Longest time in s for a client's closing handshake when the server stops.
        chunk_s: Longest time in s for the chunk that is being computed when the server stops. A process aborts if its
            interpreter exits while a thread is in torch.
    """

    open_s: float = 5.0
    send_s: float = 5.0
    close_s: float = 1.0
    chunk_s: float = STOP_TIMEOUT_S


_DEFAULT_TIMEOUTS: Final = ServerTimeouts()


class PolicyServer:
    """Server of a policy: it binds a port, and :meth:`serve` answers requests.

    The server answers requests of all clients one after the other, in order of arrival. Each client has at most one
    request in the queue: the server reads its next request after the answer.
    """

    def __init__(
        self,
        *,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        token: str | None = None,
        timeouts: ServerTimeouts = _DEFAULT_TIMEOUTS,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        """Bind the port; it refuses connections until :meth:`serve`.

        Args:
            host: Name or address of the interface. Interfaces other than the loopback require a token.
            port: The port; 0: a free one.
            token: Token that clients have to send. None: that of the environment variable ``SMOLVLA_GYM_TOKEN`` if it
                is set, otherwise no token is required.
            timeouts: Timeouts of connections and of stopping.
            max_clients: Most clients at the same time.

        Raises:
            OptionError: An option has a value that is not allowed, or the port is in use.
        """
        self._token, self._timeouts, self._max_clients = choose_token(token), timeouts, max_clients
        self._socket = bind_socket(host, port, self._token)
        self._loopback = is_on_loopback(self._socket)
        self._ended = Future[None]()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Address for clients, such as ``"ws://127.0.0.1:8765"``."""
        host, port = self._socket.getsockname()[:2]
        return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"

    def serve(self, policy: ChunkPolicy, ready: Callable[[], None] = lambda: None) -> None:
        """Answer requests until :meth:`close` is called or an exception occurs, such as Ctrl-C.

        Args:
            policy: Computes the chunks, all of them in one thread. The first one is a warm-up.
            ready: Called when clients can connect.

        Raises:
            PolicyMismatchError: The policy cannot be served.
            SmolVLAGymError: The policy failed to compute the warm-up chunk.
        """
        card = policy.card
        _check_servable(card)
        thread = InferenceThread(self._timeouts.chunk_s)
        try:
            # The first chunk takes longest; no client should have to wait for it.
            thread.submit(lambda: policy.infer(make_warm_up_request(card))).result()
            self._socket.listen()
            server = serve(
                lambda connection: self._serve_client(connection, policy, thread, limiter),
                sock=self._socket,
                process_request=lambda connection, request: self._check_request(connection, request, limiter),
                create_connection=_Connection,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                max_queue=2,
                open_timeout=self._timeouts.open_s,
                close_timeout=self._timeouts.close_s,
                logger=_QUIET,
            )
            # The limiter replaces the library's accept loop, which ends at the first error of accept().
            limiter = ConnectionLimiter(self._socket, server.handler, self._max_clients)

            # A separate thread: an exception from a signal handler inside the loop could make stopping hang.
            accepting = threading.Thread(target=limiter.run, name="policy server", daemon=True)
            accepting.start()
            try:
                ready()
                self._ended.result()
            finally:
                self._end()
                limiter.close()
                accepting.join()
                server.shutdown()
        finally:
            thread.close()
            self.close()

    def close(self) -> None:
        """Stop :meth:`serve` and release the port. Calling it twice is harmless."""
        self._end()
        self._socket.close()

    def _end(self) -> None:
        with contextlib.suppress(InvalidStateError):
            self._ended.set_result(None)

    def _check_request(
        self, connection: ServerConnection, request: Request, limiter: ConnectionLimiter
    ) -> Response | None:
        """Return None if a client may connect, otherwise the response that refuses it."""
        hosts, origins = request.headers.get_all("Host"), request.headers.get_all("Origin")
        status = HTTPStatus.FORBIDDEN
        # A page in a browser must not use a server that trusts its own machine. The name by which other machines reach
        # a server is unknown here, so Host is checked on the loopback only.
        reason = refusal(hosts if self._loopback else ["localhost"], origins, own_pages=False)
        given = request.headers.get_all("Authorization")
        if reason is None and self._token is not None and not is_authorized(given, self._token):
            status = HTTPStatus.UNAUTHORIZED
            reason = "This server requires its token in the header 'Authorization: Api-Key <token>'."
        if reason is None and limiter.full:
            status, reason = HTTPStatus.SERVICE_UNAVAILABLE, f"{self._max_clients} clients are connected already."
        if reason is None:
            return None
        _LOG.warning("%s was refused: %s", _name(connection), reason)
        return connection.respond(status, reason + "\n")

    def _serve_client(
        self, connection: ServerConnection, policy: ChunkPolicy, thread: InferenceThread, limiter: ConnectionLimiter
    ) -> None:
        """Serve one client until it disconnects."""
        client = _name(connection)
        if not limiter.admit(connection.socket):
            connection.close(CloseCode.TRY_AGAIN_LATER)
            return
        limit_sending(connection.socket, self._timeouts.send_s)
        _LOG.info("%s connected", client)
        try:
            connection.send(write_description(policy.card))
            while True:
                answer = self._answer(connection.recv(), connection, policy, thread)
                if answer is None:
                    break
                connection.send(answer)
        except ConnectionClosedOK:
            _LOG.info("%s disconnected", client)
        except ConnectionClosed as closed:
            _LOG.warning("%s was lost (%s)", client, printable(closed))

    def _answer(
        self, message: bytes | str, connection: ServerConnection, policy: ChunkPolicy, thread: InferenceThread
    ) -> bytes | str | None:
        """Return the answer to a message, or None if the client has disconnected or the server stops."""
        number: int | None = None
        try:
            content, number = open_message(message)
            request = read_request(content, policy.card)
            queued = time.monotonic()

            def compute() -> tuple[Chunk, dict[str, float]]:
                if connection.state is not State.OPEN:  # the client has disconnected meanwhile
                    raise CancelledError
                started = time.monotonic()
                chunk = policy.infer(request)
                return chunk, {"wait_ms": 1e3 * (started - queued), "infer_ms": 1e3 * (time.monotonic() - started)}

            answer = thread.submit(compute)
            either: tuple[Future[Any], ...] = (answer, self._ended)
            done, _ = wait(either, return_when=FIRST_COMPLETED)
            return write_answer(*answer.result(), number) if answer in done else None
        except CancelledError:
            return None
        except Exception as error:
            if not isinstance(error, WireError | SmolVLAGymError):
                _LOG.exception("the policy failed")
            text = f"{type(error).__name__}: {error}"[:_MAX_ERROR]
            _LOG.warning("%s gets the error: %s", _name(connection), printable(text))
            return write_error(text, number)


class _Connection(ServerConnection):
    """Connection that is dropped when a message has too many fragments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._fragments = FragmentLimit()
        super().__init__(*args, **kwargs)

    def process_event(self, event: Any) -> None:
        if isinstance(event, Frame) and self._fragments.is_passed(event.opcode, event.fin):
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            return
        super().process_event(event)


def _check_servable(card: PolicyCard) -> None:
    """Refuse a policy with two cameras for one env camera: a client may send different images for them."""
    if len(set(card.camera_map.values())) < len(card.camera_map):
        raise PolicyMismatchError(
            f"The policy {card.name!r} has the camera map {dict(card.camera_map)}. To be served, each of its cameras "
            "needs an env camera of its own; clients can map two of them to the same one."
        )


def _name(connection: ServerConnection) -> str:
    with contextlib.suppress(OSError):  # the connection may be closed already
        return "client {}:{}".format(*connection.remote_address[:2])
    return "a client"
