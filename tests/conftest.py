"""Settings of all tests, and the distribution of the tests over processes."""

import os
import signal
from collections import OrderedDict

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
    """Group the tests against the clock."""
    for item in items:
        if item.get_closest_marker("realtime"):
            item.add_marker(pytest.mark.xdist_group(CLOCK))


def pytest_xdist_make_scheduler(config, log):
    """Give each process whole files, and to the last process the tests against the clock."""
    from xdist.scheduler import LoadGroupScheduling

    class Queue(OrderedDict):
        def popitem(self, last=True):
            if CLOCK in self:
                self.move_to_end(CLOCK)
            return super().popitem(last)

    class Scheduling(LoadGroupScheduling):
        def __init__(self, config, log):
            super().__init__(config, log)
            self.workqueue = Queue()

        def _split_scope(self, nodeid):
            return CLOCK if nodeid.endswith(f"@{CLOCK}") else nodeid.split("::")[0]

        def _reschedule(self, node):
            others = [other for other in self.nodes if other is not node and not other.shutting_down]
            if [*self.workqueue] == [CLOCK] and others and self._pending_of(self.assigned_work[node]) <= 2:
                node.shutdown()  # it ends with the tests that it has
            else:
                super()._reschedule(node)

    return Scheduling(config, log)
