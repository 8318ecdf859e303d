"""The bundled policy, exported once."""

import shutil

import pytest

from smolvla_gym.cli.main import main


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The folder. Not to be written to."""
    for package in ("lerobot", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("policies") / "exported"
    assert main(["export", "bundled", str(folder), "--format", "onnx"]) == 0
    return folder


@pytest.fixture
def broken(exported, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(exported, tmp_path / "broken")
