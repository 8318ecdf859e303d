"""A server that stops and comes back while the arm moves, in real time."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from smolvla_gym.agent import RemotePolicy, SmolVLAAgent
from smolvla_gym.agent.policies.remote.client import ClientTimeouts
from smolvla_gym.errors import PolicyConnectionError, PolicyServerError
from tests.agent.policies.connections import TIMEOUT
from tests.agent.policies.policies import HEIGHT, WIDTH, Wave, assert_same, make_request

ROOT = Path(__file__).resolve().parents[3]


class Program:
    """A process that serves a Wave."""

    def __init__(self, port=0, name="wave"):
        command = [sys.executable, "-m", "tests.agent.policies.policies", "--port", str(port), "--name", name]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def address(self):
        """Waits until it is ready."""
        return self.process.stdout.readline().strip().removeprefix("ws://")

    def kill(self):
        self.process.kill()
        self.process.wait(TIMEOUT)
        self.process.stdout.close()


@pytest.fixture
def start():
    programs = []

    def start(*arguments):
        programs.append(Program(*arguments))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()


class Clock(gym.Env):
    """Goes at once where it is told to, thirty times a second."""

    metadata = {"render_fps": 30, "realtime": True}  # noqa: RUF012

    def __init__(self):
        pixels = {name: gym.spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for name in ("wrist", "scene")}
        self.observation_space = gym.spaces.Dict(
            {"pixels": gym.spaces.Dict(pixels), "agent_pos": gym.spaces.Box(-9, 9, (7,), np.float32)}
        )
        self.action_space = gym.spaces.Box(-9, 9, (7,), np.float32)

    def reset(self, **_):
        self._due = time.monotonic()
        return self._observe(np.zeros(7, np.float32)), {}

    def step(self, action):
        self._due = max(self._due + 1 / 30, time.monotonic())
        time.sleep(max(0.0, self._due - time.monotonic()))
        return self._observe(action), 0.0, False, False, {}

    def _observe(self, pose):
        pixels = {name: np.full((HEIGHT, WIDTH, 3), 99, np.uint8) for name in ("wrist", "scene")}
        return {"pixels": pixels, "agent_pos": pose.copy()}


class Drive:
    """An agent in a Clock, step by step."""

    def __init__(self, agent):
        self.agent, self.env, self.actions = agent, Clock(), []
        agent.attach(self.env)
        self.observation, _ = self.env.reset()
        agent.reset("go")

    def steps(self, count):
        for _ in range(count):
            self.actions.append(self.agent.act(self.observation))
            self.observation, *_ = self.env.step(self.actions[-1])

    def until(self, true):
        deadline = time.monotonic() + TIMEOUT
        while not true():
            assert time.monotonic() < deadline
            self.steps(1)


@pytest.mark.parametrize("mode", ["async", *(pytest.param(m, marks=pytest.mark.slow) for m in ("sync", "rtc"))])
def test_the_arm_holds_while_the_server_is_gone_and_then_goes_on(start, mode):
    program = start()
    address = program.address()
    with contextlib.closing(SmolVLAAgent.connect(address, mode=mode, timeout_s=TIMEOUT)) as agent:
        drive = Drive(agent)
        drive.steps(30)
        assert agent.statistics.chunks >= 2

        program.kill()
        drive.until(lambda: agent.statistics.retries > 0 and agent.queue_length == 0)
        chunks, begin = agent.statistics.chunks, len(drive.actions)
        drive.steps(20)
        assert agent.statistics.chunks == chunks
        assert len(np.unique(drive.actions[begin:], axis=0)) == 1, "it holds"

        start(int(address.rpartition(":")[2])).address()
        drive.until(lambda: agent.statistics.chunks > chunks + 1)
        moves = np.abs(np.diff(drive.actions, axis=0)).max(axis=1)
    assert moves[-1] > 0.0, "it goes on"
    assert moves.max() < 0.02, "it never jumped"
    assert agent.statistics.stalled_steps >= 20


def test_waiting_too_long_for_a_server_is_an_error(start):
    program = start()
    with contextlib.closing(SmolVLAAgent.connect(program.address(), timeout_s=0.5)) as agent:
        drive = Drive(agent)
        drive.steps(5)
        program.kill()
        with pytest.raises(PolicyConnectionError, match="cannot be reached"):
            drive.steps(60)


def test_the_next_request_connects_again_and_retries_do_not_spin(start):
    program = start()
    address = program.address()
    with contextlib.closing(RemotePolicy(address)) as remote:
        assert_same(remote.infer(make_request()), Wave().chunk(make_request()))
        program.kill()
        count, end = 0, time.monotonic() + 1.0
        while time.monotonic() < end:
            with pytest.raises(PolicyConnectionError):
                remote.infer(make_request())
            count += 1
        assert 2 <= count <= 11
        start(int(address.rpartition(":")[2])).address()
        assert_same(remote.infer(make_request(1)), Wave().chunk(make_request(1)))


def test_another_policy_at_the_same_address_is_refused(start):
    program = start()
    address = program.address()
    port = int(address.rpartition(":")[2])
    with contextlib.closing(RemotePolicy(address)) as remote:
        program.kill()
        other = start(port, "another")
        other.address()
        with pytest.raises(PolicyConnectionError):
            remote.infer(make_request())
        for _ in range(2):
            with pytest.raises(PolicyServerError, match=r"'another'.* Before it was .*'wave'"):
                remote.infer(make_request())
        other.kill()
        start(port).address()
        remote.infer(make_request())


@pytest.mark.realtime
@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_a_server_that_is_silent_counts_as_gone(start):
    program = start()
    timeouts = ClientTimeouts(open_s=0.5, ping_interval_s=0.2, ping_timeout_s=0.3)
    with contextlib.closing(RemotePolicy(program.address(), timeout_s=TIMEOUT, timeouts=timeouts)) as remote:
        program.process.send_signal(signal.SIGSTOP)
        for reason in ("was lost", "cannot be reached"):
            begin = time.monotonic()
            with pytest.raises(PolicyConnectionError, match=reason):
                remote.infer(make_request())
            assert time.monotonic() - begin < 10.0
        program.process.send_signal(signal.SIGCONT)
        assert_same(remote.infer(make_request(2)), Wave().chunk(make_request(2)))


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_one_that_is_silent_for_a_moment_does_not(start):
    program = start()
    with contextlib.closing(RemotePolicy(program.address(), timeouts=ClientTimeouts(open_s=1.0))) as remote:
        program.process.send_signal(signal.SIGSTOP)
        time.sleep(2.0)
        program.process.send_signal(signal.SIGCONT)
        assert_same(remote.infer(make_request()), Wave().chunk(make_request()))


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_a_server_that_takes_no_request_counts_as_gone(start):
    """No ping gets past a request that is stuck."""
    program = start()
    timeouts = ClientTimeouts(ping_interval_s=0.2, ping_timeout_s=0.3)
    with contextlib.closing(RemotePolicy(program.address(), timeout_s=TIMEOUT, timeouts=timeouts)) as remote:
        remote._connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        request = make_request()
        request.observation["pixels"].update({name: np.zeros((600, 800, 3), np.uint8) for name in ("wrist", "scene")})
        program.process.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(PolicyConnectionError, match=r"was lost \(timed out\)"):
            remote.infer(request)
        assert time.monotonic() - begin < 10.0
