"""An untrusted checkpoint must not run code, allocate without bound, or be misread."""

import json
import os
import subprocess
import tempfile
import time

import pytest

from smolvla_gym.agent.checkpoint.load import check_checkpoint_files, load_checkpoint
from smolvla_gym.agent.checkpoint.spec import read_spec
from smolvla_gym.agent.checkpoint.validation import check_checkpoint
from smolvla_gym.errors import CheckpointError, PolicyMismatchError

pytest.importorskip("lerobot")

PRE = "policy_preprocessor.json"
POST = "policy_postprocessor.json"


def alter(path, change):
    """Lets a function change the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def tensors(path, change):
    """Lets a function change the tensors of a safetensors file."""
    from safetensors.numpy import load_file, save_file

    content = {key: value.copy() for key, value in load_file(path).items()}
    change(content)
    save_file(content, path)


def check(folder):
    spec = read_spec(folder)
    check_checkpoint(spec)
    return check_checkpoint_files(spec)


@pytest.mark.parametrize("file", [PRE, POST])
@pytest.mark.parametrize("name", [{}, {"registry_name": "device_processor"}])
def test_a_step_that_names_a_class_is_not_run(copy, tmp_path, file, name):
    step = {**name, "class": "subprocess.Popen", "config": {"args": ["touch", str(tmp_path / "ran")]}}
    alter(copy / file, lambda content: content["steps"].append(step))
    with pytest.raises(CheckpointError, match="class"):
        load_checkpoint(copy, device="cpu")
    time.sleep(0.05)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("file", "step"),
    [
        (PRE, {"registry_name": "absolute_actions_processor", "config": {"enabled": True}}),
        (POST, {"registry_name": "normalizer_processor", "config": {}}),
        (PRE, {"registry_name": "to_batch_processor", "config": {}}),  # a second one
        (PRE, {"registry_name": ["device_processor"]}),
        (PRE, "device_processor"),
        (PRE, None),
    ],
)
def test_steps_of_other_policies_are_refused(copy, file, step):
    alter(copy / file, lambda content: content["steps"].append(step))
    with pytest.raises(CheckpointError):
        read_spec(copy)


@pytest.mark.parametrize(
    ("position", "values"),
    [
        (3, {"max_length": 10**9}),
        (3, {"task_key": "robot_type"}),
        (3, {"tokenizer": "x"}),
        (4, {"float_dtype": "float16"}),
        (5, {"eps": 1e6}),
        (5, {"stats": {}}),
        (5, {"features": {"observation.state": {"type": "VISUAL", "shape": [3, 7, 7]}}}),
        (0, {"rename_map": {"a": "observation.images.wrist", "b": "observation.images.wrist"}}),
    ],
)
def test_configurations_of_steps_are_checked(copy, position, values):
    alter(copy / PRE, lambda content: content["steps"][position]["config"].update(values))
    with pytest.raises(CheckpointError):
        read_spec(copy)


@pytest.mark.parametrize("name", ["../stats.safetensors", "/tmp/stats.safetensors", "..", "", "vlm/x.safetensors", 7])
def test_a_state_file_lies_in_the_checkpoint(copy, name):
    (copy.parent / "stats.safetensors").write_bytes((copy / "model.safetensors").read_bytes())
    alter(copy / POST, lambda content: content["steps"][0].update(state_file=name))
    with pytest.raises(CheckpointError, match="state_file"):
        read_spec(copy)


def test_a_step_in_a_place_without_effect_is_refused(copy):
    def turn(content):
        content["steps"][2:4] = content["steps"][3:1:-1]

    alter(copy / PRE, turn)
    with pytest.raises(CheckpointError, match="smolvla_new_line_processor"):
        read_spec(copy)


@pytest.mark.parametrize(
    "values",
    [
        {"chunk_size": 10**9, "n_action_steps": 10**9},
        {"chunk_size": 16.0},
        {"chunk_size": True},
        {"num_steps": 10**6},
        {"num_steps": 0},
        {"tokenizer_max_length": 10**8},
        {"resize_imgs_with_padding": [10**5, 10**5]},
        {"max_action_dim": 10**7},
        {"expert_width_multiplier": 1e6},
        {"num_vlm_layers": 10**6},
        {"empty_cameras": 10**6},
        {"prefix_length": 10**9},
        {"optimizer_lr": "import os"},
        {"n_obs_steps": 2},
        {"min_period": 5.0},
        {"attention_mode": "os.system"},
        {"input_features": None},
        {"input_features": {"observation.state": {"type": "STATE", "shape": [7, 7, 7, 7, 7]}}},
        {"output_features": {"action": {"type": "STATE", "shape": [7]}}},
    ],
)
def test_numbers_out_of_range_are_refused_at_once(copy, edit, values):
    edit(copy / "config.json", **values)
    begin = time.process_time()
    with pytest.raises(CheckpointError):
        check(copy)
    assert time.process_time() - begin < 1.0


def test_huge_images_are_refused(copy):
    features = {"type": "VISUAL", "shape": [3, 10**5, 10**5]}
    alter(
        copy / "config.json", lambda content: content["input_features"].update({"observation.images.wrist": features})
    )
    with pytest.raises(CheckpointError, match="shape"):
        read_spec(copy)


@pytest.mark.parametrize("name", ["config.json", PRE, POST, "vlm/config.json", "vlm/tokenizer.json"])
@pytest.mark.parametrize("content", ["[" * 200_000, '{"a":' * 100_000, '{"a": 1, "a": 2}', '{"a": NaN}', "7"])
def test_json_bombs_are_refused(copy, name, content):
    (copy / name).write_text(content)
    with pytest.raises(CheckpointError, match="json"):
        check(copy)


@pytest.mark.parametrize("name", ["config.json", PRE, "vlm/tokenizer.json", "model.safetensors"])
def test_a_fifo_is_not_waited_for(copy, name):
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(CheckpointError, match="regular file"):
        check(copy)


def test_links_are_followed_as_in_the_cache_of_the_hub(copy):
    blobs = copy.parent / "blobs"
    blobs.mkdir()
    for file in [path for path in copy.rglob("*") if path.is_file()]:
        file.rename(blobs / file.name.replace("config", file.parent.name))
        file.symlink_to(blobs / file.name.replace("config", file.parent.name))
    check(copy)


# Features.


def test_a_camera_of_another_name_is_refused(copy):
    for file in ("config.json", PRE):

        def rename(content):
            features = content["steps"][5]["config"]["features"] if "steps" in content else content["input_features"]
            features["observation.image"] = features.pop("observation.images.scene")

        alter(copy / file, rename)
    with pytest.raises(PolicyMismatchError, match=r"observation\.image'.*observation\.images\."):
        check(copy)


def test_a_feature_that_smolvla_does_not_use_does_no_harm(copy):
    effort = {"observation.effort": {"type": "STATE", "shape": [6]}}
    alter(copy / "config.json", lambda content: content["input_features"].update(effort))
    check(copy)


def test_a_field_of_another_release_is_named(copy, edit):
    edit(copy / "config.json", num_diffusion_heads=3)
    with pytest.raises(CheckpointError, match=r"num_diffusion_heads.*another release of LeRobot"):
        read_spec(copy)


# What stays behind, and other programs that would run what a checkpoint names.


def test_no_temporary_file_is_left(copy, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    load_checkpoint(copy, device="cpu")
    (copy / "vlm" / "tokenizer.json").write_text('{"model": {"type": "X", "vocab": {}}}')
    with pytest.raises(CheckpointError):
        load_checkpoint(copy, device="cpu")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_checkpoint_saved_by_lerobot_itself_is_loaded(loaded, tiny, tmp_path):
    loaded.policy.save_pretrained(tmp_path / "saved")
    loaded.preprocessor.save_pretrained(tmp_path / "saved")
    loaded.postprocessor.save_pretrained(tmp_path / "saved")
    again = load_checkpoint(tmp_path / "saved", device="cpu")
    assert again.policy.config.vlm_model_name == str(tiny / "vlm")
    assert json.loads((tmp_path / "saved" / PRE).read_text())["steps"][3]["config"]["tokenizer_name"] == str(
        tiny / "vlm"
    )


@pytest.mark.parametrize("command", ["export", "prepare"])
def test_lerobot_gets_no_class_names(copy, tmp_path, command):
    alter(copy / PRE, lambda content: content["steps"].append({"class": "subprocess.Popen", "config": {}}))
    if command == "export":
        from smolvla_gym.cli.main import main

        assert main(["export", str(copy), str(tmp_path / "out")]) == 1
        assert not (tmp_path / "out").exists()
        return
    from smolvla_gym.training.lerobot.finetune import prepare

    class Recording:
        cameras, image_size, fps, gripper = ("wrist",), (64, 64), 10, None

    with pytest.raises(CheckpointError, match="class"):
        prepare(copy, Recording(), ("wrist",), tmp_path / "start")
    assert not (tmp_path / "start").exists()


def test_devices_and_linked_folders_are_not_copied(copy, tmp_path):
    from smolvla_gym.agent.checkpoint.saving import copy_checkpoint

    (copy / "zero").symlink_to("/dev/zero")
    (copy / "again").symlink_to(copy)
    os.mkfifo(copy / "pipe")
    (tmp_path / "secret").write_text("secret")
    (copy / "notes.json").symlink_to(tmp_path / "secret")  # the copy may be handed on
    (copy / "vlm" / "notes.json").symlink_to(tmp_path / "secret")
    (copy / "config.json").rename(tmp_path / "blob")
    (copy / "config.json").symlink_to(tmp_path / "blob")  # as in the hub's cache
    copy_checkpoint(copy, tmp_path / "out")
    assert {path.name for path in copy.iterdir()} - {path.name for path in (tmp_path / "out").iterdir()} == {
        "zero", "again", "pipe", "notes.json",
    }  # fmt: skip
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink() or path.name == "notes.json"]


def test_the_copy_of_a_vlm_names_no_code(copy, tmp_path):
    from smolvla_gym.agent.checkpoint.saving import copy_checkpoint

    (copy / "vlm" / "processor_config.json").write_text('{"auto_map": {"AutoProcessor": "evil.Processor"}}')
    (copy / "vlm" / "evil.py").write_text("raise SystemExit")
    copy_checkpoint(copy, tmp_path / "out")
    assert "evil" not in "".join(path.read_text() for path in (tmp_path / "out" / "vlm").iterdir())
    assert not (tmp_path / "out" / "vlm" / "evil.py").exists()


def test_an_export_deletes_no_linked_files(copy, tmp_path, capsys):
    from smolvla_gym.cli.main import main

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    (tmp_path / ".out.part").symlink_to(tmp_path / "mine")
    assert main(["export", str(copy), str(tmp_path / "out")]) == 2
    assert "link" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize(
    ("special", "pieces"),
    [({"ids": [10**6]}, 1), ({"ids": [1] * 1000}, 1), ({"ids": [1]}, 1000), ({"ids": "x"}, 1), (None, 1)],
)
def test_tokens_around_a_text_have_rows_in_the_embedding(copy, special, pieces):
    template = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, *[{"SpecialToken": {"id": "X", "type_id": 0}}] * pieces],
        "pair": [],
        "special_tokens": {"X": special},
    }
    alter(copy / "vlm" / "tokenizer.json", lambda content: content.update(post_processor=template))
    with pytest.raises(CheckpointError, match="post_processor"):
        check(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"pad_token": "brand new"},
        {"added_tokens_decoder": {"77777": {"content": "lift", "special": False}}},
        {"extra_special_tokens": {"some_token": "a new one"}},
    ],
)
def test_tokens_beyond_the_embedding_are_refused(copy, change):
    alter(copy / "vlm" / "tokenizer_config.json", lambda content: content.update(change))
    with pytest.raises(CheckpointError, match="rows"):
        load_checkpoint(copy, device="cpu")


def test_a_large_network_without_weights_is_not_built(copy):
    import numpy as np

    sizes = {"hidden_size": 16384, "intermediate_size": 65536, "num_hidden_layers": 64}
    alter(copy / "vlm" / "config.json", lambda content: content["text_config"].update(sizes))
    alter(copy / "config.json", lambda content: content.update(num_vlm_layers=64, num_expert_layers=64))
    layers = json.loads((copy / "vlm" / "config.json").read_text())["vision_config"]["num_hidden_layers"]

    def names_only(content):
        content.clear()
        for prefix, count in (("vlm.model.text_model", 64), ("lm_expert", 64), ("vlm.model.vision_model", layers)):
            for i in range(count):
                name = f"layers.{i}.x" if "vision" not in prefix else f"encoder.layers.{i}.x"
                content[f"model.vlm_with_expert.{prefix}.{name}"] = np.zeros(1, np.float32)

    tensors(copy / "model.safetensors", names_only)
    with pytest.raises(CheckpointError, match="lacks"):
        check(copy)


@pytest.mark.parametrize("name", ["vlm/tokenizer.json", "model.safetensors", POST])
def test_long_lists_are_refused_at_once(copy, name):
    raw = b'{"model": [' + b"[]," * 2_000_000 + b"[]]}"
    (copy / name).write_bytes((len(raw).to_bytes(8, "little") if "safetensors" in name else b"") + raw)
    begin = time.process_time()
    with pytest.raises(CheckpointError):
        check(copy)
    assert time.process_time() - begin < 1.0


def test_checking_needs_neither_torch_nor_lerobot(copy):
    code = (
        "import sys; from pathlib import Path; from smolvla_gym.agent.checkpoint.spec import read_spec; "
        "from smolvla_gym.agent.checkpoint.validation import check_checkpoint; "
        "from smolvla_gym.agent.checkpoint.load import check_checkpoint_files; "
        "spec = read_spec(Path(sys.argv[1])); check_checkpoint(spec); check_checkpoint_files(spec); "
        "assert not {'torch', 'lerobot', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([os.sys.executable, "-c", code, str(copy)], check=True, timeout=60)
