"""Helpers of the tests: servers in a thread, raw connections, and waiting."""

import contextlib
import threading
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve

from smolvla_gym.agent.policies.remote.server import PolicyServer

TIMEOUT = 30.0


@contextlib.contextmanager
def serving(policy, **options):
    """Serves a policy in a thread and yields the server."""
    ready = threading.Event()
    with PolicyServer(**{"port": 0, **options}) as server:
        thread = threading.Thread(target=server.serve, args=(policy, ready.set))
        thread.start()
        try:
            assert ready.wait(TIMEOUT)
            yield server
        finally:
            server.close()
            thread.join(TIMEOUT)
            assert not thread.is_alive()


@contextlib.contextmanager
def talking(address, **options):
    """A connection by hand that is past the server's description."""
    with connect(address, compression=None, max_size=None, **options) as connection:
        connection.recv(TIMEOUT)
        yield connection


@contextlib.contextmanager
def impostor(first, *answers):
    """A websocket server with fixed answers; None: no first message; 1009 closes the connection."""

    def talk(connection):
        with contextlib.suppress(ConnectionClosed):
            if first is not None:
                connection.send(first)
            for answer in answers:
                connection.recv()
                if answer == 1009:
                    connection.close(1009)
                connection.send(answer)
            connection.recv()

    with serve(talk, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield "{}:{}".format(*server.socket.getsockname())
    thread.join(TIMEOUT)


def until(true):
    deadline = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
