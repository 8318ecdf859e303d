"""A limit on the size of files, which stands for a full disk."""

import contextlib

import pytest

resource = pytest.importorskip("resource")  # Windows has no such limits


@contextlib.contextmanager
def full_disk(size):
    """Limit the size of files to a number of bytes: writing more raises an OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
