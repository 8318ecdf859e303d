"""``smolvla-gym rollout`` with a policy that a server computes."""

import json

import pytest

pytest.importorskip("websockets")

from smolvla_gym.cli.main import main
from tests.agent.policies.connections import serving
from tests.agent.policies.policies import Wave
from tests.cli.test_rollout import SHORT


def test_a_policy_that_runs_elsewhere(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wave = Wave()
    with serving(wave) as server:
        address = server.address
        assert main([*SHORT, "--policy", address, "--no-video", "--out", "out", "--json"]) == 0
    port = address.rsplit(":", 1)[1]
    printed = capsys.readouterr()
    assert json.loads(printed.out)["policy"] == address
    assert f"connecting to policy {address}" in printed.err
    assert wave.count >= 1
    assert main([*SHORT, "--policy", f"127.0.0.1:{port}", "--out", "none"]) == 1  # it is gone
    assert port in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
