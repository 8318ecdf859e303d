"""A tiny checkpoint, made once, and broken copies of it."""

import json
import shutil

import numpy as np
import pytest

from smolvla_gym.data.statistics import compute_stats


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def stats():
    rng = np.random.default_rng(0)
    joints = rng.uniform(-1.0, 1.0, (100, 7)).astype(np.float32)
    joints[:, 6] = rng.uniform(0.0, 1.0, 100)
    return compute_stats(joints, joints)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, stats):
    """A complete checkpoint with two cameras. Not to be written to."""
    pytest.importorskip("lerobot")
    from smolvla_gym.training.tiny.checkpoint import build_tiny_checkpoint

    return build_tiny_checkpoint(tmp_path_factory.mktemp("policies") / "tiny", cameras=("wrist", "scene"), stats=stats)


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(tiny, tmp_path / "copy")


@pytest.fixture(scope="session")
def loaded(tiny):
    """The checkpoint, loaded once for the tests that do not care how."""
    from smolvla_gym.agent.checkpoint.load import load_checkpoint

    return load_checkpoint(tiny, device="cpu")


@pytest.fixture
def edit():
    """Returns a function that changes a JSON file in place."""

    def change(path, **values):
        content = json.loads(path.read_text())
        content.update(values)
        path.write_text(json.dumps(content))

    return change


@pytest.fixture
def observation():
    rng = np.random.default_rng(3)
    images = {name: rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for name in ("wrist", "scene")}
    return {"pixels": images, "agent_pos": np.full(7, 0.3, dtype=np.float32)}
