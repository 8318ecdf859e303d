"""``smolvla-gym serve``: in a process of its own with the bundled policy, and what it refuses before it loads one."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from smolvla_gym.cli.main import main
from smolvla_gym.errors import PolicyServerError

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 120.0


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.delenv("SMOLVLA_GYM_TOKEN", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def heed_signals():
    # A shell that runs the tests in the background lets them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def program(*arguments, **environment):
    """A running ``smolvla-gym serve``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "smolvla_gym", "serve", "--port", "0", "--device", "cpu", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        preexec_fn=heed_signals,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def observation():
    rng = np.random.default_rng(3)
    pictures = {name: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for name in ("wrist", "scene")}
    return {"pixels": pictures, "agent_pos": np.full(7, 0.3, dtype=np.float32)}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_it_serves_and_ends_cleanly(observation, tmp_path):
    pytest.importorskip("lerobot")

    from smolvla_gym.agent import SmolVLAAgent

    (tmp_path / "token").write_text("a-secret\n")
    with program("--json", "--token-file", str(tmp_path / "token")) as process:
        ready = json.loads(process.stdout.readline())
        address = ready.pop("address")
        cameras = {"wrist": [64, 64], "scene": [64, 64]}
        assert ready == {"policy": "bundled", "device": "cpu", "cameras": cameras}
        with pytest.raises(PolicyServerError, match="token"):
            SmolVLAAgent.connect(address)

        local = SmolVLAAgent.from_pretrained("bundled", device="cpu")
        with contextlib.closing(SmolVLAAgent.connect(address, token="a-secret")) as remote:
            for agent in (remote, local):
                agent.reset("pick up the red cube", seed=1)
            for _ in range(3):
                assert remote.act(observation).tobytes() == local.act(observation).tobytes()
            # It ends although a client asks all the time.
            threading.Timer(1.0, process.send_signal, [signal.SIGINT]).start()
            while not remote.statistics.retries:
                remote.reset("pick up the red cube")
                remote.act(observation)
            out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 128 + signal.SIGINT
    assert out == ""
    first, *_, last = err.splitlines()
    assert first == "smolvla-gym: loading policy bundled …"
    assert last == "smolvla-gym: interrupted"
    assert " connected\n" in err
    assert "Traceback" not in err
    assert "a-secret" not in err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("--host 0.0.0.0", "host='0.0.0.0' is not allowed: without a token 127.0.0.1 only"),
        ("--host nowhere.invalid", "host='nowhere.invalid'"),
        ("--port 70000", "port=70000 is not allowed: 0 to 65535"),
        ("--port x", "--port"),
        ("--token-file empty", "a file that holds a token"),
        ("--token-file pipe", "regular"),
        ("--token-file /dev/zero", "regular"),
        ("--token-file long", "larger"),
        ("--token-file words", "token='…' is not allowed"),
        ("--nonsense", "unrecognized arguments"),
    ],
)
def test_wrong_arguments(capsys, tmp_path, monkeypatch, arguments, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_text("x" * 5000)
    (tmp_path / "words").write_text("two words\n")
    # Whatever policy there is: none is loaded first.
    assert main(["serve", "--policy", "somebody/something", *arguments.split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert hint in printed.err.splitlines()[-1]
    assert "loading" not in printed.err
    assert "two words" not in printed.err


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--policy", "somebody/something", "--port", str(port)]) == 2
    assert f"port={port} is not allowed: a free one of '127.0.0.1'" in capsys.readouterr().err


def test_files_that_are_not_there(capsys, tmp_path):
    assert main(["serve", "--port", "0", "--token-file", str(tmp_path / "token")]) == 1
    assert "token" in capsys.readouterr().err
    pytest.importorskip("lerobot")
    assert main(["serve", "--port", "0", "--policy", str(tmp_path)]) == 1
    assert "config.json is missing" in capsys.readouterr().err


def test_help_says_where_the_token_comes_from(capsys):
    assert main(["serve", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "SMOLVLA_GYM_TOKEN" in printed
    assert "ssh -L" in printed
