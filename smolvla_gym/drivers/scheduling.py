"""Scheduling of threads: low latency for control loops, background for rendering."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import threading
from typing import Final

_NICENESS: Final = 10
"""Niceness of a background thread."""

_SLICE: Final = 100_000
"""Time slice in ns of a low-latency thread, the shortest that the kernel takes."""

# (sched_setattr, sched_getattr) of Linux: glibc has functions for them since 2.41 only.
_CALLS: Final = {"x86_64": (314, 315), "aarch64": (274, 275)}

_ORDINARY: Final = (0, 3)
"""SCHED_OTHER and SCHED_BATCH, the policies with slices."""


_NOT_FOR_CHILDREN: Final = 1
"""SCHED_FLAG_RESET_ON_FORK: threads and programs that are started later have ordinary slices."""


class _Attributes(ctypes.Structure):
    """Linux' ``struct sched_attr``, see sched_setattr(2)."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def request_low_latency_scheduling() -> bool:
    """Have the calling thread run as soon as it wakes, where the system allows that to all users: Linux from 6.12 on.

    Its share of the processor stays the same. By default a thread that wakes on a busy processor waits until the one
    that runs there has used its slice up, 3 ms; one with a shorter slice does not. Older kernels take it and change
    nothing. A thread that did this cannot give itself another policy any more without ``SCHED_RESET_ON_FORK``, unless
    it has CAP_SYS_NICE.

    Returns:
        Whether the kernel took the request.
    """
    calls = _CALLS.get(platform.machine()) if sys.platform == "linux" else None
    if calls is None:
        return False
    change, read = calls
    system = ctypes.CDLL(None, use_errno=True)
    attributes = _Attributes()
    size = ctypes.sizeof(attributes)
    if system.syscall(read, 0, ctypes.byref(attributes), size, 0) != 0 or attributes.policy not in _ORDINARY:
        return False
    attributes.runtime, attributes.flags = _SLICE, _NOT_FOR_CHILDREN
    return bool(system.syscall(change, 0, ctypes.byref(attributes), 0) == 0)


def request_background_scheduling() -> None:
    """Give the calling thread, and those that it starts, a lower priority than all others of the computer."""
    if sys.platform == "linux":  # elsewhere priorities belong to processes
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
