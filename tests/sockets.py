"""What the tests of sockets share."""

from __future__ import annotations

import socket
import time

import psutil


def listening(pids):
    """Addresses at which processes listen, of TCP and of sockets with a path."""
    found = set()
    for pid in pids:
        for connection in psutil.Process(pid).net_connections("all"):
            if connection.family == socket.AF_UNIX:
                if connection.laddr and not str(connection.laddr).startswith(("\x00", "@")) and not connection.raddr:
                    found.add(("unix", connection.laddr))
            elif connection.status == psutil.CONN_LISTEN:
                found.add((connection.laddr.ip, connection.laddr.port))
    return found


def until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
