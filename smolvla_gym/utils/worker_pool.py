"""A pool of worker processes that share work, and the number of threads that each computes with."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from smolvla_gym.errors import SmolVLAGymError
from smolvla_gym.utils import signals


class _Pool(ProcessPoolExecutor):
    """Pool that starts its processes, which submitting does, so that a terminal's signals do not reach them."""

    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        with signals.withheld():
            return super().submit(fn, *args, **kwargs)


@contextlib.contextmanager
def process_pool(workers: int, prepare: Callable[[], None] | None = None) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of worker processes; leaving it by an exception ends them at once.

    They are spawned and not forked: a process that was forked after rendering cannot render. Unlike
    ``multiprocessing.Pool``, which waits for ever, the pool notices when one of them is killed.

    Args:
        workers: Number of processes.
        prepare: Function that each of them calls first, or None; it has to be importable by its name.

    Raises:
        SmolVLAGymError: One of them was killed.
    """
    others = multiprocessing.active_children()
    try:
        with signals.withheld():
            made = _Pool(workers, multiprocessing.get_context("spawn"), _begin, (prepare,))
        with made as pool:
            try:
                yield pool
            except BaseException:
                for worker in multiprocessing.active_children():
                    if worker not in others:
                        worker.terminate()
                pool.shutdown(cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        raise SmolVLAGymError(
            f"One of {workers} processes was killed before its work was done. Was the memory full? The kernel's log "
            "says so (dmesg); fewer at a time, with --workers, need less."
        ) from error


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Have torch compute with ``count`` threads meanwhile; another number rounds differently."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _begin(prepare: Callable[[], None] | None) -> None:
    signals.ignore_terminal()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare()


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, by whatever cause: nobody would take its results."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
