"""Checks of HTTP requests that keep pages of other web sites away from servers on this machine.

A browser lets any page open WebSockets to ``127.0.0.1`` and send requests there. It names the page in ``Origin``, and
the address that the page used in ``Host``. Both servers of this package, the page of ``smolvla-gym view`` and the
policy server of ``smolvla-gym serve``, check them here.
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
"""Frames of a WebSocket message. Clients send a message in one; an empty one takes six bytes to send and a hundred to
keep, so that a limit of bytes alone is none."""

_NETWORKS: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

MAX_TEXT: Final = 100
"""Characters of a foreign header that a message repeats."""


def is_loopback_host(value: str) -> bool:
    """Return whether the value of a ``Host`` header is a loopback name with any port.

    Loopback names are ``localhost``, ``127.0.0.0/8`` and ``[::1]``. Any port is right, because a forwarded port
    (``ssh -L``) has another number than the server's own. A name such as ``evil.example`` is refused even where it
    resolves to ``127.0.0.1``: DNS rebinding works that way.
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
    """Return why a request must be refused, or None where it may be served.

    Args:
        hosts: The values of all its headers ``Host``.
        origins: The values of all its headers ``Origin``. Programs that are no browsers send none.
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
    """Limit of the frames of one WebSocket message, for one connection."""

    def __init__(self) -> None:
        self._count = 0

    def is_passed(self, opcode: int, fin: bool) -> bool:
        """Count a frame, and return whether its message has too many.

        Args:
            opcode: The frame's; those from 8 on stand between the frames of a message.
            fin: Whether it is the last one of its message.
        """
        if opcode < 8:
            self._count = 0 if fin else self._count + 1
        return self._count > MAX_FRAGMENTS
