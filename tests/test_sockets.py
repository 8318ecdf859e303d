"""Every socket of the package against one list of requirements.

Requirements:

====  ==================================================================================================================
who   Outsiders do not reach it: it is bound to the loopback, or has a path that the owner alone can use, or is an
      anonymous pair that a process of ours inherits.
ask   Whoever reaches it without a right to is refused: a web page by Host and Origin, a program by a token where the
      socket is open to other machines.
code  Nothing from outsiders is unpickled or evaluated.
size  A message has a limit.
junk  Bytes that are no message crash nothing, and move nothing.
idle  Connections that say nothing do not end it, and do not shut others out.
free  A peer that is gone gives back what it took.
====  ==================================================================================================================

Sockets, and where each requirement is met or why it is not needed (``test_process_sockets.py`` tests the processes):

==================  ====================================================================================================
page                ``view``: TCP on the loopback, Host and Origin (``utils/http_guard.py``), messages of 64 KiB that
                    the guard lets through one kind by one (``viewer/guard.py``), 32 opening connections and 16 clients.
policy server       ``serve``: TCP on the loopback; another interface needs a token. Host and Origin, msgpack of plain
                    values of 4 MiB (``wire.py``), 32 opening connections and 64 clients (``connection_limiter.py``).
camera server       ``cameras serve`` and the twin's MJPEG cameras: TCP on the loopback; another interface needs a
                    token. Host and Origin, heads of 16 KiB, GET alone, 32 opening connections and 16 streams
                    (``mjpeg_server.py``). Tested in ``tests/drivers/test_mjpeg_server.py``.
policy process      the same server, always with a token of its own; besides pipes it inherits (``ipc``), lines of JSON
                    of 1 MiB.
board's process     pipes that it inherits (``ipc``), lines of JSON of 1 MiB; a line that is no request stops the arm.
twin's process      the same pipes, and shared memory without a name that it inherits. Fields of these messages are
                    pickled objects.
twin's serial port  a pseudo-terminal with mode 0600 in a folder with mode 0700; the firmware's parser holds one packet.
benchmark's process the same pipes; the report in its reply is a pickled object.
workers             processes of ``multiprocessing`` (``worker_pool.py``): inherited pairs, pickled.
Ray, local          listens on all interfaces, as Ray always does; it obeys those who know its token. Tested with
                    the cluster, in ``tests/evaluation``.
Rerun viewer        TCP on the loopback; it shows data and commands nothing.
ROS 2 graph         by design everybody in the domain commands the arm (SECURITY.md); typed messages of limited length
                    (``bridge/trajectory.py``, ``bridge/bridge.py``).
clients             ``RemotePolicy``, MJPEG and RTSP cameras and serial ports over TCP connect to what the user names.
                    What they read is limited and checked (``wire.py``, ``multipart.py``, ``jpeg.py``,
                    ``parol6/protocol/parser.py``).
==================  ====================================================================================================
"""

from __future__ import annotations

import ast
import contextlib
import os
import pickle
import socket
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import smolvla_gym
from smolvla_gym.agent.policies.remote import server as server_module
from smolvla_gym.agent.policies.remote.client import RemotePolicy
from tests.agent.policies.connections import serving, talking
from tests.agent.policies.policies import Wave, make_request
from tests.sockets import listening, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for sockets in /proc")

PACKAGE = Path(smolvla_gym.__file__).parent
IDLE = 100


class TcpServer:
    """A server of ours on TCP, as an outsider meets it."""

    def __init__(self, address, use, talk, limit):
        self.host, _, port = address.rpartition("://")[2].rpartition(":")
        self.port, self.pids = int(port), [os.getpid()]
        self.use, self.talk, self.limit = use, talk, limit

    def dial(self):
        return socket.create_connection((self.host, self.port), 10)


@contextlib.contextmanager
def page():
    viser = pytest.importorskip("viser")
    from smolvla_gym.integrations.viewer.guard import MAX_MESSAGE_BYTES
    from smolvla_gym.integrations.viewer.page import Page
    from tests.integrations.page_client import Client

    with gym.make(smolvla_gym.SIM_ID, cameras=(), task="reach") as env:
        env.reset(seed=0)
        served = Page(env, 0)

        def use():
            with contextlib.closing(Client(served.url)) as client:
                client.wait(lambda: "EMERGENCY STOP" in client.uuids)
                assert served.receive() == [], "junk pressed a button"
                client.press("EMERGENCY STOP")
                until(lambda: served.receive() == [("/estop", {"data": True})])

        def talk():
            protocols = [f"viser-v{viser.__version__}"]
            return connect(served.url.replace("http", "ws"), subprotocols=protocols, max_size=None, close_timeout=0.2)

        yield TcpServer(served.url, use, talk, MAX_MESSAGE_BYTES)
        served.close()


@contextlib.contextmanager
def policy_server(token=None):
    wave = Wave()
    with serving(wave, token=token) as server:

        def use():
            before = wave.count
            with contextlib.closing(RemotePolicy(server.address, token=token)) as remote:
                remote.infer(make_request())
            assert wave.count == before + 1, "junk was taken for a request"

        headers = {} if token is None else {"Authorization": f"Api-Key {token}"}
        yield TcpServer(
            server.address,
            use,
            lambda: connect(server.address, additional_headers=headers, max_size=None, close_timeout=0.2),
            server_module.MAX_MESSAGE_BYTES,
        )


@contextlib.contextmanager
def policy_server_with_token():
    with policy_server("secret") as server:
        yield server


SERVERS = {"page": page, "policy server": policy_server, "policy server with a token": policy_server_with_token}


@pytest.fixture(scope="module", params=SERVERS.values(), ids=SERVERS)
def server(request):
    with request.param() as server:
        yield server


class Bomb:
    """What runs where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


JUNK = {
    "nothing": b"",
    "zeros": bytes(1000),
    "random": np.random.default_rng(0).bytes(5000),
    "half a request": b"GET / HTTP/1.1\r\nHost: ",
    "an endless line": b"GET /" + b"x" * 200_000,
    "endless headers": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50_000,
    "a form": b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nestop=off",
    "TLS": bytes.fromhex("1603010200010001fc0303"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another method": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a path": b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "another version": b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
}


# -- who ---------------------------------------------------------------------------------------------------------------


def test_servers_listen_on_the_loopback_alone(server):
    ours = {ip for ip, port in listening(server.pids) if port == server.port}
    assert ours == {"127.0.0.1"}


# -- ask ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        "Host: evil.example", "Host: 127.0.0.1\r\nOrigin: https://evil.example", "Host: 127.0.0.1\r\nOrigin: null",
        "Host: evil.example\r\nOrigin: http://evil.example", "Host: 127.0.0.1\r\nHost: 127.0.0.1",
    ],
)  # fmt: skip
def test_foreign_pages_are_refused_before_the_upgrade(server, headers):
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nAuthorization: Api-Key secret"
    for upgrade in (f"Connection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n", ""):
        with server.dial() as connection:
            connection.sendall(f"GET / HTTP/1.1\r\n{headers}\r\n{upgrade}\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 403 ")


# -- code --------------------------------------------------------------------------------------------------------------


def test_nothing_from_outsiders_is_unpickled(server, tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "owned"))
    with server.dial() as connection:
        connection.sendall(bomb)
    with server.talk() as connection, contextlib.suppress(ConnectionClosed, TimeoutError):
        for _ in range(3):
            connection.send(bomb)
            connection.recv(0.2)
    server.use()
    assert not (tmp_path / "owned").exists()


USES = {
    "pickle": {"ipc/messages.py"},
    "marshal": set(),
    "shelve": set(),
    "multiprocessing": {"utils/signals.py", "utils/worker_pool.py"},
    "socket": {
        "agent/policies/remote/server.py", "utils/connection_limiter.py", "utils/listening_socket.py",
        "drivers/cameras/mjpeg_server.py", "drivers/cameras/mjpeg_source.py", "evaluation/cluster.py",
        "integrations/viewer/server.py",
        "integrations/ros2/interface.py", "integrations/rerun/viewer.py",
    },
    "socketserver": set(),
    "http": {
        "agent/policies/remote/client.py", "agent/policies/remote/server.py", "drivers/cameras/mjpeg_server.py",
        "integrations/viewer/guard.py",
    },
    "asyncio": {"integrations/viewer/guard.py"},
    "websockets": {
        "agent/policies/remote/client.py", "agent/policies/remote/server.py", "integrations/viewer/guard.py",
        "integrations/viewer/server.py",
    },
    "viser": {"integrations/viewer/server.py"},
    "ray": {"evaluation/cluster.py"},
    "grpc": set(),
    "zmq": set(),
    "xmlrpc": set(),
}  # fmt: skip
"""Where modules that open sockets, or run what they read, may be imported."""


def test_the_list_above_is_complete():
    found = {module: set() for module in USES}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                if (top := name.partition(".")[0]) in found:
                    found[top].add(str(file.relative_to(PACKAGE)))
    assert found == USES, "a new socket: add it to the list, and to the tests"


# -- size --------------------------------------------------------------------------------------------------------------


def test_messages_have_a_limit(server):
    with server.talk() as connection:
        with contextlib.suppress(ConnectionClosed):
            connection.send(bytes(server.limit + 1))
            while True:
                connection.recv(10)
        assert connection.close_code == 1009
    server.use()


FRAGMENT = bytes([0x00, 0x80, 0, 0, 0, 0])
"""An empty frame of a message that goes on."""


def upgraded(server):
    """A connection that is a WebSocket, of which this test writes the frames."""
    with server.talk() as model:
        headers = "".join(f"{name}: {value}\r\n" for name, value in model.request.headers.raw_items())
    connection = server.dial()
    connection.sendall(f"GET / HTTP/1.1\r\n{headers}\r\n".encode())
    assert connection.recv(12) == b"HTTP/1.1 101"
    return connection


def test_a_message_in_endless_fragments_is_not_collected(server):
    with upgraded(server) as connection:
        connection.sendall(bytes([0x02, 0x80, 0, 0, 0, 0]) + 1500 * FRAGMENT)
        connection.settimeout(10)
        with contextlib.suppress(ConnectionError):
            while connection.recv(65536):
                pass
    server.use()


# -- junk --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_junk_does_no_harm(server, junk):
    with server.dial() as connection, contextlib.suppress(OSError):
        connection.sendall(junk)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(2)
        while connection.recv(65536):
            pass
    server.use()


def test_junk_in_messages_does_no_harm(server):
    rng = np.random.default_rng(1)
    with server.talk() as connection, contextlib.suppress(ConnectionClosed):
        for junk in (
            "",
            "text",
            b"",
            b"\xc1",
            b"\x91" * 50_000,
            b"\xdf\xff\xff\xff\xff",
            *map(rng.bytes, range(1, 30)),
        ):
            connection.send(junk)
    server.use()


# -- idle and free -----------------------------------------------------------------------------------------------------


def test_idle_connections_end_nothing_and_are_given_back(server):
    files = psutil.Process().num_fds()
    with contextlib.ExitStack() as stack:
        for number in range(IDLE):
            connection = stack.enter_context(server.dial())
            with contextlib.suppress(OSError):
                connection.sendall(b"G" * (number % 2))
        server.use()
    server.use()
    until(lambda: psutil.Process().num_fds() <= files + 5)


def test_clients_that_vanish_are_given_back(server):
    server.use()
    time.sleep(0.1)
    files = psutil.Process().num_fds()
    for _ in range(10):
        connection = server.talk()
        connection.socket.shutdown(socket.SHUT_RDWR)
        connection.close()
    until(lambda: psutil.Process().num_fds() <= files + 2)
    server.use()


def test_a_client_with_the_token_is_served_beside_those_without():
    with policy_server("secret") as server:
        address = f"{server.host}:{server.port}"
        for _ in range(20):
            with pytest.raises(Exception, match="401"), talking(f"ws://{address}"):
                pass
        server.use()
