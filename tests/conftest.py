"""For all tests."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: one process on each core, and not two whose threads wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
