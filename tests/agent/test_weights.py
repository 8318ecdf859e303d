"""The weights of a checkpoint and its VLM files belong to one network; no code is run and no weight is ignored."""

import json
import os
import time

import numpy as np
import pytest

from smolvla_gym.agent.checkpoint.load import check_checkpoint_files, load_checkpoint
from smolvla_gym.agent.checkpoint.safetensors_file import read_header
from smolvla_gym.agent.checkpoint.spec import read_spec
from smolvla_gym.agent.checkpoint.validation import check_checkpoint
from smolvla_gym.agent.checkpoint.vlm_files import read_vlm
from smolvla_gym.errors import CheckpointError

pytest.importorskip("lerobot")


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


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "evil.Config"}}),
        ("config.json", {"trust_remote_code": True}),
        ("config.json", {"attn_implementation": "owner/kernel"}),
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}),
        ("config.json", {"model_type": "evil"}),
        ("config.json", {"scale_factor": 0}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "evil.Tokenizer"]}}),
        ("tokenizer_config.json", {"tokenizer_class": "pipeline"}),
        ("tokenizer_config.json", {"backend": "sentencepiece"}),
        ("tokenizer.json", {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}}),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}}}),
        ("tokenizer.json", {"added_tokens": [{"id": 10**6, "content": "x"}]}),
    ],
)
def test_a_vlm_names_no_code_and_no_bombs(copy, edit, name, change):
    edit(copy / "vlm" / name, **change)
    with pytest.raises(CheckpointError, match=name):
        check(copy)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("text_config", {"hidden_size": 16384}),
        ("text_config", {"intermediate_size": 65536}),
        ("text_config", {"vocab_size": 10**6}),
        ("text_config", {"vocab_size": 10**12}),
        ("text_config", {"num_hidden_layers": 10**6}),
        ("text_config", {"num_hidden_layers": 3}),
        ("text_config", {"num_key_value_heads": 3}),
        ("text_config", {"model_type": "mixtral"}),
        ("vision_config", {"num_hidden_layers": 128}),
        ("vision_config", {"image_size": 2048}),
        ("vision_config", {"num_attention_heads": 7}),
        ("vision_config", {"hidden_act": "os.system"}),
    ],
)
def test_a_network_larger_than_its_weights_is_not_built(copy, part, values):
    alter(copy / "vlm" / "config.json", lambda content: content[part].update(values))
    begin = time.process_time()
    with pytest.raises(CheckpointError):
        check(copy)
    assert time.process_time() - begin < 1.0


def test_layers_that_are_not_used_are_not_built(copy):
    alter(copy / "vlm" / "config.json", lambda content: content["text_config"].update(num_hidden_layers=32))
    policy = load_checkpoint(copy, device="cpu").policy
    assert policy.model.vlm_with_expert.vlm.config.text_config.num_hidden_layers == 4


def test_fields_of_other_releases_of_transformers_do_not_matter(copy, tiny):
    more = {
        "torch_dtype": "bfloat16",
        "_name_or_path": "/fsx/m",
        "architectures": ["X"],
        "transformers_version": "4.47.1",
    }
    alter(copy / "vlm" / "config.json", lambda content: content.update(more))
    alter(copy / "vlm" / "config.json", lambda content: content["text_config"].update(more, qk_layer_norms=False))
    assert read_vlm(copy / "vlm").text == read_vlm(tiny / "vlm").text


def test_sizes_that_smolvlm2_leaves_out_are_those_of_transformers(copy):
    def leave_out(content):
        for name in ("intermediate_size", "num_hidden_layers"):
            del content["vision_config"][name]
        del content["text_config"]["head_dim"]

    alter(copy / "vlm" / "config.json", leave_out)
    vlm = read_vlm(copy / "vlm")
    assert (vlm.vision["intermediate_size"], vlm.vision["num_hidden_layers"], vlm.text["head_dim"]) == (3072, 12, 32)


def test_the_private_copy_of_a_tokenizer_makes_the_same_tokens(tiny, tmp_path):
    from transformers import AutoTokenizer

    read_vlm(tiny / "vlm").write(tmp_path, 4)
    rebuilt, original = AutoTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tiny / "vlm")
    for text in ("Pick up the red cube.\n", "Ünïcode <image> 12 kg  ", ""):
        assert rebuilt(text)["input_ids"] == original(text)["input_ids"]
    assert rebuilt.fake_image_token_id == original.fake_image_token_id
    assert rebuilt.all_special_tokens == original.all_special_tokens


def test_a_folder_of_the_working_directory_is_not_taken_for_the_own(copy, tiny, monkeypatch):
    (copy / "vlm" / "config.json").unlink()
    monkeypatch.chdir(tiny)  # which has a folder vlm
    with pytest.raises(CheckpointError, match="vlm="):
        check_checkpoint_files(read_spec(copy))


def test_a_vlm_that_cannot_be_downloaded_is_named(copy, edit):
    (copy / "vlm" / "config.json").unlink()
    edit(copy / "config.json", vlm_model_name="owner/vlm")
    with pytest.raises(CheckpointError, match=r"VLM.*owner/vlm"):
        check_checkpoint_files(read_spec(copy))


def test_a_folder_named_in_a_downloaded_checkpoint_is_not_read(copy, tiny, edit):
    (copy / "vlm" / "config.json").unlink()
    edit(copy / "config.json", vlm_model_name=str(tiny / "vlm"))
    check_checkpoint_files(read_spec(copy))
    with pytest.raises(CheckpointError, match="vlm="):
        check_checkpoint_files(read_spec(copy), local=False)


def test_fewer_layers_than_the_weights_have_are_refused(copy, edit):
    edit(copy / "config.json", num_vlm_layers=2)
    with pytest.raises(CheckpointError, match=r"2 layers .* weights have 4"):
        check(copy)


@pytest.mark.parametrize("name", ["model.more.weight", "model.state_proj.lora_A.weight", "normalize_inputs.x.mean"])
def test_weights_without_a_place_are_refused(copy, name):
    tensors(copy / "model.safetensors", lambda content: content.update({name: np.zeros((2, 2), np.float32)}))
    with pytest.raises(CheckpointError, match=name.split(".")[-2]):
        load_checkpoint(copy, device="cpu")


def test_weights_that_are_not_numbers_are_refused(copy):
    tensors(copy / "model.safetensors", lambda content: content["model.state_proj.weight"].__setitem__((0, 0), np.nan))
    with pytest.raises(CheckpointError, match="not finite"):
        load_checkpoint(copy, device="cpu")


def test_quantised_weights_are_refused(copy):
    def quantise(content):
        content["model.state_proj.weight"] = content["model.state_proj.weight"].astype(np.int64)

    tensors(copy / "model.safetensors", quantise)
    with pytest.raises(CheckpointError, match="I64"):
        check(copy)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_adapters_beside_the_weights_are_refused(copy, name):
    (copy / name).write_text("{}")
    with pytest.raises(CheckpointError, match="PEFT"):
        read_spec(copy)


def test_a_policy_with_adapters_is_refused(copy, edit):
    edit(copy / "config.json", use_peft=True)
    with pytest.raises(CheckpointError, match="PEFT"):
        read_spec(copy)


@pytest.mark.parametrize("size", [10**9, 10**13])
def test_a_sparse_file_is_refused(copy, size):
    os.truncate(copy / "model.safetensors", size)
    with pytest.raises(CheckpointError, match="sparse"):
        check(copy)


def test_headers_of_tensors_are_checked(tmp_path):
    path = tmp_path / "x.safetensors"
    entries = [
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
        {"dtype": "X", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [[[[[2]]]]], "data_offsets": [0, 8]},
        7,
    ]
    for entry in entries:
        header = json.dumps({"a": entry}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        with pytest.raises(ValueError, match=r"its tensors|'a'|nested"):
            read_header(path)
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert read_header(path)["a"].shape == (2,)
