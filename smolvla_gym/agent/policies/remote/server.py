"""Serves a policy to clients elsewhere, over websockets."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, InvalidStateError, wait
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.sync.server import ServerConnection, serve

from smolvla_gym.agent.input_validation import make_warm_up_observation
from smolvla_gym.agent.instructions import WARM_UP_INSTRUCTION
from smolvla_gym.agent.policies.base import Array, Chunk, ChunkPolicy, ChunkRequest, PolicyCard
from smolvla_gym.agent.policies.remote.connection_limiter import MAX_CLIENTS, ConnectionLimiter
from smolvla_gym.agent.policies.remote.messages import (
    open_request,
    read_request,
    write_answer,
    write_description,
    write_error,
)
from smolvla_gym.agent.policies.remote.tokens import TOKEN_VARIABLE, choose_token, is_authorized
from smolvla_gym.agent.policies.remote.wire import MAX_MESSAGE_BYTES, WireError
from smolvla_gym.errors import OptionError, PolicyMismatchError, SmolVLAGymError
from smolvla_gym.utils.http_guard import FragmentLimit, refusal
from smolvla_gym.utils.untrusted import printable

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8765

_LOG: Final = logging.getLogger(__name__)

_QUIET: Final = logging.Logger("websockets")
"""In place of the library's logger, which writes a traceback for every stranger that is no websocket client."""
_QUIET.addHandler(logging.NullHandler())

_OPEN_TIMEOUT: Final = 5.0
"""How long in s a connection may take to send its request, with all headers."""

_SEND_TIMEOUT: Final = 5.0
"""How long in s a client may accept not one byte of an answer."""

_CLOSE_TIMEOUT: Final = 1.0
"""How long in s the end waits for a client to say goodbye."""

_CHUNK_TIMEOUT: Final = 3.0
"""How long in s the end waits for the chunk that is being computed. A process whose interpreter ends while a thread is
in torch aborts."""

_MAX_ERROR: Final = 2000
"""Characters of an error that a client is told."""


class PolicyServer:
    """A port, and from :meth:`serve` on a policy behind it.

    Requests are answered one after the other, in the order in which they come, whichever client they come from. Each
    client has one request in the queue at most: its next one is read after the answer.
    """

    def __init__(self, *, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT, token: str | None = None) -> None:
        """Takes the port; it refuses connections until :meth:`serve`.

        Args:
            host: Name or address of the interface. Others than the loopback need a token.
            port: Its port; 0 takes a free one.
            token: What clients have to know. None: that of the environment variable ``SMOLVLA_GYM_TOKEN`` if it is
                set, else everybody who reaches the port is served.

        Raises:
            OptionError: An option has a value that is not allowed, or the port is taken.
        """
        self._token = choose_token(token)
        self._socket = _bind(host, port, self._token)
        self._loopback = ipaddress.ip_address(self._socket.getsockname()[0]).is_loopback
        self._ended = Future[None]()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """What clients connect to, such as ``"ws://127.0.0.1:8765"``."""
        host, port = self._socket.getsockname()[:2]
        return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"

    def serve(self, policy: ChunkPolicy, ready: Callable[[], None] = lambda: None) -> None:
        """Answers requests until :meth:`close` is called, or an exception such as that of Ctrl-C comes.

        Args:
            policy: Computes the chunks, all of them in one thread, and the first one for nothing.
            ready: Called once clients can connect.

        Raises:
            PolicyMismatchError: The policy cannot be served.
            SmolVLAGymError: The policy failed at its first chunk.
        """
        card = policy.card
        _check_servable(card)
        worker = _Worker(policy)
        try:
            # The first chunk takes longest; no client should have to wait for it.
            worker.submit(_empty_request(card)).result()
            self._socket.listen()
            server = serve(
                lambda connection: self._talk(connection, worker, card, door),
                sock=self._socket,
                process_request=lambda connection, request: self._admit(connection, request, door),
                create_connection=_Connection,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                max_queue=2,
                open_timeout=_OPEN_TIMEOUT,
                close_timeout=_CLOSE_TIMEOUT,
                logger=_QUIET,
            )
            # Its own loop ends for good at the first error of accept().
            door = ConnectionLimiter(self._socket, server.handler)

            # In a thread of its own: a signal that came between two instructions of it would hang the end.
            accepting = threading.Thread(target=door.run, name="policy server", daemon=True)
            accepting.start()
            try:
                ready()
                self._ended.result()
            finally:
                self._end()
                door.close()
                accepting.join()
                server.shutdown()
        finally:
            worker.close()
            self.close()

    def close(self) -> None:
        """Ends :meth:`serve` and gives the port back; doing it twice does no harm."""
        self._end()
        self._socket.close()

    def _end(self) -> None:
        with contextlib.suppress(InvalidStateError):
            self._ended.set_result(None)

    def _admit(self, connection: ServerConnection, request: Request, door: ConnectionLimiter) -> Response | None:
        """Returns None for a client that may come in, and what it is told otherwise."""
        hosts, origins = request.headers.get_all("Host"), request.headers.get_all("Origin")
        # Browsers name the page that asks. A page must not use a server that trusts its own machine. By which name
        # others reach a server that is open to them is not known here.
        why = refusal(hosts if self._loopback else ["localhost"], origins, own_pages=False)
        if why is not None:
            _LOG.warning("%s was refused: %s", _name(connection), why)
            return connection.respond(HTTPStatus.FORBIDDEN, why + "\n")
        if self._token is not None and not is_authorized(request.headers.get_all("Authorization"), self._token):
            _LOG.warning("%s was refused: no token, or a wrong one", _name(connection))
            return connection.respond(
                HTTPStatus.UNAUTHORIZED, "This server wants its token in the header 'Authorization: Api-Key <token>'.\n"
            )
        if door.full:
            _LOG.warning("%s was refused: %d clients are connected", _name(connection), MAX_CLIENTS)
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_CLIENTS} clients are connected already.\n")
        return None

    def _talk(self, connection: ServerConnection, worker: _Worker, card: PolicyCard, door: ConnectionLimiter) -> None:
        """Serves one client until it leaves."""
        client = _name(connection)
        if not door.let_in(connection.socket):
            connection.close(CloseCode.TRY_AGAIN_LATER)
            return
        _limit_sending(connection.socket, _SEND_TIMEOUT)
        _LOG.info("%s came", client)
        try:
            connection.send(write_description(card))
            while True:
                answer = self._answer(connection.recv(), connection, worker, card)
                if answer is None:
                    break
                connection.send(answer)
        except ConnectionClosedOK:
            _LOG.info("%s left", client)
        except ConnectionClosed as closed:
            _LOG.warning("%s was lost (%s)", client, printable(closed))

    def _answer(
        self, message: bytes | str, connection: ServerConnection, worker: _Worker, card: PolicyCard
    ) -> bytes | str | None:
        """Returns the answer to a message, a text where it is an error, or None where nobody waits for it any more."""
        number: int | None = None
        try:
            content, number = open_request(message)
            request = read_request(content, card, lambda: _draw_noise(card))
            chunk = worker.submit(request, wanted=lambda: connection.state is State.OPEN)
            either: tuple[Future[Any], ...] = (chunk, self._ended)
            done, _ = wait(either, return_when=FIRST_COMPLETED)
            return write_answer(*chunk.result(), number) if chunk in done else None
        except CancelledError:
            return None
        except Exception as error:
            if not isinstance(error, WireError | SmolVLAGymError):
                _LOG.exception("the policy failed")
            text = f"{type(error).__name__}: {error}"[:_MAX_ERROR]
            _LOG.warning("%s was told: %s", _name(connection), printable(text))
            return write_error(text, number)


class _Connection(ServerConnection):
    """Connection that is dropped where a message comes in endless fragments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._fragments = FragmentLimit()
        super().__init__(*args, **kwargs)

    def process_event(self, event: Any) -> None:
        if isinstance(event, Frame) and self._fragments.is_passed(event.opcode, event.fin):
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            return
        super().process_event(event)


_Answer = tuple[Chunk, dict[str, float]]
"""A chunk, and how long what took in ms."""


class _Worker:
    """Computes answers, one after the other, in a thread of its own."""

    def __init__(self, policy: ChunkPolicy) -> None:
        self._jobs = queue.SimpleQueue[tuple[Future[_Answer], ChunkRequest, Callable[[], bool], float] | None]()
        # A daemon: a policy that hangs must not keep the program from its end.
        self._thread = threading.Thread(target=self._work, args=(policy,), name="inference", daemon=True)
        self._thread.start()

    def submit(self, request: ChunkRequest, wanted: Callable[[], bool] = lambda: True) -> Future[_Answer]:
        """Has an answer computed, or cancelled where it is not ``wanted`` any more when its turn comes."""
        answer = Future[_Answer]()
        self._jobs.put((answer, request, wanted, time.monotonic()))
        return answer

    def close(self) -> None:
        """Ends the thread, unless the policy hangs."""
        self._jobs.put(None)
        self._thread.join(_CHUNK_TIMEOUT)

    def _work(self, policy: ChunkPolicy) -> None:
        while (job := self._jobs.get()) is not None:
            answer, request, wanted, asked = job
            if not wanted():
                answer.cancel()
                answer.set_running_or_notify_cancel()
                continue
            begun = time.monotonic()
            try:
                chunk = policy.infer(request)
                timing = {"wait_ms": 1e3 * (begun - asked), "infer_ms": 1e3 * (time.monotonic() - begun)}
                answer.set_result((chunk, timing))
            except BaseException as error:
                answer.set_exception(error)
            del job, answer, request, wanted  # an idle thread keeps no pictures


def _bind(host: str, port: int, token: str | None) -> socket.socket:
    if type(port) is not int or not 0 <= port <= 0xFFFF:
        raise OptionError("port", port, "0 to 65535; 0 takes a free one")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise OptionError("host", host, f"a name or an address of this machine ({error})") from error
    if token is None and not ipaddress.ip_address(address[0]).is_loopback:
        raise OptionError(
            "host",
            host,
            f"without a token 127.0.0.1 only, where no other machine comes in. Put a token into {TOKEN_VARIABLE} or "
            "--token-file, or let clients come through a tunnel such as ssh -L",
        )
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it means that two programs may have the same port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise OptionError("port", port, f"a free one of {host!r} ({error.strerror}); 0 takes any") from error
    return bound


def _limit_sending(connection: socket.socket, seconds: float) -> None:
    """Makes sending fail after a time in which the other side took no byte, on a socket without TLS.

    ``settimeout`` would bound receiving too, and drop a client that has nothing to ask for a while.
    """
    if os.name == "posix":
        limit = struct.pack("ll", int(seconds), int(seconds % 1.0 * 1e6))  # a struct timeval
    else:
        limit = struct.pack("L", int(seconds * 1e3))  # a DWORD
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def _check_servable(card: PolicyCard) -> None:
    """Refuses a policy two of whose cameras are the same one of the env: clients may give them different pictures."""
    if len(set(card.camera_map.values())) < len(card.camera_map):
        raise PolicyMismatchError(
            f"The policy {card.name!r} has the camera map {dict(card.camera_map)}. To be served, each of its cameras "
            "needs an env camera of its own; clients can map two of them to the same one."
        )


def _empty_request(card: PolicyCard) -> ChunkRequest:
    sizes = {theirs: card.cameras[ours] for ours, theirs in card.camera_map.items()}
    return ChunkRequest(make_warm_up_observation(card, sizes), WARM_UP_INSTRUCTION, _draw_noise(card))


def _draw_noise(card: PolicyCard) -> Array:
    return np.random.default_rng().standard_normal((card.chunk_size, card.noise_width), dtype=np.float32)


def _name(connection: ServerConnection) -> str:
    with contextlib.suppress(OSError):  # it may be gone already
        return "client {}:{}".format(*connection.remote_address[:2])
    return "a client"
