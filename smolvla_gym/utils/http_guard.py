"""Checks of HTTP requests that keep pages of other web sites away from servers on this machine.

A browser lets any page open WebSockets to ``127.0.0.1`` and send requests there. The header ``Origin`` names the page,
and ``Host`` the address that the page used. This module checks both for the two servers of this package, the page of
``smolvla-gym view`` and the policy server of ``smolvla-gym serve``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from smolvla_gym.utils.untrusted import printable

_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?")
_ORIGIN: Final = re.compile(r"https?://([^/?#@\s]+)")

MAX_FRAGMENTS: Final = 1024
"""Largest number of frames of a WebSocket message. Clients of this package send one frame per message. An empty frame
takes six bytes to send and a hundred to keep, so a limit of bytes does not limit memory."""

_NETWORKS: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

MAX_TEXT: Final = 100
"""Largest number of characters of a foreign header in an error."""


def is_loopback_host(value: str) -> bool:
    """Return whether the value of a ``Host`` header is a loopback name with any port.

    Loopback names are ``localhost``, ``127.0.0.0/8`` and ``[::1]``. Any port is allowed, because a forwarded port
    (``ssh -L``) differs from the server's own. A name such as ``evil.example`` is refused even if it resolves to
    ``127.0.0.1``: DNS rebinding works that way.
    """
    parsed = _HOST.fullmatch(value)
    if parsed is None or (parsed[2] is not None and not 0 < int(parsed[2]) <= 0xFFFF):
        return False
    name = parsed[1].lower()
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return ("[" in name) == (address.version == 6) and any(address in network for network in _NETWORKS)


def refusal(hosts: Sequence[str], origins: Sequence[str], *, own_pages: bool) -> str | None:
    """Return the reason to refuse a request, or None if the server may answer it.

    Args:
        hosts: The values of all its headers ``Host``.
        origins: The values of all its headers ``Origin``. Only browsers send this header.
        own_pages: Whether the server has pages of its own, which may call it. Their origin equals the host.
    """
    if len(hosts) != 1 or not is_loopback_host(hosts[0]):
        return (
            f"The header Host is {_shown(hosts)}; expected one loopback name: localhost, 127.0.0.1 or [::1], with any "
            "port. Use that address, through a tunnel such as ssh -L from another machine."
        )
    if not origins:
        return None
    parsed = _ORIGIN.fullmatch(origins[0]) if len(origins) == 1 else None
    if own_pages and parsed is not None and parsed[1].lower() == hosts[0].lower():
        return None
    expected = f"the page's own, http://{hosts[0]}" if own_pages else "none: pages in a browser are not served"
    return f"The header Origin is {_shown(origins)}; expected {expected}."


def _shown(values: Sequence[str]) -> str:
    return ", ".join(repr(printable(value, MAX_TEXT)) for value in values[:3]) or "absent"


class FragmentLimit:
    """Limit of the frames per WebSocket message of one connection."""

    def __init__(self) -> None:
        self._count = 0

    def is_passed(self, opcode: int, fin: bool) -> bool:
        """Count a frame, and return whether its message has too many.

        Args:
            opcode: Opcode of the frame. Control frames, from 8 on, may come between the frames of a message.
            fin: Whether the frame is the last one of its message.
        """
        if opcode < 8:
            self._count = 0 if fin else self._count + 1
        return self._count > MAX_FRAGMENTS
