"""Processes for tests that kill them."""

import multiprocessing


def server_context():
    """Return a context whose processes have imported LeRobot already, and no threads that hold locks.

    A fork of the process of the tests, which has threads, hangs sometimes.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lerobot.datasets.lerobot_dataset", "smolvla_gym.data.dataset"])
    return context
