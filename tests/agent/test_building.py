"""A checkpoint built from checked values equals the one that LeRobot loads itself."""

import json

import numpy as np
import pytest

pytest.importorskip("lerobot")

import torch


def test_the_chunk_is_that_of_lerobots_own_loading(loaded, copy, edit, tmp_path, monkeypatch):
    import tempfile

    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # LeRobot leaves a file there
    edit(copy / "config.json", vlm_model_name=str(copy / "vlm"))
    config = PreTrainedConfig.from_pretrained(copy, cli_overrides=["--device=cpu"])
    expected = SmolVLAPolicy.from_pretrained(copy, config=config)
    options = {"tokenizer_processor": {"tokenizer_name": str(copy / "vlm")}}
    pre, post = make_pre_post_processors(config, str(copy), preprocessor_overrides=options)
    frame = {"task": "Pick up the red cube.", "observation.state": torch.linspace(-0.5, 0.5, 7)}
    frame |= {f"observation.images.{camera}": torch.full((3, 64, 64), 0.5) for camera in ("wrist", "scene")}
    noise = torch.randn((1, 16, 7), generator=torch.Generator().manual_seed(0))

    def chunk(policy, preprocessor, postprocessor):
        return postprocessor(policy.predict_action_chunk(preprocessor(dict(frame)), noise=noise)).numpy()

    actual = chunk(loaded.policy, loaded.preprocessor, loaded.postprocessor)
    assert np.array_equal(actual, chunk(expected, pre, post))


def test_a_saved_copy_equals_lerobots(loaded, tiny, tmp_path):
    loaded.policy.config.save_pretrained(tmp_path)
    loaded.preprocessor.save_pretrained(tmp_path)
    loaded.postprocessor.save_pretrained(tmp_path)
    saved, original = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, tiny))
    # The folder of the VLM is put in when it is loaded, and only who asks has it compiled.
    for name in ("vlm_model_name", "rtc_config"):
        saved.pop(name), original.pop(name)
    assert saved == original
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        saved, original = ((folder / name).read_text() for folder in (tmp_path, tiny))
        assert json.loads(saved.replace(str(tiny / "vlm"), "vlm")) == json.loads(original)
