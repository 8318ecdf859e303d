"""Export a policy to ONNX: write its folder, and compare its chunks with those of the sampler. Needs torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from smolvla_gym.agent.checkpoint.hub import snapshot_commit
from smolvla_gym.agent.checkpoint.load import check_checkpoint_files, load_checkpoint
from smolvla_gym.agent.checkpoint.spec import CONFIG, EXPORTED, PREPROCESSOR, VLM_FOLDER, WEIGHTS, read_spec
from smolvla_gym.agent.checkpoint.vlm_files import TOKENIZER
from smolvla_gym.agent.onnx.folder import FILES, PREFIX, TIMES, TOLERANCE, VELOCITY, VERSION, read_exported
from smolvla_gym.agent.onnx.model_file import MAX_BYTES, OPSET, check_model
from smolvla_gym.agent.onnx.policy import OnnxPolicy
from smolvla_gym.agent.policies.base import ChunkRequest, PolicyCard
from smolvla_gym.agent.policies.local import LocalPolicy
from smolvla_gym.agent.single_thread import SMALL
from smolvla_gym.errors import CheckpointError, needs_extra
from smolvla_gym.utils.json_file import save_json

_MAX_LENGTH: Final = 1 << 16
"""Largest length of the prefix in tokens."""


def export_onnx(source: Path, target: Path) -> float:
    """Export a policy to a folder.

    The weights are exported in float32. Chunks of several requests are compared with those of the sampler: with all
    cameras and without each of them, with and without actions to continue, with other numbers of flow steps.

    Args:
        source: Folder of the checkpoint.
        target: An empty folder.

    Returns:
        The largest difference from the sampler, relative to the largest value of its chunk.

    Raises:
        CheckpointError: The checkpoint is broken, cannot be exported, or its graphs compute other chunks.
        PolicyMismatchError: The checkpoint cannot drive this arm.
        MissingExtraError: torch, lerobot, onnx or onnxscript is not installed.
    """
    with needs_extra("The export to ONNX", "onnx-export"):
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    checkpoint = load_checkpoint(source, device="cpu", dtype="float32")
    policy = LocalPolicy(checkpoint)
    if policy.sampler != "fast":
        raise CheckpointError(f"{source} cannot be exported: {policy.fallback}.")
    special = _copy_small_files(source, target, checkpoint.preprocessor)
    _write_graphs(policy, target)
    manifest: dict[str, Any] = {
        "version": VERSION,
        "smolvla_gym": _version(),
        "opset": OPSET,
        "num_steps": checkpoint.spec.num_steps,
        "rtc_max_delay": policy.card.max_delay,
        "special_tokens": special,
        "files": {name: _describe(target / name) for name in FILES},
        "parity": None,
    }
    save_json(target / EXPORTED, manifest, "manifest of the export")
    largest, chunks = _compare(policy, target)
    if not largest <= TOLERANCE:
        raise CheckpointError(
            f"The exported graphs of {source} compute other chunks than the sampler: they differ by {largest:.2g} of "
            f"the largest value; expected at most {TOLERANCE:g}. Nothing was exported. Please report this."
        )
    manifest["parity"] = {"largest_relative_difference": largest, "chunks": chunks}
    save_json(target / EXPORTED, manifest, "manifest of the export")
    read_exported(target)
    return largest


def _version() -> str:
    from smolvla_gym import __version__

    return __version__


def _describe(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _copy_small_files(source: Path, target: Path, preprocessor: Any) -> list[str]:
    """Copy the checkpoint's small files without paths of this machine; return the special tokens.

    The tokenizer is the one that transformers made of the checkpoint's files.
    """
    from lerobot.processor import TokenizerProcessorStep

    spec = read_spec(source)
    vlm = check_checkpoint_files(spec, local=snapshot_commit(source, None) is None)[2]
    for name in sorted(spec.files - {WEIGHTS}):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    (target / VLM_FOLDER).mkdir()
    vlm.write(target / VLM_FOLDER, int(vlm.text["num_hidden_layers"]))
    config = json.loads((target / CONFIG).read_text(encoding="utf-8"))
    config.update(vlm_model_name=VLM_FOLDER, pretrained_path=None, repo_id=None)
    save_json(target / CONFIG, config, "configuration of the policy")
    pipeline = json.loads((target / PREPROCESSOR).read_text(encoding="utf-8"))
    for step in pipeline["steps"]:
        if "tokenizer_name" in (step.get("config") or {}):
            step["config"]["tokenizer_name"] = VLM_FOLDER
    save_json(target / PREPROCESSOR, pipeline, "preprocessor of the policy")
    tokenizer: Any = next(
        step.input_tokenizer for step in preprocessor.steps if isinstance(step, TokenizerProcessorStep)
    )
    content = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    (target / VLM_FOLDER / TOKENIZER).write_text(json.dumps(content), encoding="utf-8")
    return [str(token) for token in tokenizer.all_special_tokens]


def _write_graphs(policy: LocalPolicy, target: Path) -> None:
    import torch
    from safetensors.numpy import save_file

    from smolvla_gym.agent.onnx.graphs import PrefixGraph, VelocityGraph
    from smolvla_gym.agent.sampler.network import Network

    module = policy.checkpoint.policy
    network = Network(module)
    small = sum(weight.numel() for weight in module.parameters()) < SMALL
    chunk, width = policy.card.chunk_size, int(module.config.max_action_dim)
    with torch.no_grad():
        batch, noise = policy.prepare(_requests(policy.card)[0][0])
        inputs = policy.fast.inputs(batch, noise)
        prefix, velocity = PrefixGraph(module, network).eval(), VelocityGraph(module, network).eval()
        example = inputs.tokens, inputs.token_mask, inputs.camera_mask, inputs.state, *inputs.images
        kept = prefix(*example)  # this also fills the vision tower's cache, which is not traced
        layer = module.model.action_time_mlp_in
        embedded = int(module.model.vlm_with_expert.expert_hidden_size)
        weight = layer.weight[:, -embedded:].contiguous().numpy()
        save_file({"weight": weight, "bias": layer.bias.numpy()}, target / TIMES)
        words = torch.export.Dim("words", min=2, max=max(3, policy.checkpoint.spec.text_length))
        length = torch.export.Dim("length", min=4, max=_MAX_LENGTH)
        count = len(kept) - 1
        _write_graph(
            prefix, example, target / PREFIX, ["exists", *(f"prefix_{i}" for i in range(count))],
            {
                "tokens": {1: words}, "token_mask": {1: words}, "camera_mask": None, "state": None,
                "images": (None,) * len(inputs.images),
            },
            optimize=small,
        )  # fmt: skip
        bias = torch.zeros((1, chunk, len(weight)))
        _write_graph(
            velocity, (torch.zeros((1, chunk, width)), bias, *kept), target / VELOCITY, ["velocity"],
            {"x": None, "bias": None, "exists": {1: length}, "prefix": ({2: length},) * count},
            optimize=small,
        )  # fmt: skip


def _write_graph(
    module: Any, example: tuple[Any, ...], path: Path, outputs: list[str], dynamic: dict[str, Any], *, optimize: bool
) -> None:
    """Write a module as an ONNX file.

    Args:
        module: The module.
        example: Example inputs.
        path: The file.
        outputs: Names of the outputs.
        dynamic: Axes of variable size by input.
        optimize: Whether to simplify the graph, which takes long for a large one.
    """
    import onnx
    import torch

    with _quiet():
        program = torch.export.export(module, example, dynamic_shapes=dynamic, strict=False)
        written: Any = torch.onnx.export(
            program, dynamo=True, optimize=optimize, opset_version=OPSET, output_names=outputs, verbose=False
        )
        proto: Any = written.model_proto
    _make_plain(proto, onnx)
    if proto.ByteSize() > MAX_BYTES:
        raise CheckpointError(
            f"{path.stem} of the policy has {proto.ByteSize()} bytes in float32; expected at most {MAX_BYTES}, the "
            "limit of an ONNX file. The policy cannot be exported."
        )
    content = proto.SerializeToString()
    try:
        check_model(content)
    except ValueError as error:
        raise CheckpointError(f"The policy cannot be exported: its graph cannot be loaded ({error}).") from error
    path.write_bytes(content)


def _make_plain(proto: Any, onnx: Any) -> None:
    """Remove what only describes the graph, such as paths of this machine, and write constants as initializers."""
    graph = proto.graph
    nodes = []
    for node in graph.node:
        if node.op_type == "Constant":
            (attribute,) = node.attribute
            value = onnx.helper.get_attribute_value(attribute)
            if attribute.name == "value":
                array = onnx.numpy_helper.to_array(value)
            else:
                array = np.array(value, np.int64 if attribute.name in ("value_int", "value_ints") else np.float32)
            graph.initializer.append(onnx.numpy_helper.from_array(array, node.output[0]))
            continue
        for name in ("doc_string", "metadata_props", "overload"):
            node.ClearField(name)
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
        nodes.append(node)
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    for i, tensor in enumerate(graph.initializer):
        plain = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name)
        graph.initializer[i].CopyFrom(plain)
    for each in (*graph.input, *graph.output):
        for name in ("doc_string", "metadata_props"):
            each.ClearField(name)
    for name in ("doc_string", "metadata_props", "value_info", "quantization_annotation"):
        graph.ClearField(name)
    for name in ("doc_string", "metadata_props", "domain", "functions", "training_info"):
        if name != "functions" or not proto.functions:
            proto.ClearField(name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and advice to developers off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# -- comparison --------------------------------------------------------------------------------------------------------


def _requests(card: PolicyCard) -> list[tuple[ChunkRequest, int]]:
    """Return requests with all that the graphs have to do, and the number of flow steps of each."""
    rng = np.random.default_rng(0)
    images = {
        env_camera: rng.integers(0, 256, (*card.cameras[camera], 3), dtype=np.uint8)
        for camera, env_camera in card.camera_map.items()
    }
    state = np.array([0.1, -1.4, 2.9, 0.2, 0.3, -0.1, 0.5], np.float32)
    observation = {"pixels": images, "agent_pos": state}
    noise = rng.standard_normal((card.chunk_size, card.noise_width), dtype=np.float32)
    left = rng.standard_normal((max(1, card.chunk_size // 2), len(state)), dtype=np.float32)
    texts = "lift the red cube", "push the blue disc to the plate", "go"
    made = [(ChunkRequest(observation, text, noise), card.num_steps) for text in texts]
    made.append((made[0][0], card.num_steps + 1))
    delays = sorted({0, 1, card.max_delay, max(1, card.chunk_size // 4)})
    made += [(ChunkRequest(observation, texts[0], noise, left, delay), card.num_steps) for delay in delays]
    if len(card.cameras) > 1:
        made += [
            (ChunkRequest(observation, texts[1], noise, left, 1, frozenset({camera})), card.num_steps)
            for camera in card.cameras
        ]
    return made


def _compare(policy: LocalPolicy, folder: Path) -> tuple[float, int]:
    """Return the largest difference between the sampler's chunks and the graphs', and the number of chunks."""
    files = read_exported(folder, verified=False)
    requests = _requests(policy.card)
    pairs = {
        steps: (LocalPolicy(policy.checkpoint, num_steps=steps), OnnxPolicy(files, num_steps=steps))
        for steps in {steps for _, steps in requests}
    }
    largest = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of words that the policy does not know
        for request, steps in requests:
            sampler, exported = pairs[steps]
            expected, found = sampler.infer(request).normalized, exported.infer(request).normalized
            difference = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-6))
            largest = max(largest, difference if math.isfinite(difference) else math.inf)
    return largest, len(requests)
