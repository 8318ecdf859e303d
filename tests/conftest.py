"""Settings of all tests, and the distribution of the tests over processes."""

import os
import signal

import pytest
from hypothesis import settings

# How long an example takes says something of the machine, and nothing of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# The tests run beside each other, and threads on busy cores spend their time waiting for one another. For torch here,
# before it is imported, and in the programs that the tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell has what it starts in the background ignore Ctrl-C, and the programs that the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CLOCK = "clock"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep the tests against the clock in one process, one after another."""
    for item in items:
        if item.get_closest_marker("realtime"):
            item.add_marker(pytest.mark.xdist_group(CLOCK))


def pytest_xdist_make_scheduler(config, log):
    """Give each process whole files, and one of them the tests against the clock."""
    from xdist.scheduler import LoadGroupScheduling

    class Scheduling(LoadGroupScheduling):
        def _split_scope(self, nodeid):
            return CLOCK if nodeid.endswith(f"@{CLOCK}") else nodeid.split("::")[0]

    return Scheduling(config, log)


def pytest_runtest_setup(item):
    """Lower the priority of a process that runs other tests, so that they do not delay those against the clock."""
    if "PYTEST_XDIST_WORKER" in os.environ and not item.get_closest_marker("realtime") and os.nice(0) == 0:
        os.nice(19)
