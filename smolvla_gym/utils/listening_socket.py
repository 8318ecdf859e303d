"""Sockets of servers: on the loopback unless there is a token, with a limit of the time that sending takes."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct

from smolvla_gym.errors import OptionError
from smolvla_gym.utils.tokens import TOKEN_VARIABLE


def bind_socket(host: str, port: int, token: str | None) -> socket.socket:
    """Return a TCP socket that is bound and does not listen yet.

    Args:
        host: Name or address of the interface. Interfaces other than the loopback require a token.
        port: The port; 0: a free one.
        token: Token that clients have to send; None: there is none.

    Raises:
        OptionError: An argument has a value that is not allowed, or the port is in use.
    """
    if type(port) is not int or not 0 <= port <= 0xFFFF:
        raise OptionError("port", port, "0 to 65535; 0 uses a free one")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise OptionError("host", host, f"a name or an address of this machine ({error})") from error
    if token is None and not ipaddress.ip_address(address[0]).is_loopback:
        raise OptionError(
            "host",
            host,
            f"without a token 127.0.0.1 only, which other machines cannot reach. Put a token into {TOKEN_VARIABLE} or "
            "--token-file, or let clients connect through a tunnel such as ssh -L",
        )
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on other systems it would let two programs use the same port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise OptionError("port", port, f"a free one of {host!r} ({error.strerror}); 0 uses any") from error
    return bound


def is_on_loopback(bound: socket.socket) -> bool:
    """Return whether other machines cannot reach a bound socket."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def limit_sending(connection: socket.socket, seconds: float) -> None:
    """Make sending fail after a time in which the client accepted no byte, on a socket without TLS.

    ``settimeout`` would limit receiving too, and drop a client that sends no request for a while.
    """
    if os.name == "posix":
        limit = struct.pack("ll", int(seconds), int(seconds % 1.0 * 1e6))  # a struct timeval
    else:
        limit = struct.pack("L", int(seconds * 1e3))  # a DWORD
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
