"""The policy server: refused requests, and the order of answers."""

import contextlib
import re
import socket
import threading
import time

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from smolvla_gym.agent import PolicyServer, RemotePolicy
from smolvla_gym.agent.policies.base import PolicyCard
from smolvla_gym.agent.policies.remote.server import ServerTimeouts
from smolvla_gym.agent.policies.remote.wire import MAX_MESSAGE_BYTES, decode, encode
from smolvla_gym.errors import (
    ActionError,
    InferenceError,
    PolicyConnectionError,
    PolicyMismatchError,
)
from tests.agent.policies.connections import TIMEOUT, serving, talking, until
from tests.agent.policies.policies import HEIGHT, WIDTH, Wave, assert_same, make_request, request_map


def test_a_busy_client_waits_like_the_others(wave, server):
    wave.delay_s = 0.02
    message = encode(request_map())
    with talking(server.address, max_queue=None) as greedy, talking(server.address) as other:
        for _ in range(50):
            greedy.send(message)
        until(lambda: wave.count > 1)
        before = wave.count
        other.send(message)
        other.recv(TIMEOUT)
        assert wave.count - before <= 3


# What it refuses.


IMAGE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)


LEFTOVER = np.zeros((3, 7), np.float32)


WRONG = {
    "no prompt": ({"prompt": ...}, "'prompt'"),
    "an empty prompt": ({"prompt": " "}, "'prompt'"),
    "a long prompt": ({"prompt": "x" * 1001}, "'prompt' .* 1001 characters, and at most 1000"),
    "an endless prompt": ({"prompt": "x" * 3_900_000}, "no msgpack that is allowed"),
    "many images": ({"images": {f"camera{i}": IMAGE for i in range(17)}}, "'images' has 17 entries"),
    "a prompt of bytes": ({"prompt": b"go"}, "'prompt'"),
    "no state": ({"state": ...}, "'state'"),
    "a state of numbers": ({"state": [0.0] * 7}, "'state'"),
    "a state of integers": ({"state": np.zeros(7, np.int32)}, "'state'"),
    "a long state": ({"state": np.zeros(9, np.float32)}, r"\(9,\)"),
    "no images": ({"images": ...}, "'images' has to be a map with an image, .* for each of 'top', 'hand'"),
    "images in a list": ({"images": [IMAGE, IMAGE]}, "'images'"),
    "one image": ({"images": {"top": IMAGE}}, "'images'"),
    "images of floats": ({"images": {"top": IMAGE * 1.0, "hand": IMAGE}}, "'top'.* float64"),
    "images left out": ({"images": {"top": None, "hand": None}}, "'images'"),
    "a state in degrees": ({"state": np.full(7, 90.0, np.float32)}, "joint_1 = 90.* in rad"),
    "a state in percent": ({"state": np.array([0, -1.5, 3, 0, 0, 3, 50], np.float32)}, "gripper = 50.* percent"),
    "a state that is not finite": ({"state": np.full(7, np.nan, np.float32)}, "'agent_pos' is not finite"),
    "a prompt of a million letters": ({"prompt": "x" * 1_000_000}, "no msgpack that is allowed"),
    "a prompt with a line end in it": ({"prompt": "pick up\nthe red cube"}, "'prompt' .* control character"),
    "noise that is not finite": ({"noise": np.full((16, 9), np.inf, np.float32)}, "'noise' is not finite"),
    "a leftover that is not finite": ({"leftover": np.full((3, 7), np.nan, np.float32)}, "'leftover' is not finite"),
    "stretched images": ({"images": {"top": IMAGE, "hand": np.zeros((9, 8, 3), np.uint8)}}, "proportions of 6 x 8"),
    "channels first": ({"images": {"top": IMAGE, "hand": np.zeros((3, 6, 8), np.uint8)}}, "proportions of 6 x 8"),
    "short noise": ({"noise": np.zeros((15, 9), np.float32)}, r"'noise' has the shape \(15, 9\), not \(16, 9\)"),
    "noise of texts": ({"noise": "x"}, "'noise'"),
    "a narrow leftover": ({"leftover": np.zeros((3, 6), np.float32)}, "'leftover'"),
    "a long leftover": ({"leftover": np.zeros((17, 7), np.float32)}, "'leftover'"),
    "a flat leftover": ({"leftover": np.zeros(7, np.float32)}, "'leftover'"),
    "a delay without leftover": ({"delay": 1}, "'delay' is 1"),
    "a long delay": ({"delay": 4, "leftover": LEFTOVER}, "'delay' is 4"),
    "a negative delay": ({"delay": -1, "leftover": LEFTOVER}, "'delay' is -1"),
    "a delay of floats": ({"delay": 1.0, "leftover": LEFTOVER}, "'delay' is 1.0"),
    "a number of text": ({"id": "1"}, "'id' is '1', not a whole number"),
    "a negative number": ({"id": -1}, "'id' is -1"),
    "an endless version": ({"version": "\x1b" * 10_000}, "WireError: .*version .{,210} of"),
    "another version": ({"version": 2}, "version 2 .* Install the same release"),
}


@pytest.mark.parametrize(("changes", "answer"), WRONG.values(), ids=WRONG)
def test_wrong_requests_are_answered_and_the_connection_goes_on(wave, server, changes, answer):
    before = wave.count
    with talking(server.address) as connection:
        connection.send(encode(request_map(**changes)))
        begin = time.monotonic()
        assert re.search(answer, connection.recv(TIMEOUT))
        assert time.monotonic() - begin < 1.0
        assert wave.count == before
        if "id" not in changes and "no msgpack" not in answer:
            connection.send(encode(request_map(id=7, **changes)))
            refused = decode(connection.recv(TIMEOUT))
            # What cannot be read has no number either.
            assert refused.keys() == {"id", "error"}
            assert refused["id"] == 7
            assert re.search(answer, refused["error"])
        connection.send(encode(request_map()))
        assert decode(connection.recv(TIMEOUT))["actions"].shape == (16, 7)


def test_answers_have_the_numbers_of_their_requests(server):
    with talking(server.address) as connection:
        for number in (5, 0, 2**63 - 1):
            connection.send(encode(request_map(id=number)))
            assert decode(connection.recv(TIMEOUT))["id"] == number
        connection.send(encode(request_map()))
        assert "id" not in decode(connection.recv(TIMEOUT))


def test_garbage_is_answered_and_the_connection_goes_on(server):
    rng = np.random.default_rng(0)
    with talking(server.address) as connection:
        for message in ("hello", "", b"", b"\xc1", *(rng.bytes(50) for _ in range(20))):
            connection.send(message)
            assert connection.recv(TIMEOUT).startswith("WireError: ")
        connection.send(encode(request_map()))
        assert "actions" in decode(connection.recv(TIMEOUT))


@pytest.mark.parametrize(
    "garbage",
    [b"\x00" * 100, b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET " + b"x" * 99999, b""],
    ids=["zeros", "a page", "a form", "an endless line", "nothing"],
)
def test_other_protocols_do_no_harm(server, remote, garbage):
    host, port = server.address.removeprefix("ws://").split(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    remote.infer(make_request())


def test_a_message_that_is_too_large_ends_its_connection_only(server, remote):
    with talking(server.address) as connection:
        connection.send(bytes(MAX_MESSAGE_BYTES + 1))
        with pytest.raises(ConnectionClosed) as caught:
            connection.recv(TIMEOUT)
        assert caught.value.rcvd.code == 1009
    remote.infer(make_request())


def test_the_policys_errors_travel(wave, remote, caplog):
    wave.error = ActionError("These actions are not finite: nan.")
    with pytest.raises(ActionError, match=r"^These actions are not finite: nan\.$"):
        remote.infer(make_request())
    assert "Traceback" not in caplog.text
    wave.error = ZeroDivisionError("by zero")
    with pytest.raises(InferenceError, match="ZeroDivisionError: by zero"):
        remote.infer(make_request())
    assert "Traceback" in caplog.text, "only the server can tell where it happened"
    wave.error = None
    remote.infer(make_request())


def test_a_policy_that_fails_at_once_is_not_served(wave):
    wave.error = ZeroDivisionError()
    with PolicyServer(port=0) as server, pytest.raises(ZeroDivisionError):
        server.serve(wave, ready=lambda: pytest.fail("it was never ready"))


def test_a_policy_with_one_env_camera_for_two_is_not_served(wave):
    wave._card = PolicyCard("two", {"a": (6, 8), "b": (6, 8)}, {"a": "wrist", "b": "wrist"}, 16, 8, 5, 9, "cpu")
    with PolicyServer(port=0) as server, pytest.raises(PolicyMismatchError, match="an env camera of its own"):
        server.serve(wave)


# In which order it answers.


def test_clients_are_served_one_after_the_other(wave, server):
    wave.delay_s = 0.05
    chunks, waits = {}, []

    def ask(seed):
        with contextlib.closing(RemotePolicy(server.address)) as remote:
            for turn in range(3):
                chunks[seed, turn] = remote.infer(make_request(10 * seed + turn))
                waits.append(remote.timing["wait_ms"])

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert len(chunks) == 12
    for (seed, turn), chunk in chunks.items():
        assert_same(chunk, wave.chunk(make_request(10 * seed + turn)))
    assert wave.most == 1
    assert max(waits) > 50.0


def test_answers_tell_how_long_they_took(wave, remote):
    wave.delay_s = 0.02
    remote.infer(make_request())
    timing = remote.timing
    assert timing["infer_ms"] >= 20.0
    assert timing["wait_ms"] >= 0.0
    assert timing["round_trip_ms"] >= timing["infer_ms"] + timing["wait_ms"]


@pytest.mark.realtime
def test_the_request_of_a_client_that_left_is_not_computed(wave, server):
    wave.free.clear()
    before = wave.count
    message = encode(request_map())
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(talking(server.address))
        last = stack.enter_context(contextlib.closing(RemotePolicy(server.address)))
        busy.send(message)
        until(lambda: wave.count == before + 1)
        with talking(server.address) as impatient:
            impatient.send(message)
        threading.Timer(0.2, wave.free.set).start()
        last.infer(make_request())
        assert wave.count == before + 2


def test_a_client_that_takes_no_answer_is_dropped(caplog):
    with (
        serving(
            Wave(chunk_size=20_000), timeouts=ServerTimeouts(send_s=0.2)
        ) as server,  # answers of 1 MB: no buffer holds all of them, Linux lets that of a receiver grow to 32 MB
        talking(server.address, max_queue=1, close_timeout=0.1) as deaf,
    ):
        with contextlib.suppress(ConnectionClosed):  # dropped before the last request
            for _ in range(100):
                deaf.send(encode(request_map(noise=...)))
        until(lambda: "was lost" in caplog.text)


def test_the_end_waits_for_no_policy_that_hangs(wave):
    with (
        serving(wave, timeouts=ServerTimeouts(chunk_s=0.1)) as server,
        contextlib.closing(RemotePolicy(server.address)) as remote,
    ):
        wave.free.clear()
        threading.Timer(0.2, server.close).start()
        with pytest.raises(PolicyConnectionError, match="was lost"):
            remote.infer(make_request())
    wave.free.set()


def test_otherwise_it_waits_for_the_chunk_that_is_being_computed(wave):
    wave.delay_s = 0.5
    before = set(threading.enumerate())
    with serving(wave) as server, contextlib.closing(RemotePolicy(server.address)) as remote:
        threading.Timer(0.1, server.close).start()
        with pytest.raises(PolicyConnectionError, match="was lost"):
            remote.infer(make_request())
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "inference"]
