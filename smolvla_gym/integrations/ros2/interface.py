"""Network interface of ROS 2's messages: confines the sockets of any middleware to it.

A middleware limits where it announces itself, but receives on all interfaces: CycloneDDS on ``lo`` and rclpy with
``ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST`` both listen on 0.0.0.0. A kernel filter on each of their sockets drops
packets from other interfaces.
"""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from smolvla_gym.errors import DeviceError

LOOPBACK: Final = "lo"
"""Interface that no other computer reaches."""

ANY: Final = "any"
"""All interfaces; with rclpy, those of ROS's own variables."""

_SO_ATTACH_FILTER: Final = 26
_LOAD_WORD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_INTERFACE_OF_PACKET: Final = 0xFFFFF000 + 8  # SKF_AD_OFF + SKF_AD_IFINDEX


def check_interface(name: str) -> None:
    """Check that a network interface exists.

    Raises:
        DeviceError: The interface does not exist.
    """
    known = [interface for _, interface in socket.if_nameindex()]
    if name != ANY and name not in known and (name != LOOPBACK or sys.platform == "linux"):
        raise DeviceError(
            f"There is no network interface {name!r}; this machine has {', '.join(known)}. {LOOPBACK!r} keeps messages "
            f"on this machine, {ANY!r} allows all interfaces."
        )


@contextmanager
def confined(interface: str, *, required: bool) -> Iterator[None]:
    """Confine sockets that the block opens to an interface and the loopback.

    Args:
        interface: The interface.
        required: Whether a system without such filters is an error; False for a middleware that confines itself.

    Raises:
        DeviceError: The sockets cannot be confined.
    """
    if interface == ANY:
        yield
        return
    if sys.platform != "linux":
        if required:
            raise DeviceError(
                f"rclpy cannot be kept on the network interface {interface!r} on this system: use --transport "
                f"cyclonedds, or --interface {ANY}, which lets other computers command the arm."
            )
        yield
        return
    before = set(open_sockets())
    yield
    allowed = {socket.if_nametoindex(interface), socket.if_nametoindex(LOOPBACK)}
    for inode, handle in open_sockets().items():
        if inode not in before:
            _confine(handle, allowed, interface)


def _confine(handle: int, allowed: Iterable[int], interface: str) -> None:
    with socket.socket(fileno=os.dup(handle)) as opened:
        if opened.family not in (socket.AF_INET, socket.AF_INET6):
            return
        if opened.type != socket.SOCK_DGRAM:
            raise DeviceError(
                f"This middleware uses TCP, which cannot be kept on the network interface {interface!r}: choose "
                f"another, or --interface {ANY}, which lets other computers command the arm."
            )
        try:
            admit(opened, allowed)
        except OSError as error:
            raise DeviceError(
                f"The network interface {interface!r} cannot be kept ({error.strerror or error}): use --interface "
                f"{ANY}, which lets other computers command the arm."
            ) from error


def admit(opened: socket.socket, allowed: Iterable[int]) -> None:
    """Let a socket receive only packets from some interfaces.

    Args:
        opened: A UDP socket.
        allowed: Indices of the interfaces.

    Raises:
        OSError: The kernel refuses the filter.
    """
    indices = sorted(set(allowed))
    program = [(_LOAD_WORD, 0, 0, _INTERFACE_OF_PACKET)]
    # A comparison that holds jumps over the rest of them and the return that drops the packet.
    program += [(_IF_EQUAL, len(indices) - number, 0, index) for number, index in enumerate(indices)]
    program += [(_RETURN, 0, 0, 0), (_RETURN, 0, 0, 0xFFFFFFFF)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code)))


def open_sockets() -> dict[int, int]:
    """Return a file descriptor of each socket of this process, by its inode."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:  # closed meanwhile
            continue
        if stat.S_ISSOCK(status.st_mode):
            found[status.st_ino] = int(name)
    return found
