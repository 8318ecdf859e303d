"""What holds for all tests."""

import os
import signal

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
