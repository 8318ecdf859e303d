"""viser's server with the guard in each of its connections."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final

import viser
import viser.infra._infra as infra
import websockets.asyncio.server

from smolvla_gym.errors import DeviceError
from smolvla_gym.integrations.viewer.guard import MAX_MESSAGE_BYTES, Guard, GuardedConnection

HOST: Final = "127.0.0.1"

_TIMEOUT: Final = 5.0
"""Time in s in which the new server has to refuse a foreign request."""

_CLOSE_TIMEOUT: Final = 1.0
"""Time in s that the server waits for a client to close the connection."""

_FOREIGN: Final = b"GET / HTTP/1.1\r\nHost: foreign.invalid\r\nConnection: close\r\n\r\n"

_patching: Final = threading.Lock()


def start_server(port: int, guard: Guard) -> viser.ViserServer:
    """Start viser's server on the loopback, with the guard in each of its connections.

    viser offers no hook for that. Its server calls ``websockets.asyncio.server.serve``; while it starts, this function
    replaces that name in viser's module. A request of a foreign host then tests the running server: one that is not
    guarded, as with an unknown release of viser, is stopped before it has any control.

    Args:
        port: TCP port; 0 takes any.
        guard: Checks the requests and messages of all clients.

    Raises:
        DeviceError: No port is free, or the installed release of viser cannot be guarded.
    """
    listening = _bind(port)
    address: tuple[str, int] = listening.getsockname()
    guarded = False
    connection_type = type("_Connection", (GuardedConnection,), {"guard": guard})

    def serve(handler: Callable[[Any], Any], *args: Any, **options: Any) -> Any:
        nonlocal guarded
        guarded = True
        files = options.pop("process_request", None)
        options |= {
            "sock": listening,
            "process_request": lambda connection, request: guard.admit(connection, request, files),
            "create_connection": connection_type,
            "max_size": MAX_MESSAGE_BYTES,
            "compression": None,
            "close_timeout": _CLOSE_TIMEOUT,
        }
        return websockets.asyncio.server.serve(handler, **options)

    with _replaced_serve(serve):
        server = viser.ViserServer(host=HOST, port=address[1], label="PAROL6", verbose=False)
    if not guarded or server.get_port() != address[1] or not _refuses_foreign(address):
        server.stop()
        listening.close()
        raise DeviceError(
            f"The page cannot be served: viser {viser.__version__} starts its server in an unknown way, and requests "
            "of other web sites could not be refused. Install viser 1.1.1."
        )
    return server


def uuid_of(handle: Any) -> str:
    """Return the name of a control in messages.

    Raises:
        DeviceError: The installed release of viser has no such name.
    """
    uuid = getattr(getattr(handle, "_impl", None), "uuid", None)
    if not isinstance(uuid, str) or not uuid:
        raise DeviceError(f"The controls of viser {viser.__version__} have no known name. Install viser 1.1.1.")
    return uuid


@contextlib.contextmanager
def _replaced_serve(serve: Callable[..., Any]) -> Iterator[None]:
    """Replace ``websockets.asyncio.server.serve`` by a function, for viser's module alone."""
    module: Any = infra
    real = getattr(module, "websockets", None)
    if real is None:
        yield
        return
    server = SimpleNamespace(**{**vars(websockets.asyncio.server), "serve": serve})
    with _patching:
        module.websockets = SimpleNamespace(**{**vars(real), "asyncio": SimpleNamespace(server=server)})
        try:
            yield
        finally:
            module.websockets = real


def _refuses_foreign(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, _TIMEOUT) as connection:
            connection.sendall(_FOREIGN)
            return connection.recv(64).startswith(b"HTTP/1.1 403 ")
    except OSError:
        return False


def _bind(port: int) -> socket.socket:
    # Not the next free port: on the chosen one a user would see, and stop, the arm of another program.
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise DeviceError(
            f"The page cannot be served on port {port} ({error.strerror or error}). End the program that uses "
            "it, or choose another port with --http-port; 0 takes any."
        ) from error
