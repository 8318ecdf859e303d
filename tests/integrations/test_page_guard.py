"""Clients of the page: what they may do, and what the guard keeps from them."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time

import gymnasium as gym
import numpy as np
import psutil
import pytest

pytest.importorskip("viser")

import viser
from websockets.exceptions import ConnectionClosed, InvalidStatus

import smolvla_gym
from smolvla_gym.errors import DeviceError
from smolvla_gym.integrations.ros_messages import Message
from smolvla_gym.integrations.viewer import server as server_module
from smolvla_gym.integrations.viewer.guard import MAX_CLIENTS, MAX_MESSAGE_BYTES, MAX_OPENING, MAX_TEXT, Guard
from smolvla_gym.integrations.viewer.page import Page, literal_markdown
from tests.integrations.page_client import CAMERA, Client


@pytest.fixture(scope="module")
def env():
    with gym.make(smolvla_gym.SIM_ID, cameras=(), task="reach") as env:
        env.reset(seed=0)
        yield env


@pytest.fixture(scope="module")
def guard():
    return Guard()


@pytest.fixture(scope="module")
def page(env, guard):
    page = Page(env, 0, guard=guard)
    yield page
    page.close()


@pytest.fixture
def client(page):
    client = Client(page.url)
    client.wait(lambda: "EMERGENCY STOP" in client.uuids and "Clear fault" in client.uuids)
    page.receive()
    yield client
    client.close()


def arrived(page, topic, seconds=5.0) -> Message:
    end = time.monotonic() + seconds
    while True:
        for came, message in page.receive():
            if came == topic:
                return message
        assert time.monotonic() < end, f"{topic} did not arrive"
        time.sleep(0.005)


def get(url, headers, path="/"):
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    response.read()
    return response


# Requests that are let in.


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1"])
def test_pages_of_other_origins_do_not_come_in(page, origin):
    with pytest.raises(InvalidStatus, match="403"):
        Client(page.url, origin=origin)
    assert get(page.url, [("Host", page.url[7:]), ("Origin", origin)]).status == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.0.0.1"])
def test_other_hosts_are_refused_also_for_the_files(page, host):
    with pytest.raises(InvalidStatus, match="403"):
        Client(page.url, host, origin=f"http://{host}")
    assert get(page.url, [("Host", host)]).status == 403
    assert get(page.url, [("Host", host)], "/assets/nothing.js").status == 403
    assert get(page.url, []).status in (400, 403)


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1:22", "[::1]:5000", "127.0.0.2"])
def test_forwarded_ports_come_in(page, host):
    Client(page.url, host, origin=f"http://{host}").close()
    response = get(page.url, [("Host", host)])
    assert response.status == 200
    assert response.headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]


def test_it_listens_on_the_loopback_alone(page):
    port = int(page.url.rpartition(":")[2])
    bound = {
        c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == "LISTEN" and c.laddr.port == port
    }
    assert bound == {"127.0.0.1"}


# Messages that pass.


def test_text_and_clicks_arrive_in_their_order(page, client):
    client.update("instruction", value="go over there")
    client.press("Start")
    assert arrived(page, "/instruction") == {"data": "go over there"}
    client.update("instruction", value="")
    client.press("Start")
    arrived(page, "/start")
    for label, topic in (("Stop", "/stop"), ("New scene", "/reset"), ("Clear fault", "/clear_fault")):
        client.press(label)
        assert arrived(page, topic) == {}
    client.press("EMERGENCY STOP")
    assert arrived(page, "/estop") == {"data": True}


def test_a_text_is_shown_to_the_other_clients(page, client):
    with contextlib.closing(Client(page.url)) as other:
        other.wait(lambda: "instruction" in other.uuids)
        client.update("instruction", value="push the cube")
        other.wait(lambda: other.sees("push the cube"))


def test_a_long_instruction_is_refused_and_not_cut(page, client):
    client.update("instruction", value="x" * (MAX_TEXT + 1))
    client.press("Start")
    client.wait(lambda: client.sees("shorten it"))
    assert page.receive() == []
    client.update("instruction", value="x" * MAX_TEXT)
    client.press("Start")
    assert arrived(page, "/instruction") == {"data": "x" * MAX_TEXT}


def test_without_a_policy_no_client_can_start(env):
    page = Page(env, 0, can_start=False)
    try:
        with contextlib.closing(Client(page.url)) as client:
            client.wait(lambda: "Clear fault" in client.uuids)
            client.press("Start")
            client.press("Stop")
            arrived(page, "/stop")
            assert page.receive() == []
    finally:
        page.close()


# Messages that do not pass.

OWNED = {
    "removed": True, "disabled": True, "visible": False, "label": "x", "_markdown": "x", "order": 0.0, "color": "blue",
    "update_cb": [], "is_button": False, "sync_cb": None, "uuid": "x", "props": {}, "hold_cbs_from_freq": {},
}  # fmt: skip


@pytest.mark.parametrize("name", OWNED)
@pytest.mark.parametrize("label", ["EMERGENCY STOP", "instruction"])
def test_what_belongs_to_the_server_is_read_only(page, client, name, label):
    handles = page._server.gui._gui_input_handle_from_uuid
    before = dict(vars(handles[client.uuids[label]]._impl))
    client.update(label, **{name: OWNED[name]})
    client.update(label, value=True if label.isupper() else "x", **{name: OWNED[name]})
    client.press("EMERGENCY STOP")
    arrived(page, "/estop")
    after = dict(vars(handles[client.uuids[label]]._impl))
    assert {key: after[key] for key in before} == before


NOTHING = [
    CAMERA,
    {"type": "FileTransferStartUpload", "source_component_uuid": "?", "transfer_uuid": "t", "filename": "f",
     "mime_type": "m", "part_count": 10**6, "size_bytes": 10**9},
    {"type": "FileTransferPart", "source_component_uuid": "?", "transfer_uuid": "t", "part_index": 0,
     "content": b"x" * 60_000},
    {"type": "ShareUrlRequest"},
    {"type": "ShareUrlDisconnect"},
    {"type": "GetRenderResponseMessage", "payload": b"x" * 60_000},
    {"type": "ScenePointerMessage", "event_type": "click", "ray_origin": None, "ray_direction": None, "screen_pos": []},
    {"type": "GuiFormDirtyMessage", "uuid": "?"},
    {"type": "GuiRemoveMessage", "uuid": "?"},
    {"type": "GuiButtonHoldMessage", "uuid": "?", "frequency": 1.0},
    {"type": "RunJavascriptMessage", "source": "alert(1)"},
    {"type": "LocalStorageGetItemResponseMessage", "request_uuid": "x", "value": "x" * 1000},
    {"type": "CommandTriggerMessage", "uuid": "?"},
]  # fmt: skip


@pytest.mark.parametrize("message", NOTHING, ids=lambda message: message["type"])
def test_everything_else_leaves_nothing_behind(page, client, message):
    server = page._server
    sent = {key: client.uuids["EMERGENCY STOP"] if value == "?" else value for key, value in message.items()}
    buffered = len(server._websock_server._broadcast_buffer.message_from_id)
    for _ in range(200):
        client.send(**sent)
    client.press("EMERGENCY STOP")
    arrived(page, "/estop")
    assert server.gui._current_file_upload_states == {}
    assert server._connected_clients == {}
    assert len(server._websock_server._broadcast_buffer.message_from_id) == buffered
    assert server._thread_executor._work_queue.empty()


def test_the_emergency_stop_waits_for_no_flood(page, client):
    for _ in range(5000):
        client.press("New scene")
        client.send(**CAMERA)
    begin = time.monotonic()
    client.press("EMERGENCY STOP")
    end = time.monotonic() + 10
    came: list[str] = []
    while "/estop" not in came:
        assert time.monotonic() < end
        came = [topic for topic, _ in page.receive()]
        assert len(came) <= 2, "repeated messages pile up"
        time.sleep(0.005)
    assert came[0] == "/estop"
    assert time.monotonic() - begin < 3.0
    with contextlib.closing(Client(page.url)) as other:
        other.wait(lambda: "EMERGENCY STOP" in other.uuids)
        other.press("EMERGENCY STOP")
        arrived(page, "/estop", 1.0)


def test_a_client_that_floods_on_is_closed(env):
    with contextlib.closing(Page(env, 0, guard=Guard(max_dropped=300))) as page:
        client = Client(page.url)
        with contextlib.suppress(ConnectionClosed):
            for _ in range(20_000):
                client.send(**CAMERA)
        assert client.ws.close_code == 1008


def flood(connection, frame, seconds):
    """Send a frame repeatedly; return whether the connection outlasts the time."""
    end = time.monotonic() + seconds
    data, sent = frame * 4000, 0
    while time.monotonic() < end:
        try:
            sent = (sent + connection.send(data[sent:])) % len(data)
        except TimeoutError:
            continue
        except OSError:
            return False
    return True


def test_the_emergency_stop_waits_for_no_flood_of_others(page, client):
    tiny = bytes([0x82, 0x81, 0, 0, 0, 0, 0])
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(contextlib.closing(Client(page.url))) for _ in range(3)]
        threads = [threading.Thread(target=flood, args=(other.ws.socket, tiny, 1.0)) for other in others]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        begin = time.monotonic()
        client.press("EMERGENCY STOP")
        arrived(page, "/estop", 10.0)
        took = time.monotonic() - begin
        for thread in threads:
            thread.join()
    assert took < 0.8  # 2 to 8 s where a connection is read to its end before the next one


def test_a_client_that_pings_on_is_closed(page):
    with contextlib.closing(Client(page.url)) as other:
        assert not flood(other.ws.socket, bytes([0x89, 0x80, 0, 0, 0, 0]), 10.0)


def test_a_message_that_is_too_large_closes_its_connection_only(page, client):
    with contextlib.closing(Client(page.url)) as other:
        other.ws.send(bytes(MAX_MESSAGE_BYTES + 1))
        with contextlib.suppress(ConnectionClosed):
            while True:
                other.ws.recv(5)
        assert other.ws.close_code == 1009
    client.press("EMERGENCY STOP")
    arrived(page, "/estop")


def test_a_number_of_clients_is_served(page, guard):
    end = time.monotonic() + 5
    while guard.num_clients:
        assert time.monotonic() < end
        time.sleep(0.01)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(Client(page.url))) for _ in range(MAX_CLIENTS)]
        with pytest.raises(InvalidStatus, match="503"):
            Client(page.url)
        clients[0].wait(lambda: "EMERGENCY STOP" in clients[0].uuids)
        clients[0].press("EMERGENCY STOP")
        arrived(page, "/estop")
    end = time.monotonic() + 5
    while True:
        try:
            return Client(page.url).close()
        except InvalidStatus:
            assert time.monotonic() < end


def test_connections_that_ask_for_nothing_are_limited(page, client):
    address = ("127.0.0.1", int(page.url.rpartition(":")[2]))
    files = psutil.Process().num_fds()
    with contextlib.ExitStack() as stack:
        for _ in range(4 * MAX_OPENING):
            stack.enter_context(socket.create_connection(address, 5))
        Client(page.url).close()
        client.press("EMERGENCY STOP")
        arrived(page, "/estop")
        # Both ends are in this process.
        assert psutil.Process().num_fds() - files <= 5 * MAX_OPENING + 5


# Foreign texts on the page.


@pytest.mark.parametrize(
    "text", ["<b>x</b>", "![x](http://evil.example/)", "[x](y)", "`x`", "{x}", "# x", "a_b*c", "\\"]
)
def test_foreign_texts_are_shown_letter_by_letter(text):
    plain = literal_markdown(text)
    assert plain.replace("\\", "") == text.replace("\\", "")
    assert plain == "".join(c if c.isalnum() or c == " " else "\\" + c for c in text)


def test_foreign_texts_have_one_line_and_an_end():
    assert len(literal_markdown("x\x1b[31m\n" * 1000)) < 1000
    assert literal_markdown("a\nb\x00c") == "a b c"


# Other releases of viser.


class Other:
    """A release of viser whose server starts in another way."""

    def __init__(self, host, port, label, verbose):
        self.stopped = threading.Event()
        Other.latest = self

    def get_port(self):
        return 1

    def stop(self):
        self.stopped.set()


def test_a_viser_that_cannot_be_guarded_is_not_served(env, monkeypatch):
    monkeypatch.setattr(server_module.viser, "ViserServer", Other)
    with pytest.raises(DeviceError, match=viser.__version__):
        Page(env, 0)
    assert Other.latest.stopped.is_set()


class Careless(Guard):
    """A guard that lets every request in."""

    def admit(self, connection, request, serve):
        return serve(connection, request)


def test_a_guard_that_lets_foreigners_in_is_noticed(env):
    with pytest.raises(DeviceError, match="viser"):
        Page(env, 0, guard=Careless())


def test_a_viser_without_names_of_controls_is_not_served():
    with pytest.raises(DeviceError, match="viser"):
        server_module.uuid_of(object())


def test_a_taken_port_is_refused_and_the_last_one_is_no_trap(env):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DeviceError, match=f"port {port}"):
            Page(env, port)
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", 65535)), pytest.raises(DeviceError):
        Page(env, 65535)


def test_poses_still_reach_the_clients(page, client):
    page.publish("/joint_states", {"position": [*np.zeros(6), 0.01, 0.01]})
    client.look(0.2)
