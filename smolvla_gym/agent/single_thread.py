"""Compute small policies with one thread of torch.

A small policy computes hundreds of operations of some microseconds each, from which a second thread gains little: the
network of the bundled policy takes 18 ms of CPU time with one thread, and two idle cores took 18 ms for a chunk. If
another program uses one of the cores, each operation waits for it: on two cores with a load of 12 a chunk took 124 ms
with one thread and 2,800 ms with two (medians).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Final

SMALL: Final = 20_000_000
"""Number of parameters below which a policy is small: the bundled one has 1.7 million, SmolVLA 450 million."""

_lock = threading.Lock()
_depth = 0
_threads = 1


def is_small(policy: Any, device: str) -> bool:
    """Return whether a policy computes on a CPU and is small."""
    return device.partition(":")[0] == "cpu" and sum(weight.numel() for weight in policy.parameters()) < SMALL


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Have torch compute with one thread meanwhile, and restore the program's own number.

    The number belongs to the calling thread, and is the default of threads that use torch for the first time.
    """
    import torch

    global _depth, _threads
    with _lock:
        if _depth == 0:  # otherwise another thread has set the default to 1
            _threads = torch.get_num_threads()
        _depth += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            torch.set_num_threads(_threads)
