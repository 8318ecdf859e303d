"""Client of a policy server."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final, override
from urllib.parse import urlsplit

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI
from websockets.frames import CloseCode
from websockets.sync.client import ClientConnection, connect

from smolvla_gym.agent.cameras import map_cameras
from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy, ChunkRequest, PolicyCard
from smolvla_gym.agent.policies.remote.messages import open_message, read_answer, read_description, write_request
from smolvla_gym.agent.policies.remote.wire import MAX_MESSAGE_BYTES, WireError
from smolvla_gym.errors import (
    ActionError,
    InferenceError,
    InferenceTimeoutError,
    OptionError,
    PolicyConnectionError,
    PolicyServerError,
)
from smolvla_gym.utils.option_values import check_number
from smolvla_gym.utils.tokens import TOKEN_VARIABLE, authorization, choose_token
from smolvla_gym.utils.untrusted import printable

_RETRY_S: Final = 0.1
"""Pause in s between a failure and the next attempt. In sync the arm waits meanwhile, and it brakes after 0.25 s."""

_MAX_ERROR: Final = 500
"""Most characters of a server's text in an error."""

_UNAVAILABLE: Final = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


@dataclass(frozen=True)
class ClientTimeouts:
    """Timeouts of a connection to a policy server.

    Attributes:
        open_s: Longest time in s until the server accepts the connection, and until it sends its description.
        close_s: Longest time in s for the server's closing handshake.
        ping_interval_s: Time in s between two pings.
        ping_timeout_s: Longest time in s for a pong. After the sum of both times the connection is lost if the server
            is silent (such as with an unplugged cable) or accepts no request.
    """

    open_s: float = 3.0
    close_s: float = 1.0
    ping_interval_s: float = 1.0
    ping_timeout_s: float = 4.0


_DEFAULT_TIMEOUTS: Final = ClientTimeouts()


class RemotePolicy(ChunkPolicy):
    """The policy of a ``smolvla-gym serve``. After a lost connection the next request connects again.

    Attributes:
        timing: Times of the latest chunk in ms: ``round_trip_ms`` of the request, and as parts of it on the server
            ``wait_ms`` for other clients' requests and ``infer_ms``.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        camera_map: Mapping[str, str | None] | None = None,
        timeout_s: float = 10.0,
        timeouts: ClientTimeouts = _DEFAULT_TIMEOUTS,
    ) -> None:
        """Connect to the server.

        Args:
            address: ``"host:port"``, ``"ws://host:port"`` or, of a server behind TLS, ``"wss://host"``.
            token: The server's token. None: that of the environment variable ``SMOLVLA_GYM_TOKEN``, if it is set.
            camera_map: Env camera by policy camera, for cameras whose names differ; None leaves a camera out.
            timeout_s: Longest time in s for an answer.
            timeouts: Timeouts of the connection.

        Raises:
            OptionError: An option has a value that is not allowed.
            PolicyConnectionError: There is no server, or it cannot be reached.
            PolicyServerError: The server is of another kind or version, or requires another token.
            PolicyMismatchError: Its policy is for another arm, or does not have the cameras of ``camera_map``.
        """
        self._address = _read_address(address)
        self._token = choose_token(token)
        self._timeout_s = check_number("timeout_s", timeout_s, "a finite number of s above 0", above=0.0)
        self._timeouts = timeouts
        self.timing: Mapping[str, float] = {}
        # Several threads may use the policy; the lock allows one request at a time.
        self._lock = threading.Lock()
        self._numbers, self._numbered = itertools.count(1), False
        self._closed = threading.Event()
        self._not_before = 0.0
        self._connection: ClientConnection | None
        self._connection, self._served = self._connect()
        try:
            cameras = map_cameras(self._served.name, self._served.camera_map, camera_map)
        except BaseException:
            self.close()
            raise
        absent = tuple(camera for camera in self._served.cameras if camera not in cameras)
        self._card = replace(
            self._served,
            cameras={camera: self._served.cameras[camera] for camera in cameras},
            camera_map=cameras,
            absent_cameras=absent,
            empty_cameras=max(0, self._served.empty_cameras - len(absent)),
        )

    @property
    @override
    def card(self) -> PolicyCard:
        return self._card

    @property
    def address(self) -> str:
        """Address of the server."""
        return self._address

    @override
    def infer(self, request: ChunkRequest) -> Chunk:
        """Compute a chunk on the server; see the base class. Connecting again raises the errors of the constructor.

        Raises:
            InferenceError: The policy failed, or the answer is no chunk.
            InferenceTimeoutError: The server did not answer in time.
        """
        number = next(self._numbers)
        try:
            message = write_request(request, self._card, number)
        except WireError as error:
            raise InferenceError(f"The observation cannot be sent to {self._address}: {error}.") from error
        with self._lock:
            if self._connection is None:
                self._connection = self._reconnect()
            started = time.monotonic()
            try:
                self._check_idle(self._connection)
                self._connection.send(message)
                answer = self._connection.recv(self._timeout_s)
            except BaseException as error:  # also Ctrl-C: the next request must not read the pending answer as its own
                self._drop()
                if isinstance(error, TimeoutError):
                    raise InferenceTimeoutError(
                        f"The policy server at {self._address} sent no chunk within {self._timeout_s:g} s. The arm "
                        "holds. Check whether it is busy with other clients or its device hangs; a slow server needs a "
                        "larger timeout_s."
                    ) from None
                if isinstance(error, ConnectionClosed):
                    raise self._explain_closing(error) from error
                raise
            round_trip_ms = 1e3 * (time.monotonic() - started)
            try:
                chunk, timing = self._read(answer, number)
            except _WrongNumberError:
                self._drop()
                raise
        self.timing = {"round_trip_ms": round_trip_ms, **timing}
        return chunk

    @override
    def close(self) -> None:
        self._closed.set()
        connection = self._connection
        if connection is not None:
            connection.close()

    def _check_idle(self, connection: ClientConnection) -> None:
        """Refuse a connection with an unread answer: it would be taken for the answer of the next request."""
        try:
            connection.recv(0)
        except TimeoutError:
            return
        raise InferenceError(
            f"The policy server at {self._address} sent an answer without a request. The arm holds; the next request "
            "connects again."
        )

    def _read(self, answer: bytes | str, number: int) -> tuple[Chunk, dict[str, float]]:
        if isinstance(answer, str):
            raise self._failure(answer)
        try:
            message, answered = open_message(answer)
            if answered != number and (self._numbered or answered is not None):
                raise _WrongNumberError(
                    f"The policy server at {self._address} answered request {answered}, not {number}. The arm holds; "
                    "the next request connects again."
                )
            if isinstance(text := message.get("error"), str):
                raise self._failure(text)
            chunk, timing = read_answer(message, self._card)
        except WireError as error:
            raise InferenceError(
                f"The policy server at {self._address} answered with something else than a chunk ({error}). "
                "The arm holds."
            ) from error
        if not np.isfinite(chunk.actions).all():
            raise ActionError(f"The policy server at {self._address} sent actions that are not finite. The arm holds.")
        return chunk, timing

    def _failure(self, answer: str) -> ActionError | InferenceError:
        """Return the error of a server's error text."""
        kind, _, text = answer.partition(": ")
        if kind == ActionError.__name__:
            return ActionError(printable(text, _MAX_ERROR))
        return InferenceError(
            f"The policy server at {self._address} answered: {printable(answer, _MAX_ERROR)} The arm holds."
        )

    def _reconnect(self) -> ClientConnection:
        """Connect again. After a failure this waits first, so that a caller's retries do not spin."""
        if self._closed.wait(max(0.0, self._not_before - time.monotonic())):
            raise InferenceError(f"The connection to {self._address} was closed with close(). Connect again.")
        try:
            connection, card = self._connect()
        except BaseException:
            self._delay_reconnection()
            raise
        if card != self._served:
            connection.close()
            self._delay_reconnection()
            raise PolicyServerError(
                f"The server at {self._address} serves another policy now: {printable(card, _MAX_ERROR)}. Before "
                f"it was {printable(self._served, _MAX_ERROR)}. Serve that one again, or connect again to use this one."
            )
        return connection

    def _connect(self) -> tuple[ClientConnection, PolicyCard]:
        connection = self._open()
        try:
            # For a server that accepts no more bytes, so that no ping gets through. The timeout applies to receiving
            # too, so it must not be shorter than the pings'. SO_SNDTIMEO, for sending alone, has no effect with TLS.
            connection.socket.settimeout(self._timeouts.ping_interval_s + self._timeouts.ping_timeout_s)
            card, self._numbered = read_description(connection.recv(self._timeouts.open_s))
            return connection, card
        except BaseException as error:
            connection.close()
            if isinstance(error, TimeoutError | ConnectionClosed):
                raise self._unreachable(error) from error
            if isinstance(error, WireError):
                raise PolicyServerError(f"The server at {self._address} cannot be used: {error}.") from error
            raise

    def _open(self) -> ClientConnection:
        try:
            # __enter__ without __exit__: close() closes it. A bare call will change its meaning in websockets.
            entered: Any = connect(
                self._address,
                additional_headers=None if self._token is None else authorization(self._token),
                compression=None,
                proxy=None,
                open_timeout=self._timeouts.open_s,
                ping_interval=self._timeouts.ping_interval_s,
                ping_timeout=self._timeouts.ping_timeout_s,
                close_timeout=self._timeouts.close_s,
                max_size=MAX_MESSAGE_BYTES,
            ).__enter__()
            connection: ClientConnection = entered
            return connection
        except (InvalidURI, UnicodeError) as error:
            raise OptionError("address", self._address, "host:port or ws://host:port") from error
        except (OSError, ConnectionClosed) as error:
            raise self._unreachable(error) from error
        except InvalidHandshake as error:
            status = error.response.status_code if isinstance(error, InvalidStatus) else None
            if status == HTTPStatus.UNAUTHORIZED:
                raise PolicyServerError(
                    f"The server at {self._address} requires {'another' if self._token else 'a'} token: that of its "
                    f"--token-file or {TOKEN_VARIABLE}. Give it as token=... or in {TOKEN_VARIABLE}."
                ) from error
            # A tunnel without a server behind it closes the connection without an answer.
            no_answer = isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError | OSError)
            if no_answer or status in _UNAVAILABLE:
                raise self._unreachable(error) from error
            raise PolicyServerError(
                f"The program at {self._address} is no policy server ({printable(error)}). Check that this is the port "
                "of `smolvla-gym serve`."
            ) from error

    def _unreachable(self, error: Exception) -> PolicyConnectionError:
        reason = printable(error) or type(error).__name__
        return PolicyConnectionError(
            f"The policy server at {self._address} cannot be reached ({reason}). Start one there with `smolvla-gym "
            "serve`, and check the address, the tunnel and the firewall."
        )

    def _explain_closing(self, closed: ConnectionClosed) -> InferenceError | PolicyConnectionError:
        if closed.rcvd is not None and closed.rcvd.code == CloseCode.MESSAGE_TOO_BIG:
            return InferenceError(f"The request is too large for the policy server at {self._address}. The arm holds.")
        reason = printable(closed.__cause__ or closed)
        return PolicyConnectionError(f"The connection to the policy server at {self._address} was lost ({reason}).")

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._delay_reconnection()
        if connection is not None:
            connection.close()

    def _delay_reconnection(self) -> None:
        self._not_before = time.monotonic() + _RETRY_S


class _WrongNumberError(InferenceError):
    """The answer has the number of another request."""


def _read_address(address: str) -> str:
    """Return the address as a URI."""
    allowed = "host:port, ws://host:port or wss://host"
    if not isinstance(address, str):
        raise OptionError("address", address, allowed)
    uri = address if "://" in address else f"ws://{address}"
    try:
        parts = urlsplit(uri)
        known = parts.scheme in ("ws", "wss") and bool(parts.hostname) and (bool(parts.port) or "://" in address)
        valid = known and not any(character.isspace() for character in uri)  # urlsplit drops line ends
    except ValueError:
        valid = False
    if not valid:
        raise OptionError("address", address, allowed)
    return uri
