"""A disk that is full, as far as a program can tell."""

import contextlib

import pytest

resource = pytest.importorskip("resource")  # Windows has no such limits


@contextlib.contextmanager
def full_disk(size):
    """Lets no file grow beyond so many bytes; whoever tries gets an OSError half-way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
