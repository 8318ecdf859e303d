"""Weight types: LeRobot's SmolVLA runs with each allowed dtype."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("lerobot")

import torch

from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.agent.checkpoint.precision import check_language_mask, count_dtypes, is_cross_attention_layer
from smolvla_gym.agent.policies.base import ChunkRequest
from smolvla_gym.agent.policies.local import LocalPolicy
from smolvla_gym.errors import CheckpointError, OptionError

PROJECTIONS = {"state_proj", "action_in_proj", "action_out_proj", "action_time_mlp_in", "action_time_mlp_out"}


def chunk(policy, observation):
    local = LocalPolicy(policy)
    noise = np.random.default_rng(0).standard_normal((local.card.chunk_size, local.card.noise_width), dtype=np.float32)
    return local.infer(ChunkRequest(observation, "Pick up the red cube.", noise)).normalized


def resave(folder, dtype_of):
    """Saves each weight of a checkpoint in the type that a function gives for its name."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = {key: value.to(dtype_of(key)) for key, value in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def is_cross(key):
    """Whether LeRobot makes this layer itself, and so in float32: the expert's keys and values of the prefix."""
    return any(f"lm_expert.layers.{odd}.self_attn.{kind}_proj" in key for odd in (1, 3) for kind in "kv")


def as_lerobot_saves(key, half=torch.bfloat16):
    """The types of a policy that was trained upon the VLM's own weights."""
    return torch.float32 if key.split(".")[1] in PROJECTIONS or is_cross(key) else half


@pytest.fixture(scope="module")
def exact(tiny):
    return load_checkpoint(tiny, device="cpu", dtype="float32")


@pytest.mark.parametrize(("dtype", "digits"), [("bfloat16", 8), ("float16", 11)])
def test_half_precision_runs_and_is_near(tiny, exact, observation, dtype, digits):
    policy = load_checkpoint(tiny, device="cpu", dtype=dtype)
    for key, parameter in policy.policy.named_parameters():
        assert parameter.dtype == (torch.float32 if key.split(".")[1] in PROJECTIONS else getattr(torch, dtype)), key
    difference = np.abs(chunk(policy, observation) - chunk(exact, observation))
    assert 0 < difference.max() < 2.0 ** (5 - digits)


def test_float32_casts_all_weights(exact, observation):
    assert list(count_dtypes(exact.policy)) == ["float32"]
    assert np.isfinite(chunk(exact, observation)).all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_the_mixture_that_lerobot_saves_is_kept(copy, exact, observation, half):
    policy = load_checkpoint(resave(copy, lambda key: as_lerobot_saves(key, half)), device="cpu")
    types = {key: parameter.dtype for key, parameter in policy.policy.named_parameters()}
    assert types == {key: as_lerobot_saves(key, half) for key in types}
    assert Counter(types.values())[half] > 50
    assert sum(count_dtypes(policy.policy).values()) == sum(p.numel() for p in policy.policy.parameters())
    assert 0 < np.abs(chunk(policy, observation) - chunk(exact, observation)).max() < 0.1


@pytest.mark.parametrize(
    "odd",
    [
        "model.action_in_proj.weight",
        "model.vlm_with_expert.vlm.model.vision_model.encoder.layers.1.mlp.fc1.weight",
        "model.vlm_with_expert.vlm.model.text_model.layers.2.mlp.up_proj.weight",
        "model.vlm_with_expert.lm_expert.layers.2.self_attn.k_proj.weight",
        "model.vlm_with_expert.lm_expert.layers.1.mlp.up_proj.weight",
    ],
)
def test_a_mixture_that_could_not_run_is_widened(copy, observation, odd):
    """One weight of another type than those beside it; ``auto`` makes these float32 and leaves the others alone."""

    def of(key):
        usual = as_lerobot_saves(key)
        return usual if key != odd else torch.bfloat16 if usual == torch.float32 else torch.float32

    policy = load_checkpoint(resave(copy, of), device="cpu")
    assert dict(policy.policy.named_parameters())[odd].dtype == torch.float32
    assert count_dtypes(policy.policy)["bfloat16"] > 1e5
    assert np.isfinite(chunk(policy, observation)).all()


def test_plain_casting_does_not_run(tiny, observation):
    """Why any of this is there. Where this fails, LeRobot has mended it."""
    policy = load_checkpoint(tiny, device="cpu")
    policy.policy.to(torch.bfloat16)
    with pytest.raises(RuntimeError, match="same dtype"):
        chunk(policy, observation)


@pytest.mark.parametrize("dtype", ["int8", "fp16", "", None])
def test_other_types_are_refused(tiny, dtype):
    with pytest.raises(OptionError, match=r"dtype=.*auto, float32, bfloat16, float16"):
        load_checkpoint(tiny, device="cpu", dtype=dtype)


def test_a_mask_of_numbers_is_refused(loaded):
    batch = loaded.preprocessor({"task": "x", "observation.state": torch.zeros(7)})
    check_language_mask(batch)
    key = "observation.language.attention_mask"
    with pytest.raises(CheckpointError, match=r"torch\.int64.*torch\.bool"):
        check_language_mask({**batch, key: batch[key].long()})


def test_a_mask_of_numbers_is_refused_when_the_checkpoint_is_loaded(tiny, monkeypatch):
    from lerobot.processor.tokenizer_processor import TokenizerProcessorStep

    true = TokenizerProcessorStep.observation

    def numbers(self, observation):
        result = true(self, observation)
        return {name: value.long() if value.dtype == torch.bool else value for name, value in result.items()}

    monkeypatch.setattr(TokenizerProcessorStep, "observation", numbers)
    with pytest.raises(CheckpointError, match="language mask"):
        load_checkpoint(tiny, device="cpu")


@pytest.mark.parametrize(
    ("mode", "every", "expected"),
    [
        ("cross_attn", 2, [0, 1, 0, 1]),
        ("cross_attn", -1, [1] * 4),
        ("cross_attn", 0, [1] * 4),
        ("self_attn", 2, [0] * 4),
    ],
)
def test_cross_attention_layers(mode, every, expected):
    """LeRobot's own class uses cross-attention in every layer by default."""
    config = SimpleNamespace(attention_mode=mode, self_attn_every_n_layers=every)
    assert [is_cross_attention_layer(config, layer) for layer in range(4)] == expected
