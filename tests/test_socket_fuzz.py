"""Random and mutated messages for each socket: handled or refused within a second, and the arm stays where it is.

Those of the ROS 2 graph are in ``tests/integrations/bridge``.
"""

from __future__ import annotations

import contextlib
import socket
import time

import gymnasium as gym
import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import smolvla_gym
from smolvla_gym.agent.policies.remote.client import RemotePolicy
from smolvla_gym.agent.policies.remote.messages import (
    open_message,
    read_answer,
    read_description,
    write_answer,
    write_description,
)
from smolvla_gym.agent.policies.remote.wire import WireError, encode
from smolvla_gym.errors import PolicyMismatchError, SmolVLAGymError
from smolvla_gym.ipc import parse_message
from smolvla_gym.twin.firmware import Firmware
from tests.agent.policies.connections import serving, talking
from tests.agent.policies.policies import Wave, make_request, request_map

LIMIT = 1.0
"""Seconds that any input may take."""

FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats()
keys = st.text(max_size=10) | st.binary(max_size=10)
plain = st.recursive(
    scalars | st.text(max_size=40) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=20,
)


@contextlib.contextmanager
def at_once():
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < LIMIT


def mutated(message):
    """Bytes of a message of which some were changed, cut off, repeated or put in."""

    def mutate(changes):
        data = bytearray(message)
        for kind, where, value in changes:
            at = where % max(1, len(data))
            if kind == "set" and data:
                data[at] = value
            elif kind == "cut":
                del data[at:]
            elif kind == "insert":
                data[at:at] = bytes([value]) * (value % 9)
            elif kind == "drop":
                del data[at : at + value]
        return bytes(data)

    kinds = st.sampled_from(["set", "set", "set", "cut", "insert", "drop"])
    # Most of a message are pixels, and what matters stands at its ends.
    places = st.integers(0, 200) | st.integers(max(0, len(message) - 300), len(message)) | st.integers(0, len(message))
    return st.lists(st.tuples(kinds, places, st.integers(0, 255)), min_size=1, max_size=6).map(mutate)


# -- the policy server -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wave():
    return Wave()


@pytest.fixture(scope="module")
def server(wave):
    with serving(wave) as server:
        yield server


def swapped(field, value):
    return encode(request_map()).replace(field, value)


requests = (
    mutated(encode(request_map(id=3)))
    | plain.map(msgpack.packb)
    | st.binary(max_size=300)
    | st.builds(
        lambda field, value: msgpack.packb({**msgpack.unpackb(encode(request_map(id=3))), field: value}),
        st.sampled_from(["prompt", "state", "images", "noise", "leftover", "delay", "version", "id"]),
        plain,
    )
)


@pytest.mark.realtime
@FUZZ
@given(requests)
@example(msgpack.packb({"prompt": "x" * 3_900_000}))
@example(b"\x91" * 200_000)
def test_the_policy_server_answers_every_message_at_once(wave, server, message):
    with talking(server.address) as connection:
        with at_once():
            connection.send(message)
            answer = connection.recv(LIMIT)
        if not isinstance(answer, str):
            content, _ = open_message(answer)
            if "error" not in content:
                read_answer(content, wave.card)
            else:
                assert content["error"].partition(": ")[0] in (
                    "WireError", "PolicyMismatchError", "ObservationError", "ActionError"
                )  # fmt: skip
        else:
            assert answer.startswith(("WireError: ", "PolicyMismatchError: ", "ActionError: "))
        connection.send(encode(request_map()))
        assert "actions" in open_message(connection.recv(LIMIT))[0]


@pytest.mark.realtime
@FUZZ
@given(st.binary(max_size=2000) | mutated(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n\r\n"))
def test_the_policy_server_survives_what_is_no_websocket(server, data):
    address = ("127.0.0.1", int(server.address.rpartition(":")[2]))
    with at_once(), socket.create_connection(address, LIMIT) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass


def test_it_still_serves(server):
    with contextlib.closing(RemotePolicy(server.address)) as remote:
        remote.infer(make_request())


# -- its client --------------------------------------------------------------------------------------------------------

ANSWER = write_answer(Wave().chunk(make_request()), {"infer_ms": 1.0}, 1)


class Said:
    """A connection on which one answer lies."""

    def __init__(self, answer):
        self.answers = [answer]

    def recv(self, timeout=None):
        if timeout == 0:
            raise TimeoutError
        return self.answers.pop()

    def send(self, message):
        pass

    def close(self):
        pass


@pytest.mark.realtime
@FUZZ
@given(mutated(ANSWER) | plain.map(msgpack.packb) | st.binary(max_size=100) | st.text(max_size=3000))
def test_a_client_takes_a_chunk_or_raises_an_error_of_ours(server, answer):
    with contextlib.closing(RemotePolicy(server.address)) as remote:
        real, remote._connection = remote._connection, Said(answer)
        real.close()
        chunk, told = None, ""
        with at_once():
            try:
                chunk = remote.infer(make_request())
            except SmolVLAGymError as error:
                told = str(error)
        if chunk is None:
            assert told.isprintable()
            assert 0 < len(told) < 1000
        else:
            assert chunk.actions.shape == (16, 7)
            assert np.isfinite(chunk.actions).all()


@FUZZ
@given(mutated(write_description(Wave().card)) | plain.map(msgpack.packb) | st.text(max_size=3000))
def test_a_client_knows_a_description_or_refuses_it(data):
    with at_once(), contextlib.suppress(WireError, PolicyMismatchError):
        card, _ = read_description(data)
        assert card.name.isprintable()


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def env():
    with gym.make(smolvla_gym.SIM_ID, cameras=(), task="reach", max_episode_steps=-1) as env:
        env.reset(seed=0)
        yield env


@pytest.fixture(scope="module")
def page(env):
    pytest.importorskip("viser")
    from smolvla_gym.integrations.viewer.page import Page

    page = Page(env, 0)
    yield page
    page.close()


@pytest.fixture(scope="module")
def client(page):
    from tests.integrations.page_client import Client

    client = Client(page.url)
    client.wait(lambda: "EMERGENCY STOP" in client.uuids and "Clear fault" in client.uuids)
    yield client
    client.close()


types = st.sampled_from([
    "GuiUpdateMessage", "GuiRemoveMessage", "GuiCloseModalMessage", "FileTransferStartUpload", "FileTransferPart",
    "ViewerCameraMessage", "SceneNodeClickMessage", "GuiButtonHoldMessage", "ResetGuiMessage", "Nonsense",
])  # fmt: skip


@pytest.mark.realtime
@FUZZ
@given(data=st.data())
def test_the_page_drops_every_message_that_is_no_click_and_no_text(page, client, data):
    uuid = data.draw(st.sampled_from([*client.uuids.values(), "no such control"]))
    names = st.sampled_from(["value", "removed", "disabled", "_markdown", "label", "update_cb"]) | st.text(max_size=5)
    # A click of a button is `True`, and no other value may count as one.
    updates = st.dictionaries(names, plain.filter(lambda value: value is not True), max_size=3)
    click = msgpack.packb({"type": "GuiUpdateMessage", "uuid": uuid, "updates": {"value": False}})
    messages = (
        st.builds(lambda kind, updates: msgpack.packb({"type": kind, "uuid": uuid, "updates": updates}), types, updates)
        | mutated(click)
        | plain.map(msgpack.packb)
        | st.binary(max_size=100)
    )
    message = data.draw(messages)
    page.receive()
    with at_once():
        assert page._guard.check(message, in_time=False) is None
        passed = page._guard.check(message, in_time=True)
        if passed is not None:
            content = msgpack.unpackb(passed)
            assert content["uuid"] == client.uuids["instruction"]
            assert content["updates"].keys() == {"value"}
            assert isinstance(content["updates"]["value"], str)
        client.ws.send(message)
        client.press("EMERGENCY STOP")
        came = []
        while "/estop" not in dict(came):
            came += page.receive()
    # A mutated message may be a true click: one byte tells it from no click.
    if message[: len(click) - 1] != click[:-1]:
        assert came == [("/estop", {"data": True})]


# -- the arm's process and the serial port -----------------------------------------------------------------------------


@FUZZ
@given(st.binary(max_size=500) | mutated(b'{"id": 3, "error": null}') | st.just(b"[" * 100_000))
def test_a_line_from_the_arms_process_is_a_message_or_nothing(line):
    with at_once():
        assert isinstance(parse_message(line), dict)


@FUZZ
@given(st.lists(st.binary(max_size=200).filter(lambda data: b"\xff\xff\xff" not in data), max_size=10))
def test_bytes_on_the_serial_port_that_are_no_packet_move_nothing(pieces):
    firmware = Firmware(np.zeros(6))
    before = firmware.counters.copy()
    with at_once():
        for piece in pieces:
            firmware.receive(piece + b"\x00")  # so that two pieces make no header
            firmware.advance(0.01)
    np.testing.assert_array_equal(firmware.counters, before)
