"""Admission of clients by the policy server: host names, tokens and numbers of connections."""

import contextlib
import re
import resource
import socket
import threading
import time

import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from smolvla_gym.agent import PolicyServer, RemotePolicy
from smolvla_gym.agent.policies.remote.server import ServerTimeouts
from smolvla_gym.errors import (
    OptionError,
    PolicyConnectionError,
    PolicyServerError,
)
from smolvla_gym.utils.connection_limiter import MAX_OPENING
from smolvla_gym.utils.tokens import authorization
from tests.agent.policies.connections import TIMEOUT, serving, talking, until
from tests.agent.policies.policies import make_request


@pytest.mark.parametrize("token", [None, "Secret", "secrets", "secre"])
def test_without_the_token_nobody_comes_in(wave, token):
    with serving(wave, token="secret") as server:
        with pytest.raises(PolicyServerError, match="token") as caught:
            RemotePolicy(server.address, token=token)
        assert "secre" not in str(caught.value).lower()
        with contextlib.closing(RemotePolicy(server.address, token="secret")) as remote:
            remote.infer(make_request())


def test_the_environment_holds_the_token(wave, monkeypatch):
    monkeypatch.setenv("SMOLVLA_GYM_TOKEN", "from-outside")
    with serving(wave) as server:
        RemotePolicy(server.address).close()
        monkeypatch.delenv("SMOLVLA_GYM_TOKEN")
        with pytest.raises(PolicyServerError):
            RemotePolicy(server.address)


@pytest.mark.parametrize("values", [[], ["secret"], ["Bearer secret"], ["Api-Key secret", "Api-Key secret"]])
def test_the_token_has_one_place(wave, values):
    with serving(wave, token="secret") as server:
        with talking(server.address, additional_headers=[("Authorization", "Api-Key secret")]):
            pass
        headers = [("Authorization", value) for value in values]
        with pytest.raises(InvalidStatus, match="401"), talking(server.address, additional_headers=headers):
            pass


@pytest.mark.parametrize("token", ["", "two words", "new\nline", "schlüssel", 5])
def test_tokens_are_checked_and_not_repeated(token):
    for make in (lambda: PolicyServer(port=0, token=token), lambda: RemotePolicy("127.0.0.1:1", token=token)):
        with pytest.raises(OptionError, match="token=") as caught:
            make()
        assert not token or str(token) not in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_come_in_with_a_token_only(host):
    with pytest.raises(OptionError, match="SMOLVLA_GYM_TOKEN"):
        PolicyServer(host=host, port=0)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_loopback_needs_no_token(host):
    with PolicyServer(host=host, port=0) as server:
        assert re.fullmatch(r"ws://(127\.0\.0\.1|\[::1\]):\d+", server.address)


def test_ports_and_hosts_are_checked(server):
    port = int(server.address.rpartition(":")[2])
    with pytest.raises(OptionError, match=f"port={port} is not allowed: a free one"):
        PolicyServer(port=port)
    for wrong in (-1, 70000, "80", True):
        with pytest.raises(OptionError, match="port="):
            PolicyServer(port=wrong)
    with pytest.raises(OptionError, match="host="):
        PolicyServer(host="no such host")


def test_pages_in_a_browser_are_refused(server):
    with pytest.raises(InvalidStatus, match="403"), talking(server.address, origin="http://somewhere"):
        pass


@pytest.mark.parametrize("token", [None, "secret"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "10.0.0.1", "127.0.0.1.evil.example"])
def test_other_hosts_are_refused_on_the_loopback(wave, host, token):
    with serving(wave, token=token) as server:
        with pytest.raises(InvalidStatus, match="403"):
            talk_as(server, host, token)
        with talk_as(server, "localhost:1", token) as connection:
            connection.recv(TIMEOUT)


def test_a_server_for_other_machines_is_reached_by_any_name(wave):
    with serving(wave, host="0.0.0.0", token="secret") as server:
        with talk_as(server, "robots.example", "secret") as connection:
            connection.recv(TIMEOUT)
        with pytest.raises(InvalidStatus, match="403"):
            talk_as(server, "robots.example", "secret", origin="http://robots.example")


def talk_as(server, host, token, **options):
    """A connection that was made by another name, as through a tunnel or after DNS rebinding."""
    port = int(server.address.rpartition(":")[2])
    return connect(
        f"ws://{host}",
        sock=socket.create_connection(("127.0.0.1", port), TIMEOUT),
        additional_headers=None if token is None else authorization(token),
        **options,
    )


# Idle and foreign connections.


@pytest.mark.parametrize("token", [None, "secret"])
def test_idle_connections_do_not_lock_out_clients(wave, token):
    with serving(wave, token=token) as server, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", int(server.address.rpartition(":")[2]))
        files, threads = psutil.Process().num_fds(), threading.active_count()
        first = stack.enter_context(contextlib.closing(RemotePolicy(server.address, token=token)))
        for number in range(3 * MAX_OPENING):
            foreign = stack.enter_context(socket.create_connection(address, TIMEOUT))
            foreign.sendall((b"", b"GET / HTTP/1.1\r\nHost: ", b"\x16\x03\x01")[number % 3])
        with contextlib.closing(RemotePolicy(server.address, token=token)) as remote:
            remote.infer(make_request())
        first.infer(make_request())
        until(lambda: psutil.Process().num_fds() - files <= 4 * MAX_OPENING + 20)  # both ends are in this process
        until(lambda: threading.active_count() - threads <= 2 * MAX_OPENING + 20)


def test_a_request_that_takes_long_is_given_up(wave):
    with serving(wave, timeouts=ServerTimeouts(open_s=0.3)) as server:
        address = ("127.0.0.1", int(server.address.rpartition(":")[2]))
        with socket.create_connection(address, TIMEOUT) as foreign:
            begin = time.monotonic()
            with contextlib.suppress(ConnectionError):
                while time.monotonic() < begin + TIMEOUT:
                    foreign.sendall(b"x")
                    time.sleep(0.05)
            assert time.monotonic() - begin < 3.0


def test_without_descriptors_it_pauses_and_goes_on(wave, caplog):
    with serving(wave) as server:
        port = int(server.address.rpartition(":")[2])
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        client = socket.socket()
        resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() - 5, before[1]))
        try:
            client.connect(("127.0.0.1", port))
            until(lambda: "no connection is accepted" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            client.close()
        RemotePolicy(server.address).close()
    assert caplog.text.count("no connection is accepted") == 1


def test_a_number_of_clients_is_served(wave):
    with serving(wave, max_clients=3) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(RemotePolicy(server.address))) for _ in range(3)]
        with pytest.raises(PolicyConnectionError, match="503"):
            RemotePolicy(server.address)
        clients.pop().close()

        def again():
            with contextlib.suppress(PolicyConnectionError):
                clients.append(stack.enter_context(contextlib.closing(RemotePolicy(server.address))))
            return len(clients) == 3

        until(again)
        for client in clients:
            client.infer(make_request())
