"""A policy that runs elsewhere."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, override
from urllib.parse import urlsplit

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI
from websockets.frames import CloseCode
from websockets.sync.client import ClientConnection, connect

from smolvla_gym.agent.checkpoint.validation import map_cameras
from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy, ChunkRequest, PolicyCard
from smolvla_gym.agent.policies.remote.messages import open_answer, read_answer, read_description, write_request
from smolvla_gym.agent.policies.remote.tokens import TOKEN_VARIABLE, authorization, choose_token
from smolvla_gym.agent.policies.remote.wire import MAX_MESSAGE_BYTES, WireError
from smolvla_gym.errors import (
    ActionError,
    InferenceError,
    InferenceTimeoutError,
    OptionError,
    PolicyConnectionError,
    PolicyServerError,
)
from smolvla_gym.utils.untrusted import printable

_OPEN_TIMEOUT: Final = 3.0
"""How long in s a server may take to let a client in."""

_CLOSE_TIMEOUT: Final = 1.0
"""How long in s a client waits for the server to say goodbye."""

_PING_INTERVAL: Final = 1.0
_PING_TIMEOUT: Final = 4.0
"""After the sum of both in s, a server without a word (a cable that is out) or that takes no request counts as gone."""

_PAUSE: Final = 0.1
"""Between a failure and the next try, in s. In sync the arm waits meanwhile, and it brakes after 0.25 s."""

_MAX_ERROR: Final = 500
"""Characters of a server's text that an error repeats."""

_UNAVAILABLE: Final = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


class RemotePolicy(ChunkPolicy):
    """The policy of a ``smolvla-gym serve``. A connection that drops is made anew at the next request.

    Attributes:
        timing: Of the latest chunk, in ms: ``round_trip_ms`` of the request, and of these on the server ``wait_ms`` for
            other clients' requests and ``infer_ms``.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        camera_map: Mapping[str, str | None] | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        """Connects.

        Args:
            address: ``"host:port"``, ``"ws://host:port"`` or, of a server behind TLS, ``"wss://host"``.
            token: What the server wants to be told. None: that of the environment variable ``SMOLVLA_GYM_TOKEN``, if
                it is set.
            camera_map: Env camera by policy camera, for those whose names differ; None leaves a camera out.
            timeout_s: How long an answer may take in s.

        Raises:
            OptionError: An option has a value that is not allowed.
            PolicyConnectionError: There is no server, or it cannot be reached.
            PolicyServerError: It is of another kind or version, or wants another token.
            PolicyMismatchError: Its policy is for another arm, or does not have the cameras of ``camera_map``.
        """
        self._address = _read_address(address)
        self._token = choose_token(token)
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0.0 < timeout_s < float("inf"):
            raise OptionError("timeout_s", timeout_s, "a finite number of s above 0")
        self._timeout = timeout_s
        self.timing: Mapping[str, float] = {}
        # Two threads may ask the same policy; one request is on its way at a time.
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
        left_out = tuple(camera for camera in self._served.cameras if camera not in cameras)
        self._card = replace(
            self._served,
            cameras={camera: self._served.cameras[camera] for camera in cameras},
            camera_map=cameras,
            absent_cameras=left_out,
            empty_cameras=max(0, self._served.empty_cameras - len(left_out)),
        )

    @property
    @override
    def card(self) -> PolicyCard:
        return self._card

    @property
    def address(self) -> str:
        """Where it runs."""
        return self._address

    @override
    def infer(self, request: ChunkRequest) -> Chunk:
        """See the base class; also raises what the constructor raises, and

        Raises:
            InferenceError: The policy failed, or answered with something else than a chunk.
            InferenceTimeoutError: It did not answer.
        """
        number = next(self._numbers)
        try:
            message = write_request(request, self._card, number)
        except WireError as error:
            raise InferenceError(f"The observation cannot be sent to {self._address}: {error}.") from error
        with self._lock:
            if self._connection is None:
                self._connection = self._reconnect()
            begun = time.monotonic()
            try:
                self._check_idle(self._connection)
                self._connection.send(message)
                answer = self._connection.recv(self._timeout)
            except InferenceError:
                self._drop()
                raise
            except TimeoutError:
                self._drop()
                raise InferenceTimeoutError(
                    f"The policy server at {self._address} gave no chunk within {self._timeout:g} s. The arm holds. Is "
                    "it busy with other clients, or does its device hang? A slow one needs a larger timeout_s."
                ) from None
            except ConnectionClosed as closed:
                self._drop()
                raise self._explain_closing(closed) from closed
            except BaseException:  # Ctrl-C: the answer that still comes must not be taken for that of the next request
                self._drop()
                raise
            took = 1e3 * (time.monotonic() - begun)
            try:
                chunk, timing = self._read(answer, number)
            except _WrongNumberError:
                self._drop()
                raise
        self.timing = {"round_trip_ms": took, **timing}
        return chunk

    @override
    def close(self) -> None:
        self._closed.set()
        connection = self._connection
        if connection is not None:
            connection.close()

    def _check_idle(self, connection: ClientConnection) -> None:
        """Refuses a connection on which something lies that nobody asked for: the next answer would be an old one."""
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
            message, answered = open_answer(answer)
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
            raise ActionError(f"The policy server at {self._address} gave actions that are not finite. The arm holds.")
        return chunk, timing

    def _failure(self, answer: str) -> ActionError | InferenceError:
        """Returns the error that a server's text stands for."""
        kind, _, text = answer.partition(": ")
        if kind == ActionError.__name__:
            return ActionError(printable(text, _MAX_ERROR))
        return InferenceError(
            f"The policy server at {self._address} answered: {printable(answer, _MAX_ERROR)} The arm holds."
        )

    def _reconnect(self) -> ClientConnection:
        """Connects again, not at once after a failure: somebody who asks over and over must not spin."""
        if self._closed.wait(max(0.0, self._not_before - time.monotonic())):
            raise InferenceError(f"The connection to {self._address} was closed with close(). Connect again.")
        try:
            connection, card = self._connect()
        except BaseException:
            self._fail()
            raise
        if card != self._served:
            connection.close()
            self._fail()
            raise PolicyServerError(
                f"The server at {self._address} serves another policy now: {printable(card, _MAX_ERROR)}. Before "
                f"it was {printable(self._served, _MAX_ERROR)}. Serve that one again, or connect again to use this one."
            )
        return connection

    def _connect(self) -> tuple[ClientConnection, PolicyCard]:
        connection = self._open()
        try:
            # For a server that takes no more bytes: no ping comes through then. It bounds receiving as well, so it must
            # not be shorter than what pings allow. SO_SNDTIMEO, which bounds sending alone, does nothing with TLS.
            connection.socket.settimeout(_PING_INTERVAL + _PING_TIMEOUT)
            card, self._numbered = read_description(connection.recv(_OPEN_TIMEOUT))
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
            # Entered and not left: close() does that. A bare call is going to mean something else in websockets.
            entered: Any = connect(
                self._address,
                additional_headers=None if self._token is None else authorization(self._token),
                compression=None,
                proxy=None,
                open_timeout=_OPEN_TIMEOUT,
                ping_interval=_PING_INTERVAL,
                ping_timeout=_PING_TIMEOUT,
                close_timeout=_CLOSE_TIMEOUT,
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
                    f"The server at {self._address} wants {'another' if self._token else 'a'} token: what its "
                    f"--token-file or its {TOKEN_VARIABLE} holds. Give it as token=... or in {TOKEN_VARIABLE}."
                ) from error
            # A tunnel whose other end has no server answers nothing.
            nothing = isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError | OSError)
            if nothing or status in _UNAVAILABLE:
                raise self._unreachable(error) from error
            raise PolicyServerError(
                f"What answers at {self._address} is no policy server ({printable(error)}). Is it the port of "
                "`smolvla-gym serve`?"
            ) from error

    def _unreachable(self, error: Exception) -> PolicyConnectionError:
        why = printable(error) or type(error).__name__
        return PolicyConnectionError(
            f"The policy server at {self._address} cannot be reached ({why}). Start one there with `smolvla-gym "
            "serve`, and look whether the address, the tunnel and the firewall are right."
        )

    def _explain_closing(self, closed: ConnectionClosed) -> InferenceError | PolicyConnectionError:
        if closed.rcvd is not None and closed.rcvd.code == CloseCode.MESSAGE_TOO_BIG:
            return InferenceError(f"The request is too large for the policy server at {self._address}. The arm holds.")
        why = printable(closed.__cause__ or closed)
        return PolicyConnectionError(f"The connection to the policy server at {self._address} was lost ({why}).")

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._fail()
        if connection is not None:
            connection.close()

    def _fail(self) -> None:
        self._not_before = time.monotonic() + _PAUSE


class _WrongNumberError(InferenceError):
    """An answer to another request."""


def _read_address(address: str) -> str:
    """Returns the address as a URI."""
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
