"""The camera server as an outsider meets it; ``tests/test_sockets.py`` has the requirements."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolvla_gym.drivers.cameras.configs import MjpegConfig
from smolvla_gym.drivers.cameras.mjpeg_server import MAX_STREAMS, JpegChannel, MjpegServer
from smolvla_gym.drivers.cameras.mjpeg_source import MjpegCamera, parse_intrinsics, parse_stamp
from smolvla_gym.drivers.cameras.multipart import ChunkedDecoder, MultipartParser, parse_headers, split_head
from smolvla_gym.errors import OptionError
from tests.drivers.stream_rig import Sender, until
from tests.sockets import listening
from tests.test_sockets import JUNK

ROOT = Path(__file__).resolve().parents[2]
OWN = b"Host: 127.0.0.1\r\n"


@pytest.fixture(scope="module", params=[None, "secret"], ids=["open", "token"])
def sender(request):
    sender = Sender(token=request.param)
    sender.token = request.param
    yield sender
    sender.close()


def dial(sender):
    host, port = sender.server.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), 10)


def ask(sender, request, *, end=False):
    """Send bytes, and the end of them if wanted; return the answer up to a limit."""
    with dial(sender) as connection, contextlib.suppress(OSError):
        connection.settimeout(10)
        connection.sendall(request)
        if end:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while len(answer) < 1000 and (data := connection.recv(1000)):
            answer += data
        return answer
    return b""


def head(sender):
    return OWN + (f"Authorization: Api-Key {sender.token}\r\n".encode() if sender.token else b"")


def use(sender):
    camera = MjpegCamera(MjpegConfig(sender.url, token=sender.token))
    with contextlib.closing(camera):
        camera.start()
        camera.wait_newer(camera.latest().number, 10.0)


def test_it_listens_on_the_loopback_alone(sender):
    port = int(sender.server.address.rpartition(":")[2])
    assert {ip for ip, used in listening([psutil.Process().pid]) if used == port} == {"127.0.0.1"}


def test_another_interface_needs_a_token():
    with pytest.raises(OptionError, match="host"):
        MjpegServer({}, host="0.0.0.0")


@pytest.mark.parametrize(
    "headers",
    [
        b"", b"Host: evil.example\r\n", OWN + b"Origin: https://evil.example\r\n", OWN + b"Origin: null\r\n",
        OWN + OWN, b"Host: evil.example\r\nOrigin: http://evil.example\r\n",
    ],
)  # fmt: skip
def test_foreign_pages_are_refused(sender, headers):
    token = b"Authorization: Api-Key secret\r\n"
    assert ask(sender, b"GET /wrist HTTP/1.1\r\n" + headers + token + b"\r\n").startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "value", [b"", b"Authorization: Bearer secret\r\n", 2 * b"Authorization: Api-Key secret\r\n"], ids=range(3)
)
@pytest.mark.parametrize("path", [b"/", b"/wrist", b"/other"])
def test_without_the_token_there_is_nothing_to_see(sender, path, value):
    if sender.token is None:
        pytest.skip("this server has no token")
    answer = ask(sender, b"GET " + path + b" HTTP/1.1\r\n" + OWN + value + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"wrist" not in answer


def test_what_it_answers(sender):
    assert b'{"wrist": {"connected": true}}' in ask(sender, b"GET / HTTP/1.1\r\n" + head(sender) + b"\r\n")
    for request, status in ((b"GET /x HTTP/1.1", b"404"), (b"POST /wrist HTTP/1.1", b"405"), (b"GET /", b"400")):
        assert ask(sender, request + b"\r\n" + head(sender) + b"\r\n").startswith(b"HTTP/1.1 " + status)
    assert b"image/jpeg" in ask(sender, b"GET /wrist?x=1 HTTP/1.0\r\n" + head(sender) + b"\r\n")


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_junk_does_no_harm(sender, junk):
    ask(sender, junk, end=True)
    use(sender)


def test_idle_connections_shut_nobody_out_and_are_given_back(sender):
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        for number in range(60):
            connection = stack.enter_context(dial(sender))
            with contextlib.suppress(OSError):
                connection.sendall(b"G" * (number % 2))
        use(sender)
    until(lambda: threading.active_count() <= before)


def streams(sender):
    return len(sender.server._limiter._admitted)


def test_clients_that_vanish_or_take_nothing_are_given_back(sender):
    request = b"GET /wrist HTTP/1.1\r\n" + head(sender) + b"\r\n"
    for _ in range(5):
        with dial(sender) as connection:
            connection.sendall(request)
            connection.recv(100)
    lazy = dial(sender)
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.sendall(request)
    use(sender)
    until(lambda: streams(sender) == 0, 10.0)
    lazy.close()


def test_the_number_of_streams_has_a_limit(sender):
    request = b"GET /wrist HTTP/1.1\r\n" + head(sender) + b"\r\n"
    until(lambda: streams(sender) == 0)
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_STREAMS):
            connection = stack.enter_context(dial(sender))
            connection.sendall(request)
            assert connection.recv(12) == b"HTTP/1.1 200"
        assert ask(sender, request).startswith(b"HTTP/1.1 503 ")


def test_close_ends_all_threads_at_once():
    before = set(threading.enumerate())
    channel = JpegChannel()
    server = MjpegServer({"wrist": channel})
    channel.publish(b"x", 1.0)
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as idle, socket.create_connection((host, int(port))) as client:
        idle.sendall(b"G")
        client.sendall(b"GET /wrist HTTP/1.1\r\n" + OWN + b"\r\n")
        client.recv(10)
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 1.0
    assert set(threading.enumerate()) <= before


def test_a_program_that_closes_nothing_ends():
    code = """
from smolvla_gym.drivers.cameras.configs import MjpegConfig
from smolvla_gym.drivers.cameras.mjpeg_source import MjpegCamera
from tests.drivers.stream_rig import Sender
sender = Sender()
camera = MjpegCamera(MjpegConfig(sender.url))
camera.start()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# -- parsers of the reader -------------------------------------------------------------------------------------------

pieces = st.lists(
    st.binary(max_size=200)
    | st.sampled_from([
        b"--B\r\n", b"--B--\r\n", b"Content-Length: 5\r\n", b"\r\n", b"\r\n\r\n", b"hello", b"X: y\r\n", b"5\r\n",
        b"0\r\n",
    ]),
    max_size=12,
)  # fmt: skip
FUZZ = settings(max_examples=200, deadline=None)


@FUZZ
@given(pieces)
def test_no_bytes_break_the_parsers(data):
    parser, chunks = MultipartParser(b"B"), ChunkedDecoder()
    with contextlib.suppress(ValueError):
        for piece in data:
            parser.feed(piece)
            while (part := parser.next()) is not None:
                assert len(part[1]) <= sum(map(len, data))
    with contextlib.suppress(ValueError):
        for piece in data:
            assert len(chunks.feed(piece)) <= sum(map(len, data))
    with contextlib.suppress(ValueError):
        split_head(bytearray(b"".join(data)))
        parse_headers(b"".join(data))


@FUZZ
@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5), st.integers(1, 50), st.booleans())
def test_parts_come_out_whole_however_they_are_cut(bodies, step, chunked):
    stream = b"".join(b"--B\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(body), body) for body in bodies)
    parser, chunks, found = MultipartParser(b"B"), ChunkedDecoder(), []
    for at in range(0, len(stream), step):
        piece = stream[at : at + step]
        parser.feed(chunks.feed(b"%x\r\n%b\r\n" % (len(piece), piece)) if chunked else piece)
        while (part := parser.next()) is not None:
            found.append(part[1])
    assert found == bodies


@FUZZ
@given(st.text(max_size=60) | st.lists(st.floats(), min_size=6, max_size=6).map(lambda n: " ".join(map(str, n))))
def test_what_a_server_states_is_checked(text):
    model = parse_intrinsics(text)
    assert model is None or (model.width >= 1 and 0.0 < model.fx <= 1e5)
    stamp = parse_stamp({"x-timestamp": text})
    assert stamp is None or abs(stamp) < 1e12
