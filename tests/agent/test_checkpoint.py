import json
import os
import re

import numpy as np
import pytest

from smolvla_gym.agent.cameras import map_checkpoint_cameras, match_cameras, suggest_camera_map
from smolvla_gym.agent.checkpoint.load import load_checkpoint, resolve_device
from smolvla_gym.agent.checkpoint.spec import read_spec
from smolvla_gym.agent.checkpoint.validation import check_checkpoint
from smolvla_gym.agent.policies.base import PolicyCard
from smolvla_gym.doctor.policy import check_policy
from smolvla_gym.errors import CheckpointError, OptionError, PolicyMismatchError

pytest.importorskip("lerobot")

POST_STATS = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
PRE_STATS = "policy_preprocessor_step_5_normalizer_processor.safetensors"


def rewrite(path, change):
    """Loads a safetensors file, lets a function change its dictionary, and writes it back."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def predict(checkpoint):
    import torch

    frame = {
        "task": "Pick up the red cube.",
        "observation.state": torch.zeros(7),
        "observation.images.wrist": torch.full((3, 64, 64), 0.5),
        "observation.images.scene": torch.full((3, 64, 64), 0.25),
    }
    noise = torch.randn((1, 16, 7), generator=torch.Generator().manual_seed(0))
    chunk = checkpoint.policy.predict_action_chunk(checkpoint.preprocessor(frame), noise=noise)
    return checkpoint.postprocessor(chunk).numpy()


def test_the_spec_is_read_without_weights(tiny):
    spec = read_spec(tiny)
    assert dict(spec.cameras) == {"wrist": (64, 64), "scene": (64, 64)}
    assert (spec.state_dim, spec.action_dim) == (7, 7)
    assert (spec.chunk_size, spec.n_action_steps, spec.num_steps) == (16, 8, 5)


def test_a_checkpoint_holds_no_path_of_this_machine(tiny):
    for path in tiny.rglob("*.json"):
        assert str(tiny.parent) not in path.read_text(), path
    assert not re.search(r'"/\w', (tiny / "config.json").read_text())


def test_round_trip_is_bit_identical_wherever_it_lies(loaded, copy):
    from smolvla_gym.agent.checkpoint.saving import save_checkpoint

    again = load_checkpoint(copy, device="cpu")
    expected = predict(loaded)
    assert np.array_equal(predict(again), expected)
    save_checkpoint(copy.parent / "saved", again.policy, again.preprocessor, again.postprocessor)
    assert np.array_equal(predict(load_checkpoint(copy.parent / "saved", device="cpu")), expected)


def test_actions_are_in_units_not_z_scores(loaded, stats):
    # The same chunk, normalised: the postprocessor must have multiplied by std and added the mean.
    assert loaded.spec.postprocessor[0].stats["action.mean"] == pytest.approx(stats["action"]["mean"])
    import torch

    chunk = loaded.postprocessor(torch.zeros(1, 2, 7))[0, 0].numpy()
    assert chunk == pytest.approx(stats["action"]["mean"])


def test_language_masks_are_bool(loaded):
    import torch

    frame = {"task": "Pick up the red cube.", "observation.state": torch.zeros(7)}
    assert loaded.preprocessor(frame)["observation.language.attention_mask"].dtype == torch.bool


def test_half_precision_files_are_widened(copy):
    import torch
    from safetensors.torch import load_file, save_file

    weights = {key: value.to(torch.bfloat16) for key, value in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    checkpoint = load_checkpoint(copy, device="cpu")
    assert {parameter.dtype for parameter in checkpoint.policy.parameters()} == {torch.float32}
    assert np.isfinite(predict(checkpoint)).all()


def test_mixed_precision_is_kept(copy):
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    mixed = {key: value.to(torch.bfloat16) if ".vlm." in key else value for key, value in weights.items()}
    save_file(mixed, copy / "model.safetensors", metadata={"format": "pt"})
    kept = load_checkpoint(copy, device="cpu").policy
    assert {p.dtype for key, p in kept.named_parameters() if ".vlm." in key} == {torch.bfloat16}
    assert kept.model.action_out_proj.weight.dtype == torch.float32
    wide = load_checkpoint(copy, device="cpu", dtype="float32").policy
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}


# Refusals before the weights are read.


def test_six_actions_are_refused(copy, edit):
    edit(copy / "config.json", output_features={"action": {"type": "ACTION", "shape": [6]}})
    (copy / "model.safetensors").unlink()  # It must not get as far as this.
    with pytest.raises(PolicyMismatchError, match=r"6 components.*smolvla_base has 6.*SO-100.*Fine-tune"):
        load_checkpoint(copy)


def test_a_declared_state_of_six_is_fine(copy, edit):
    # Fine-tuned from smolvla_base: LeRobot leaves the old width in the configuration, the statistics are right.
    features = json.loads((copy / "config.json").read_text())["input_features"]
    features["observation.state"]["shape"] = [6]
    edit(copy / "config.json", input_features=features)
    check_checkpoint(read_spec(copy))


@pytest.mark.parametrize("width", [6, 7])
def test_a_state_that_is_not_normalised_has_seven_components(copy, edit, width):
    config = json.loads((copy / "config.json").read_text())
    config["input_features"]["observation.state"]["shape"] = [width]
    config["normalization_mapping"]["STATE"] = "IDENTITY"
    edit(copy / "config.json", **config)
    pipeline = json.loads((copy / "policy_preprocessor.json").read_text())
    pipeline["steps"][5]["config"]["norm_map"]["STATE"] = "IDENTITY"
    edit(copy / "policy_preprocessor.json", **pipeline)
    spec = read_spec(copy)
    if width == 7:
        check_checkpoint(spec)
        return
    with pytest.raises(PolicyMismatchError, match=r"state of 6 components, and this arm has 7 .*Fine-tune"):
        check_checkpoint(spec)


@pytest.mark.parametrize(
    ("file", "key"),
    [(POST_STATS, "action.mean"), (POST_STATS, "action.std"), (PRE_STATS, "observation.state.mean")],
)
def test_missing_statistics_are_refused(copy, file, key):
    rewrite(copy / file, lambda tensors: tensors.pop(key))
    with pytest.raises(PolicyMismatchError, match="no normalisation statistics"):
        load_checkpoint(copy)


def test_a_processor_without_its_statistics_is_refused(copy, edit):
    pipeline = json.loads((copy / "policy_postprocessor.json").read_text())
    del pipeline["steps"][0]["state_file"]
    edit(copy / "policy_postprocessor.json", **pipeline)
    with pytest.raises(PolicyMismatchError, match="no normalisation statistics"):
        load_checkpoint(copy)


def test_a_processor_without_normaliser_is_refused(copy, edit):
    edit(copy / "policy_postprocessor.json", steps=[])
    with pytest.raises(PolicyMismatchError, match="no normalisation"):
        load_checkpoint(copy)


def test_statistics_that_are_not_finite_are_refused(copy):
    rewrite(copy / POST_STATS, lambda tensors: tensors["action.mean"].fill(np.inf))
    with pytest.raises(PolicyMismatchError, match="not finite"):
        load_checkpoint(copy)


def test_statistics_of_six_joints_are_refused(copy):
    def shorten(tensors):
        tensors.update({key: value[:6].copy() for key, value in tensors.items()})

    rewrite(copy / PRE_STATS, shorten)
    with pytest.raises(PolicyMismatchError, match="7 components"):
        load_checkpoint(copy)


def test_degrees_are_refused(copy):
    rewrite(copy / POST_STATS, lambda tensors: tensors["action.mean"].__setitem__(2, 180.0))
    with pytest.raises(PolicyMismatchError, match="degrees"):
        load_checkpoint(copy)


def test_another_policy_type_is_refused(copy, edit):
    edit(copy / "config.json", type="act")
    with pytest.raises(PolicyMismatchError, match="'act'"):
        load_checkpoint(copy)


# Broken and absent files.


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "policy_preprocessor.json", "policy_postprocessor.json", POST_STATS]
)
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(name)):
        load_checkpoint(copy)


@pytest.mark.parametrize("content", ["{", "[]", '{"type": "smolvla"}', "\xff"])
def test_a_broken_configuration_is_named(copy, content):
    (copy / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(copy)


@pytest.mark.parametrize("name", ["model.safetensors", POST_STATS])
@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_truncated_tensors_are_named(copy, name, keep):
    path = copy / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=re.escape(name)):
        load_checkpoint(copy)


def test_missing_weights_are_refused(copy):
    rewrite(copy / "model.safetensors", lambda tensors: tensors.pop("model.action_out_proj.weight"))
    with pytest.raises(CheckpointError, match=r"lacks 1 .*action_out_proj\.weight.*random"):
        load_checkpoint(copy)


def test_weights_of_another_shape_are_refused(copy):
    def shorten(tensors):
        tensors["model.action_out_proj.weight"] = np.zeros((5, 96), dtype=np.float32)

    rewrite(copy / "model.safetensors", shorten)
    with pytest.raises(CheckpointError, match="could not load"):
        load_checkpoint(copy)


def test_a_foreign_vlm_folder_is_refused(copy, edit):
    (copy / "vlm" / "config.json").unlink()
    edit(copy / "config.json", vlm_model_name="/home/someone/vlm")
    with pytest.raises(CheckpointError, match=r"/home/someone/vlm.*vlm="):
        load_checkpoint(copy)


def test_a_vlm_can_be_given(copy, tiny):
    (copy / "vlm" / "config.json").unlink()
    assert load_checkpoint(copy, vlm=tiny / "vlm", device="cpu").policy.config.vlm_model_name == str(tiny / "vlm")


def test_a_mistyped_path_is_corrected(copy):
    with pytest.raises(CheckpointError, match=rf"Did you mean '{re.escape(str(copy))}'"):
        load_checkpoint(copy.parent / "cpoy")


def test_a_relative_path_is_not_taken_for_a_repository(copy, monkeypatch):
    monkeypatch.chdir(copy.parent.parent)
    with pytest.raises(CheckpointError, match="Did you mean"):
        load_checkpoint(f"{copy.parent.name}/coby")


def test_a_training_folder_is_pointed_into(copy):
    inner = copy.parent / "run" / "checkpoints" / "last" / "pretrained_model"
    inner.mkdir(parents=True)
    (inner / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=re.escape(f"Did you mean '{inner}'")):
        load_checkpoint(copy.parent / "run")


def test_a_file_is_refused(copy):
    with pytest.raises(CheckpointError, match="is a file"):
        load_checkpoint(copy / "model.safetensors")


@pytest.mark.skipif(os.environ.get("HF_HUB_OFFLINE") == "0", reason="the hub may be reached")
def test_a_repository_without_network_is_explained(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"could not be downloaded.*hf download nobody/nothing_of_this_name"):
        load_checkpoint("nobody/nothing_of_this_name")


@pytest.mark.parametrize("device", ["tpu9", "", "cuda:99", "gpu"])
def test_unknown_devices_are_refused(device):
    with pytest.raises(OptionError, match="device="):
        resolve_device(device)


def test_unknown_dtypes_are_refused(tiny):
    with pytest.raises(OptionError, match="dtype="):
        load_checkpoint(tiny, dtype="int8")


@pytest.mark.parametrize("mode", ["fastest", "", True])
def test_unknown_modes_of_compiling_are_refused(tiny, mode):
    with pytest.raises(OptionError, match=r"compile_mode=.*max-autotune"):
        load_checkpoint(tiny, compile_mode=mode)


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_only_a_compile_mode_compiles(copy, edit, mode):
    import torch

    edit(copy / "config.json", compile_model=True)  # As one that was trained with it says.
    precision = torch.get_float32_matmul_precision()
    try:
        policy = load_checkpoint(copy, device="cpu", compile_mode=mode).policy
    finally:
        torch.set_float32_matmul_precision(precision)
    assert policy.config.compile_model == (mode is not None)
    assert hasattr(policy.model.sample_actions, "_torchdynamo_orig_callable") == (mode is not None)


# Cameras.


def test_cameras_keep_their_names(loaded):
    assert map_checkpoint_cameras(loaded.spec) == {"wrist": "wrist", "scene": "scene"}


def test_a_camera_map_is_followed(loaded):
    assert map_checkpoint_cameras(loaded.spec, {"scene": "top"}) == {"wrist": "wrist", "scene": "top"}


def test_a_camera_map_with_unknown_names_is_refused(loaded):
    with pytest.raises(PolicyMismatchError, match="camera_map names 'camera1'"):
        map_checkpoint_cameras(loaded.spec, {"camera1": "wrist"})


def test_the_renames_of_the_training_are_followed(copy, edit):
    pipeline = json.loads((copy / "policy_preprocessor.json").read_text())
    pipeline["steps"][0]["config"]["rename_map"] = {"observation.images.top": "observation.images.scene"}
    edit(copy / "policy_preprocessor.json", **pipeline)
    assert map_checkpoint_cameras(read_spec(copy)) == {"wrist": "wrist", "scene": "top"}
    assert np.isfinite(predict(load_checkpoint(copy, device="cpu"))).all()


@pytest.mark.parametrize(
    ("camera_map", "offered", "suggested"),
    [
        ({"a": "top", "b": "left"}, ("wrist", "scene"), {"a": "wrist", "b": "scene"}),
        ({"a": "top", "wrist": "wrist"}, ("wrist", "scene"), {"a": "scene"}),
        ({"a": "a", "wrist": "wrist", "b": "b"}, ("wrist", "scene"), {"a": "scene", "b": None}),
        ({"a": "a", "b": "b", "c": "c"}, ("wrist", "scene"), {"a": "wrist", "b": "scene", "c": None}),
        ({"a": "a", "b": "b"}, (), {"a": "wrist", "b": None}),
        ({"wrist": "wrist", "scene": "scene", "c": "c"}, ("wrist", "scene"), {"c": None}),
    ],
)
def test_missing_cameras_are_paired_with_unused_ones(camera_map, offered, suggested):
    assert suggest_camera_map(camera_map, offered) == suggested
    card = PolicyCard("policy", dict.fromkeys(camera_map, (64, 64)), camera_map, 16, 8, 5, 32, "cpu")
    with pytest.raises(PolicyMismatchError) as refused:
        match_cameras(card, offered)
    # No image that another camera of the policy's sees is advised, and always how to leave one out.
    named = {name: camera for name, camera in suggested.items() if camera is not None}
    assert (f"camera_map={named}" in str(refused.value)) == bool(named)
    assert f"camera_map={ {next(iter(suggested)): None} }" in str(refused.value)


def test_the_doctor_suggests_a_map_that_the_policy_takes(copy, edit):
    pipeline = json.loads((copy / "policy_preprocessor.json").read_text())
    pipeline["steps"][0]["config"]["rename_map"] = {"observation.images.top": "observation.images.wrist"}
    edit(copy / "policy_preprocessor.json", **pipeline)
    suggested = {"wrist": "wrist"}  # the scene is looked at already
    remedies = [finding.remedy for finding in check_policy(str(copy)) if finding.remedy]
    assert [f"camera_map={suggested}" in remedy for remedy in remedies] == [True]
    assert map_checkpoint_cameras(read_spec(copy), suggested) == {"wrist": "wrist", "scene": "scene"}


def test_a_home_path_is_local(copy, monkeypatch):
    monkeypatch.setenv("HOME", str(copy.parent))
    assert load_checkpoint("~/copy", device="cpu").spec.directory == copy


def test_a_repository_is_refused_before_its_weights_are_fetched(copy, edit, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repo, *, revision, allow_patterns):
        asked.append((repo, allow_patterns))
        return str(copy)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    load_checkpoint("owner/name", device="cpu")
    assert [("model.safetensors" in patterns) for _, patterns in asked] == [False, True]
    edit(copy / "config.json", output_features={"action": {"type": "ACTION", "shape": [6]}})
    with pytest.raises(PolicyMismatchError):
        load_checkpoint("owner/name", device="cpu")
    assert len(asked) == 3
