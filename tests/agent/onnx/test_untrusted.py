"""Exported folders are untrusted: what the exporter does not write is refused before ONNX Runtime gets it."""

import contextlib
import hashlib
import json
import time

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from smolvla_gym.agent.onnx.folder import read_exported
from smolvla_gym.agent.onnx.model_file import check_model
from smolvla_gym.agent.policies.load import load_policy
from smolvla_gym.errors import CheckpointError

FLOAT = onnx.TensorProto.FLOAT


def small_model():
    """A graph of one node, as the exporter writes it."""
    ports = [helper.make_tensor_value_info(name, FLOAT, [2]) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "main", ports[:1], ports[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], producer_name="p")


def name_a_file(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def add_subgraph(model):
    node = model.graph.node.add()
    node.CopyFrom(helper.make_node("Identity", ["y"], ["z"]))
    node.attribute.append(helper.make_attribute("body", model.graph))


def add_tensor_attribute(model):
    value = numpy_helper.from_array(np.ones(2, np.float32), "v")
    model.graph.node[0].attribute.append(helper.make_attribute("value", value))


def add_function(model):
    model.functions.append(
        helper.make_function("here", "f", ["a"], ["b"], [helper.make_node("Identity", ["a"], ["b"])], [])
    )


def set_values(model, values):
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.asarray(values), "w"))


CHANGES = {
    "external data": name_a_file,
    "subgraph": add_subgraph,
    "tensor attribute": add_tensor_attribute,
    "function": add_function,
    "domain": lambda model: setattr(model.graph.node[0], "domain", "com.microsoft"),
    "operator": lambda model: setattr(model.graph.node[0], "op_type", "Loop"),
    "two operator sets": lambda model: model.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
    "version": lambda model: setattr(model.opset_import[0], "version", 17),
    "metadata": lambda model: model.metadata_props.add(key="ort_config", value="{}"),
    "sparse": lambda model: model.graph.sparse_initializer.add(),
    "training": lambda model: model.training_info.add(),
    "shape": lambda model: model.graph.initializer[0].dims.append(10**12),
    "strings": lambda model: set_values(model, np.array(["a"], object)),
    "large integer": lambda model: set_values(model, np.array([1 << 40])),
    "smallest integer": lambda model: set_values(model, np.array([-(1 << 63) + 1])),
    "not a number": lambda model: set_values(model, np.array([np.nan], np.float32)),
    "infinite": lambda model: set_values(model, np.array([np.inf], np.float32)),
    "no graph": lambda model: model.ClearField("graph"),
}


def test_what_the_exporter_writes_is_accepted():
    check_model(small_model().SerializeToString())


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_the_exporter_does_not_write_is_refused(change):
    model = small_model()
    change(model)
    with pytest.raises(ValueError):  # noqa: PT011 - any reason
        check_model(model.SerializeToString())


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 400), st.binary(max_size=8), st.integers(0, 400))
def test_broken_files_raise_one_error(place, inserted, end):
    content = small_model().SerializeToString()
    with contextlib.suppress(ValueError):
        check_model(content[:place] + inserted + content[place:end])


def test_long_numbers_and_many_nodes_end_soon():
    began = time.process_time()
    for content in (b"\x3a" + b"\xff" * 10_000_000, b"\x3a\xc0\x84\x3d" + b"\x0a\x00" * 500_000):
        with pytest.raises(ValueError):  # noqa: PT011 - any reason
            check_model(content)
    assert time.process_time() - began < 3.0


def put(folder, name, content):
    """Write a file of the export, and enter it into the manifest."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "onnx.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "onnx.json").write_text(json.dumps(manifest))


def refused(folder):
    with pytest.raises(CheckpointError) as info:
        load_policy(folder)
    return str(info.value)


def test_the_files_name_no_path_of_the_machine(exported):
    for path in (path for path in exported.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for text in (b"site-packages", b"smolvla_gym/", b"/home/", b"/root/", b".py"):
            assert text not in content, (path.name, text)


@pytest.mark.parametrize("name", ["prefix.onnx", "velocity.onnx", "flow_times.safetensors"])
def test_a_changed_file_is_refused(broken, name):
    content = bytearray((broken / name).read_bytes())
    content[len(content) // 2] ^= 1
    (broken / name).write_bytes(content)
    assert "SHA-256" in refused(broken)
    (broken / name).write_bytes(content[:-9])
    assert "SHA-256" in refused(broken)
    (broken / name).write_bytes(content * 2)
    assert "larger" in refused(broken)
    (broken / name).unlink()
    assert name in refused(broken)


@pytest.mark.parametrize("name", ["prefix.onnx", "velocity.onnx"])
def test_a_graph_with_other_inputs_is_refused(broken, name):
    put(broken, name, small_model().SerializeToString())
    assert "not an export of its checkpoint" in refused(broken)
    for content in (b"", b"no model"):
        put(broken, name, content or b"\0")
        refused(broken)


@pytest.mark.parametrize("change", [name_a_file, CHANGES["domain"], CHANGES["operator"]])
def test_a_changed_graph_is_refused(broken, change):
    model = onnx.load(broken / "prefix.onnx")
    change(model)
    put(broken, "prefix.onnx", model.SerializeToString())
    assert "prefix.onnx" in refused(broken)


def test_a_graph_that_cannot_be_computed_is_refused(broken):
    model = onnx.load(broken / "velocity.onnx")
    # The graph computes with another chunk than it states.
    for port in model.graph.input:
        if port.name == "prefix_0":
            port.type.tensor_type.shape.dim[1].dim_value += 1
    put(broken, "velocity.onnx", model.SerializeToString())
    refused(broken)


@pytest.mark.parametrize(
    "values",
    [
        {"version": 2},
        {"opset": 22},
        {"rtc_max_delay": 3},
        {"num_steps": 7},
        {"parity": None},
        {"parity": {"largest_relative_difference": 0.5, "chunks": 9}},
        {"special_tokens": "x"},
        {"files": {}},
        {"code": "import os"},
    ],
)
def test_other_manifests_are_refused(broken, edit, values):
    edit(broken / "onnx.json", **values)
    assert "onnx.json" in refused(broken)


@pytest.mark.parametrize(
    "values",
    [
        {"chunk_size": 64},
        {"max_state_dim": 8},
        {"max_action_dim": 9},
        {"resize_imgs_with_padding": [32, 32]},
        {"resize_imgs_with_padding": [2048, 2048], "empty_cameras": 0},
    ],
)
def test_a_configuration_of_another_network_is_refused(broken, edit, values):
    edit(broken / "config.json", **values)
    refused(broken)


def test_times_of_another_network_are_refused(broken):
    from safetensors.numpy import load_file, save

    times = load_file(broken / "flow_times.safetensors")
    for changed in (
        {"weight": times["weight"]},
        {**times, "bias": times["bias"][:-1]},
        {**times, "weight": np.full_like(times["weight"], np.nan)},
        {**times, "weight": times["weight"].astype(np.float64)},
        {"weight": times["weight"][:-1].copy(), "bias": times["bias"][:-1].copy()},
    ):
        put(broken, "flow_times.safetensors", save(changed))
        refused(broken)


def test_reading_is_complete(exported):
    files = read_exported(exported)
    assert files.spec.chunk_size == 32
    assert "<image>" in files.special_tokens
