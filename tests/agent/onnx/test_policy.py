"""The exported policy computes the sampler's chunks, without torch."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("lerobot")
pytest.importorskip("onnxruntime")

from smolvla_gym.agent import SmolVLAAgent
from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint
from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.agent.checkpoint.saving import copy_checkpoint
from smolvla_gym.agent.onnx.folder import TOLERANCE
from smolvla_gym.agent.onnx.policy import OnnxPolicy, open_exported
from smolvla_gym.agent.policies.base import ChunkRequest
from smolvla_gym.agent.policies.load import load_policy
from smolvla_gym.agent.policies.local import LocalPolicy
from smolvla_gym.errors import CheckpointError, OptionError, PolicyMismatchError
from smolvla_gym.evaluation.conditions import Condition, EvaluationOptions
from smolvla_gym.evaluation.evaluate import evaluate
from smolvla_gym.training.provenance import read_provenance, write_provenance
from tests.agent.policies.connections import serving

MAX_DELAY = 8


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint("bundled", device="cpu")


def request_of(seed, text="pick up the red cube", size=256, **changes):
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for name in ("wrist", "scene")}
    state = np.array([0.1, -1.4, 2.9, 0.2, 0.3, -0.1, 0.5], np.float32)
    noise = rng.standard_normal((32, 7), dtype=np.float32)
    return replace(ChunkRequest({"pixels": images, "agent_pos": state}, text, noise), **changes)


def leftover(length, seed=9):
    return np.random.default_rng(seed).standard_normal((length, 7), dtype=np.float32)


def assert_same(found, expected):
    assert np.abs(found.normalized - expected.normalized).max() <= TOLERANCE * np.abs(expected.normalized).max()
    np.testing.assert_allclose(found.actions, expected.actions, rtol=0.0, atol=1e-4)
    assert found.actions.dtype == found.normalized.dtype == np.float32


@pytest.mark.parametrize(
    ("steps", "changes"),
    [
        (None, {}),
        (None, {"size": 64}),
        (None, {"text": "x"}),
        (None, {"text": " ".join(["push the blue disc to the plate"] * 3)}),
        (None, {"absent": frozenset({"wrist"})}),
        (None, {"absent": frozenset({"scene"}), "leftover": leftover(9), "inference_delay": 2}),
        (None, {"leftover": leftover(20), "inference_delay": 6}),
        (None, {"leftover": leftover(1), "inference_delay": 6}),
        (None, {"leftover": leftover(40), "inference_delay": 0}),
        (None, {"leftover": leftover(0), "inference_delay": 3}),
        (1, {}),
        (9, {"leftover": leftover(20), "inference_delay": 6}),
    ],
)
def test_chunks_are_those_of_the_sampler(exported, checkpoint, steps, changes):
    given = request_of(1, **changes)
    policy = open_exported(exported, num_steps=steps)
    assert_same(policy.infer(given), LocalPolicy(checkpoint, num_steps=steps).infer(given))


def test_the_card_is_that_of_the_checkpoint(exported, checkpoint):
    card = load_policy(exported, name="it").card
    assert card == LocalPolicy(checkpoint, name="it").card
    left_out = {"camera_map": {"wrist": None}, "name": "it"}
    policy, local = load_policy(exported, **left_out), LocalPolicy(checkpoint, **left_out)
    assert policy.card == local.card
    assert_same(policy.infer(request_of(2)), local.infer(request_of(2)))


@pytest.mark.parametrize("delay", [0, 3, MAX_DELAY, MAX_DELAY + 4])
def test_a_policy_that_was_trained_for_delays_holds_the_actions_in_execution(broken, tmp_path, delay):
    source = tmp_path / "source"
    copy_checkpoint(bundled_checkpoint(), source)
    for folder in (source, broken):
        write_provenance(folder, replace(read_provenance(folder), rtc_max_delay=MAX_DELAY))
    change(broken, rtc_max_delay=MAX_DELAY)
    given = request_of(3, leftover=leftover(20), inference_delay=delay)
    policy = open_exported(broken)
    assert policy.card.max_delay == MAX_DELAY
    found = policy.infer(given)
    assert_same(found, LocalPolicy(load_checkpoint(source, device="cpu")).infer(given))
    held = min(delay, MAX_DELAY)
    np.testing.assert_array_equal(found.normalized[:held], given.leftover[:held])


def change(folder, **values):
    path = folder / "onnx.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_instructions_are_checked_as_those_of_the_checkpoint(exported, checkpoint):
    policies = open_exported(exported), LocalPolicy(checkpoint)
    for policy in policies:
        assert policy.check_instruction("Lift The RED cube") == "lift the red cube"
        for text in ("", "a <image> b", "the " * 60, "line\nline"):
            with pytest.raises(OptionError):
                policy.check_instruction(text)
        with pytest.warns(UserWarning, match="zebra"):
            policy.check_instruction("lift the zebra")


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cuda"}, {"dtype": "bfloat16"}, {"sampler": "reference"}, {"compile_mode": "default"},
        {"vlm": "vlm"}, {"revision": "main"}, {"num_steps": 0},
    ],
)  # fmt: skip
def test_options_without_effect_are_refused(exported, options):
    with pytest.raises(OptionError):
        SmolVLAAgent.from_pretrained(exported, **options)
    with pytest.raises(PolicyMismatchError):
        SmolVLAAgent.from_pretrained(exported, camera_map={"nose": "wrist"})


def test_it_is_no_checkpoint(exported):
    with pytest.raises(CheckpointError, match="ONNX"):
        load_checkpoint(exported, device="cpu")


_PROGRAM = """
import sys, time
for name in ("torch", "lerobot", "transformers", "onnx", "onnxscript", "safetensors"):
    sys.modules[name] = None  # importing it fails

def peak():  # in MB; ru_maxrss counts the parent's memory too
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))

began = time.process_time()
import onnxruntime, tokenizers
import smolvla_gym.agent.onnx.policy
from smolvla_gym.agent import SmolVLAAgent
print(time.process_time() - began, peak())
import numpy as np
agent = SmolVLAAgent.from_pretrained(sys.argv[1])
agent.reset("lift the red cube", seed=1)
images = {name: np.zeros((64, 64, 3), np.uint8) for name in agent.cameras}
print(agent.act({"pixels": images, "agent_pos": np.array([0, -1.5, 3, 0, 0, 0, 0.5], np.float32)}).tolist())
print(peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_needs_no_torch_and_little_memory(exported):
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(exported)], capture_output=True, text=True, check=True, timeout=120
    )
    imported, action, peak = done.stdout.splitlines()
    seconds, megabytes = map(float, imported.split())
    assert seconds < 1.0
    assert megabytes < 150
    assert float(peak) < 150
    assert len(json.loads(action)) == 7


def test_a_server_and_a_process_compute_it(exported):
    given = request_of(4)
    expected = open_exported(exported).infer(given)
    with serving(open_exported(exported)) as server:
        agent = SmolVLAAgent.connect(server.address)
        assert agent.policy.infer(given).actions.tobytes() == expected.actions.tobytes()
        agent.close()
    agent = SmolVLAAgent.from_pretrained(exported, process=True)
    try:
        assert agent.card.device == "cpu"
        assert agent.policy.infer(given).actions.tobytes() == expected.actions.tobytes()
    finally:
        agent.close()


def test_an_evaluation_succeeds_where_the_sampler_does(exported):
    condition = Condition("sync", 0.0)
    results = [
        evaluate(EvaluationOptions(policy=str(policy), device="cpu"), [condition], [100, 101])[condition]
        for policy in ("bundled", exported)
    ]
    for expected, found in zip(*results, strict=True):
        # Contacts amplify rounding, so the number of steps may differ.
        assert (found.seed, found.instruction, found.success) == (expected.seed, expected.instruction, expected.success)


def test_the_policy_is_not_used_before_it_was_compared(broken):
    change(broken, parity=None)
    with pytest.raises(CheckpointError, match="parity"):
        SmolVLAAgent.from_pretrained(broken)


def test_it_is_a_policy_of_its_own_kind(exported):
    agent = SmolVLAAgent.from_pretrained(str(exported))
    assert isinstance(agent.policy, OnnxPolicy)
    assert (agent.name, agent.device, agent.cameras) == (str(exported), "cpu", ("wrist", "scene"))
