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

BESIDE, ALONE = "beside", "alone"
"""Groups of the tests against the clock: those that run beside one another, and those that run one by one."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Group the tests against the clock."""
    for item in items:
        if item.get_closest_marker("realtime"):
            item.add_marker(pytest.mark.xdist_group(ALONE if item.get_closest_marker("alone") else BESIDE))


def _turn(scope):
    """Return whether a scope comes first (0), after those that compute (1), or in the end (2)."""
    return 2 if scope == ALONE else int(scope.startswith(BESIDE))


def pytest_xdist_make_scheduler(config, log):
    """Give each process whole files, then those of the tests against the clock, and to the last process the rest."""
    from xdist.scheduler import LoadGroupScheduling

    class Queue(OrderedDict):
        def popitem(self, last=True):
            scope = min(self, key=_turn)
            return scope, self.pop(scope)

    class Scheduling(LoadGroupScheduling):
        def __init__(self, config, log):
            super().__init__(config, log)
            self.workqueue = Queue()

        def _split_scope(self, nodeid):
            if nodeid.endswith(f"@{ALONE}"):
                return ALONE
            file = nodeid.split("::")[0]
            return f"{BESIDE} {file}" if nodeid.endswith(f"@{BESIDE}") else file

        def _reschedule(self, node):
            others = [other for other in self.nodes if other is not node]
            if [*self.workqueue] != [ALONE] or not others:
                super()._reschedule(node)
            elif all(other.shutting_down for other in others):
                pass  # the last process waits until the others have ended
            elif not node.shutting_down and self._pending_of(self.assigned_work[node]) <= 2:
                node.shutdown()  # it ends with the tests that it has

        def remove_node(self, node):
            unfinished = super().remove_node(node)
            for other in self.nodes:
                self._reschedule(other)
            return unfinished

    return Scheduling(config, log)
