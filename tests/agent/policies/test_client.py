"""The policy client: its requirements, servers that it refuses, and answers that it refuses."""

import contextlib
import http.server
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from smolvla_gym.agent import RemotePolicy, SmolVLAAgent
from smolvla_gym.agent.policies.base import ChunkRequest
from smolvla_gym.agent.policies.remote.client import ClientTimeouts
from smolvla_gym.agent.policies.remote.messages import write_answer, write_description
from smolvla_gym.agent.policies.remote.wire import decode, encode
from smolvla_gym.errors import (
    ActionError,
    InferenceError,
    InferenceTimeoutError,
    OptionError,
    PolicyConnectionError,
    PolicyMismatchError,
    PolicyServerError,
)
from tests.agent.policies.connections import TIMEOUT, impostor, serving
from tests.agent.policies.policies import HEIGHT, WIDTH, Wave, assert_same, make_request

ROOT = Path(__file__).resolve().parents[3]


def test_it_needs_no_torch(server):
    code = f"""
import sys
import numpy as np
from smolvla_gym import SmolVLAAgent

agent = SmolVLAAgent.connect({server.address!r}, seed=0)
agent.reset("go")
pixels = {{name: np.zeros(({HEIGHT}, {WIDTH}, 3), np.uint8) for name in agent.cameras}}
agent.act({{"pixels": pixels, "agent_pos": np.zeros(7, np.float32)}})
agent.close()
print(agent.statistics.chunks, {{"torch", "lerobot", "transformers", "cv2", "mujoco"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout == "1 set()\n", done.stderr


@pytest.mark.parametrize("module", ["msgpack", "websockets"])
def test_missing_packages_name_their_extra(module):
    code = f"""
import sys

sys.modules[{module!r}] = None
from smolvla_gym import SmolVLAAgent
from smolvla_gym.cli.main import main

try:
    SmolVLAAgent.connect("127.0.0.1:1")
except ImportError as error:
    print(error)
sys.exit(main(["serve"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 1
    for printed in (done.stdout, done.stderr):
        assert "'.[remote]'" in printed


def test_the_agent_takes_its_options_and_checks_the_env(server):
    with contextlib.closing(SmolVLAAgent.connect(server.address, n_action_steps=3)) as agent:
        assert (agent.name, agent.device, agent.n_action_steps) == ("wave", "cpu", 3)
        with (
            gym.make("PAROL6Sim-v0", cameras=("wrist",)) as env,
            pytest.raises(PolicyMismatchError, match=r"cameras=\('scene', 'wrist'\)"),
        ):
            agent.attach(env)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_action_steps": 99}, OptionError, "n_action_steps=99"),
        ({"timeout_s": 0}, OptionError, "timeout_s=0"),
        ({"camera_map": {"left": "wrist"}}, PolicyMismatchError, "'left', and the policy 'wave' has .* 'top', 'hand'"),
    ],
)
def test_options_are_checked(server, options, error, message):
    before = set(threading.enumerate())
    with pytest.raises(error, match=message):
        SmolVLAAgent.connect(server.address, **options)
    for thread in set(threading.enumerate()) - before:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "something stayed connected"


def test_the_cameras_can_be_mapped_elsewhere(wave, server):
    with contextlib.closing(RemotePolicy(server.address, camera_map={"top": "wrist"})) as remote:
        assert remote.card.env_cameras == ("wrist",)
        request = make_request()
        image = request.observation["pixels"]["wrist"]
        del request.observation["pixels"]["scene"]
        chunk = remote.infer(request)
    observation = request.observation | {"pixels": {"wrist": image, "scene": image}}
    assert_same(chunk, wave.chunk(ChunkRequest(observation, request.instruction, request.noise)))


@pytest.mark.parametrize(
    "address", ["", "host", "http://host:1", "host:99999", "ws://", ":80", 5, "ws://host:x", "a b", "ws://a\nb:1"]
)
def test_addresses_are_checked(address):
    with pytest.raises(OptionError, match="host:port"):
        RemotePolicy(address)


def test_pictures_that_are_too_large_are_not_sent(remote):
    request = make_request()
    request.observation["pixels"]["wrist"] = np.zeros((1200, 1600, 3), np.uint8)
    with pytest.raises(PolicyMismatchError, match=r"image_size=\(6, 8\)"):
        remote.infer(request)
    remote.infer(make_request())


# Whom it does not talk to.


def description(policy=(), **changes):
    """Of a server that does not number its answers, as those of older releases."""
    message = decode(write_description(Wave().card))
    message["policy"] |= dict(policy)
    return encode(message | {"numbered": False} | changes)


def test_the_impostor_can_be_genuine():
    with impostor(description()) as address:
        RemotePolicy(address).close()


ESCAPE = "\x1b]0;owned\x07\x1b[2J\r\n"

FOREIGN_SERVERS = {
    "a text": ("hello", "'hello'"),
    "bytes": (b"hello", "no msgpack"),
    "another program": (encode({}), "smolvla-gym serve"),
    "another protocol": (description(protocol="other"), "smolvla-gym serve"),
    "another version": (description(version=2), r"version 2 .* this client 1\. Install the same release"),
    "no version": (description(version=None), "version None"),
    "no policy": (description(policy={}).replace(b"policy", b"POLICY"), "does not describe"),
    "no name": (description({"name": ""}), "does not describe"),
    "a name with an escape sequence": (description({"name": f"x{ESCAPE}"}), "does not describe"),
    "a camera with one": (description({"cameras": {ESCAPE: (6, 8)}, "camera_map": {ESCAPE: "a"}}), "not describe"),
    "an endless name": (description({"name": "x" * 5000}), "does not describe"),
    "an endless version": (description(version="v" * 5000), "version"),
    "no cameras": (description({"cameras": {}, "camera_map": {}}), "does not describe"),
    "cameras without sizes": (description({"cameras": {"top": 3}}), "does not describe"),
    "a camera that is not mapped": (description({"camera_map": {"top": "scene"}}), "does not describe"),
    "endless chunks": (description({"chunk_size": 10**9}), "does not describe"),
    "more steps than a chunk": (description({"n_action_steps": 17}), "does not describe"),
    "steps of floats": (description({"num_steps": 5.0}), "does not describe"),
}


@pytest.mark.parametrize(("first", "message"), FOREIGN_SERVERS.values(), ids=FOREIGN_SERVERS)
def test_strangers_are_refused(first, message):
    with impostor(first) as address, pytest.raises(PolicyServerError, match=message) as caught:
        RemotePolicy(address)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("changes", [{"action_names": ["x", "y"]}, {"action_units": ["deg"] * 7}])
def test_policies_of_other_arms_are_refused(changes):
    with impostor(description(**changes)) as address, pytest.raises(PolicyMismatchError, match="trained for this arm"):
        RemotePolicy(address)


def test_a_web_server_is_refused():
    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        with pytest.raises(PolicyServerError, match="is no policy server"):
            RemotePolicy(f"127.0.0.1:{web.server_address[1]}")
        web.shutdown()
        thread.join(TIMEOUT)


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(PolicyConnectionError, match=r"refused.*smolvla-gym serve"):
        RemotePolicy(f"127.0.0.1:{port}")


def test_a_silent_server_times_out():
    timeouts = ClientTimeouts(open_s=0.3)
    with impostor(None) as address, pytest.raises(PolicyConnectionError, match="cannot be reached"):
        RemotePolicy(address, timeouts=timeouts)
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        pytest.raises(PolicyConnectionError, match="cannot be reached"),
    ):
        RemotePolicy(f"127.0.0.1:{deaf.getsockname()[1]}", timeouts=timeouts)


def test_a_tunnel_without_a_server_may_get_one_later():
    with socket.create_server(("127.0.0.1", 0)) as tunnel:
        thread = threading.Thread(target=lambda: tunnel.accept()[0].close())
        thread.start()
        with pytest.raises(PolicyConnectionError, match="tunnel"):
            RemotePolicy(f"127.0.0.1:{tunnel.getsockname()[1]}")
        thread.join(TIMEOUT)


# What it does not believe.


def answer(rows=16, columns=7, first=0.0, **changes):
    chunk = Wave().chunk(make_request())
    chunk.actions[0, 0] += first
    message = decode(write_answer(chunk, {"infer_ms": 1.0}))
    message["actions"] = message["actions"][:rows, :columns]
    return encode({key: value for key, value in (message | changes).items() if value is not ...})


ANSWERS = {
    "bytes": (b"x", InferenceError, "something else"),
    "a text": ("sorry", InferenceError, "sorry"),
    "no actions": (answer(actions=...), InferenceError, "'actions'"),
    "no latent": (answer(latent=...), InferenceError, "'latent'"),
    "actions of integers": (answer(actions=np.zeros((16, 7), np.int64)), InferenceError, "'actions'"),
    "a short chunk": (answer(rows=15), InferenceError, r"\(15, 7\)"),
    "a narrow chunk": (answer(columns=6), InferenceError, r"\(16, 6\)"),
    "no timing": (answer(server_timing=...), InferenceError, "'server_timing'"),
    "not finite": (answer(first=np.nan), ActionError, "not finite"),
    "a closed door": (1009, InferenceError, "too large"),
}


@pytest.mark.parametrize(("given", "error", "message"), ANSWERS.values(), ids=ANSWERS)
def test_wrong_answers_reach_no_arm(given, error, message):
    with impostor(description(), given, answer()) as address, contextlib.closing(RemotePolicy(address)) as remote:
        with pytest.raises(error, match=message):
            remote.infer(make_request())
        if given != 1009:
            assert_same(remote.infer(make_request()), Wave().chunk(make_request()))


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("kind", ["ActionError: ", ""])
def test_a_servers_texts_are_cut_and_harmless_in_a_terminal(numbered, kind):
    text = kind + ESCAPE + "no" + "!" * 10_000
    given = encode({"id": 1, "error": text}) if numbered else text
    with (
        impostor(description(numbered=numbered), given) as address,
        contextlib.closing(RemotePolicy(address)) as remote,
    ):
        with pytest.raises(ActionError if kind else InferenceError, match="no!!!") as caught:
            remote.infer(make_request())
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 700


def test_answers_carry_the_number_of_their_request():
    with (
        impostor(description(numbered=True), answer(id=1), answer(id=2)) as address,
        contextlib.closing(RemotePolicy(address)) as remote,
    ):
        for _ in range(2):
            assert_same(remote.infer(make_request()), Wave().chunk(make_request()))


@pytest.mark.parametrize("number", [0, 2, None, -1, True, "1", 1.0, 2**64 - 1])
def test_an_answer_to_another_request_reaches_no_arm(number):
    given = answer() if number is None else answer(id=number)
    with (
        impostor(description(numbered=True), given) as address,
        contextlib.closing(RemotePolicy(address)) as remote,
        pytest.raises(InferenceError, match=r"request|'id'"),
    ):
        remote.infer(make_request())


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("kind", ["chunk", "text"])
def test_an_answer_nobody_asked_for_is_not_taken_for_the_next_one(numbered, kind):
    def talk(connection):
        with contextlib.suppress(ConnectionClosed):
            connection.send(description(numbered=numbered))
            connection.recv()
            connection.send(answer(id=1) if numbered else answer())
            extra = (
                "InferenceError: late" if kind == "text" else answer(first=1.0, id=2) if numbered else answer(first=1.0)
            )
            connection.send(extra)
            sent.set()
            connection.recv()

    sent = threading.Event()
    with serve(talk, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with contextlib.closing(RemotePolicy("{}:{}".format(*server.socket.getsockname()))) as remote:
            remote.infer(make_request())
            assert sent.wait(TIMEOUT)
            time.sleep(0.05)
            with pytest.raises(InferenceError, match="without a request"):
                remote.infer(make_request())
    thread.join(TIMEOUT)


def test_a_server_without_numbers_works():
    with impostor(description(), answer(), answer()) as address, contextlib.closing(RemotePolicy(address)) as remote:
        for _ in range(2):
            assert_same(remote.infer(make_request()), Wave().chunk(make_request()))


@pytest.mark.realtime
def test_a_policy_that_hangs_is_given_up_and_its_late_answer_is_not_used(wave, server):
    with contextlib.closing(RemotePolicy(server.address, timeout_s=0.3)) as remote:
        wave.free.clear()
        with pytest.raises(InferenceTimeoutError, match=r"0\.3 s"):
            remote.infer(make_request(1))
        wave.free.set()
        assert_same(remote.infer(make_request(2)), wave.chunk(make_request(2)))


@pytest.mark.skipif(sys.platform == "win32", reason="needs an alarm")
def test_ctrl_c_leaves_no_answer_for_the_next_request(wave, remote):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        wave.free.clear()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            remote.infer(make_request(1))
        wave.free.set()
        assert_same(remote.infer(make_request(2)), wave.chunk(make_request(2)))
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_closed_policy_raises_an_error(remote):
    remote.close()
    remote.close()
    with pytest.raises(PolicyConnectionError):
        remote.infer(make_request())
    with pytest.raises(InferenceError, match=r"close\(\)"):
        remote.infer(make_request())


def test_two_threads_may_ask_the_same_client(wave):
    wave.delay_s = 0.02
    chunks = {}
    with serving(wave) as server, contextlib.closing(RemotePolicy(server.address)) as remote:
        threads = [
            threading.Thread(target=lambda seed=seed: chunks.update({seed: remote.infer(make_request(seed))}))
            for seed in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
    for seed in range(4):
        assert_same(chunks[seed], wave.chunk(make_request(seed)))
