"""Export of policies that differ from the bundled one."""

import json

import numpy as np
import pytest

pytest.importorskip("lerobot")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from safetensors.numpy import load_file, save_file

from smolvla_gym.agent.onnx import export
from smolvla_gym.agent.onnx.folder import TOLERANCE
from smolvla_gym.agent.onnx.policy import open_exported
from smolvla_gym.errors import CheckpointError, MissingExtraError

MODES = {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"}


def alter(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def normalise_otherwise(folder):
    """Give a checkpoint other normalisation, an image that has to be padded, and a camera that may be absent."""

    def configure(config):
        config["input_features"]["observation.images.scene"]["shape"] = [3, 48, 96]
        config["input_features"]["observation.images.empty_camera_0"] = {"type": "VISUAL", "shape": [3, 64, 64]}
        config.update(normalization_mapping=MODES, empty_cameras=1)

    def process(pipeline):
        for step in pipeline["steps"]:
            if "norm_map" not in step["config"]:
                continue
            step["config"]["norm_map"] = MODES
            if "observation.images.scene" in step["config"]["features"]:
                step["config"]["features"]["observation.images.scene"]["shape"] = [3, 48, 96]
            stats = load_file(folder / step["state_file"])
            for camera in ("wrist", "scene"):
                for name, values in (("mean", [0.4, 0.5, 0.6]), ("std", [0.2, 0.3, 0.25])):
                    stats[f"observation.images.{camera}.{name}"] = np.array(values, np.float32).reshape(3, 1, 1)
            save_file(stats, folder / step["state_file"])

    alter(folder / "config.json", configure)
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        alter(folder / name, process)


@pytest.mark.slow
def test_other_normalisation_padded_images_and_a_graph_that_is_not_simplified(copy, tmp_path, monkeypatch):
    normalise_otherwise(copy)
    monkeypatch.setattr(export, "SMALL", 0)  # graphs of large policies are written as they are
    (tmp_path / "out").mkdir()
    assert export.export_onnx(copy, tmp_path / "out") <= TOLERANCE
    policy = open_exported(tmp_path / "out")
    assert policy.card.cameras == {"wrist": (64, 64), "scene": (48, 96)}
    assert policy.card.empty_cameras == 1


def test_a_policy_that_the_sampler_does_not_support_is_refused(copy, edit, tmp_path):
    edit(copy / "config.json", use_cache=False)
    (tmp_path / "out").mkdir()
    with pytest.warns(UserWarning, match="LeRobot"), pytest.raises(CheckpointError, match="cannot be exported"):
        export.export_onnx(copy, tmp_path / "out")


def test_a_missing_package_is_named(copy, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match="onnx-export"):
        export.export_onnx(copy, tmp_path)
