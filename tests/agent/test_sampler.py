"""The fast sampler's chunk against LeRobot's own code, with the same weights, inputs and noise."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("lerobot")

import torch

from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint
from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.agent.checkpoint.new_policy import make_policy
from smolvla_gym.agent.policies.base import ChunkRequest
from smolvla_gym.agent.policies.local import LocalPolicy
from smolvla_gym.agent.rtc_guidance import PrefixGuidance
from smolvla_gym.agent.sampler import FastSampler, UnsupportedPolicyError
from smolvla_gym.benchmark.random_450m import build_random_450m
from smolvla_gym.errors import UnknownNameError
from smolvla_gym.parol6 import STANDBY
from smolvla_gym.training.tiny.checkpoint import tiny_geometry

SENTENCES = ["pick up the red cube", "put the blue cube on the plate, please", "lift it", "go to the green disc"]


@pytest.fixture(scope="module")
def bundled():
    return load_checkpoint("bundled", device="cpu", dtype="float32")


def frames(checkpoint, count, seed=0):
    """A preprocessed batch of noise images, random states and sentences of different lengths."""
    rng = torch.Generator().manual_seed(seed)
    batch = {
        "task": SENTENCES[:count],
        "observation.state": torch.randn((count, 7), generator=rng),
        **{
            f"observation.images.{name}": torch.rand((count, 3, *size), generator=rng)
            for name, size in checkpoint.spec.cameras.items()
        },
    }
    return checkpoint.preprocessor(batch)


def noise_for(policy, count, seed=1):
    shape = (count, policy.config.chunk_size, policy.config.max_action_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def both(policy, batch, noise, left=None, delay=0):
    """Returns the fast chunk and the reference."""
    guidance = PrefixGuidance(max_weight=float(policy.config.num_steps))
    from lerobot.policies.rtc.configuration_rtc import RTCConfig

    policy.config.rtc_config = RTCConfig(enabled=True)
    policy.model.rtc_processor = guidance
    target = None if left is None else guidance.make_target(left, delay, noise.shape[1])
    fast = FastSampler(policy).sample(dict(batch), noise, target)
    guided = {} if left is None else {"prev_chunk_left_over": left, "inference_delay": delay}
    return fast, policy.predict_action_chunk(dict(batch), noise=noise, **guided)


def assert_same(fast, reference, tolerance=1e-5):
    assert fast.shape == reference.shape
    assert fast.isfinite().all()
    assert (fast - reference).abs().max() <= tolerance * max(1.0, float(reference.abs().max()))
    assert reference.std() > 0.1  # there is something to be equal


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("rtc", [False, True])
def test_the_bundled_policy(bundled, count, rtc):
    left = noise_for(bundled.policy, 1, 5)[0, :20] if rtc else None
    assert_same(*both(bundled.policy, frames(bundled, count), noise_for(bundled.policy, count), left, 3))


def other_policy(tmp_path, **changes):
    geometry = replace(tiny_geometry(chunk_size=6, n_action_steps=3, num_steps=3), padded_width=32, padded_text=True)
    numbers = {
        name: np.full(7, value, np.float32) for name, value in (("mean", 0), ("std", 1), ("min", -1), ("max", 1))
    }
    policy, preprocessor, _ = make_policy(
        tmp_path, geometry, cameras=("a", "b", "c"), stats={"observation.state": numbers, "action": numbers},
        sentences=SENTENCES, vocabulary=384, seed=3,
    )  # fmt: skip
    for name, value in changes.items():
        setattr(policy.config, name, value)
    policy.eval()
    rng = torch.Generator().manual_seed(0)
    batch = {
        "task": SENTENCES[:2],
        "observation.state": torch.randn((2, 7), generator=rng),
        **{f"observation.images.{name}": torch.rand((2, 3, 64, 64), generator=rng) for name in "abc"},
    }
    return policy, preprocessor(batch)


@pytest.mark.parametrize("absent", [(), ("b",), ("a", "c")])
def test_cameras_that_are_absent_and_padded_sentences(tmp_path, absent):
    """Absent cameras are masked black images; the fast sampler does not compute them."""
    policy, batch = other_policy(tmp_path, empty_cameras=2)
    assert batch["observation.language.tokens"].shape[1] == 48
    for name in absent:
        del batch[f"observation.images.{name}"]
    assert_same(*both(policy, batch, noise_for(policy, 2)))


def test_a_camera_masked_in_one_frame_only(tmp_path):
    policy, batch = other_policy(tmp_path)
    batch["observation.images.b_padding_mask"] = torch.tensor([True, False])
    assert_same(*both(policy, batch, noise_for(policy, 2)))


def test_the_weights_may_change_later(tmp_path):
    policy, batch = other_policy(tmp_path)
    sampler = FastSampler(policy)
    before = sampler.sample(dict(batch), noise_for(policy, 2))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.05)
    after = sampler.sample(dict(batch), noise_for(policy, 2))
    assert (before - after).abs().max() > 1e-3
    assert_same(after, policy.predict_action_chunk(dict(batch), noise=noise_for(policy, 2)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_close(dtype):
    checkpoint = load_checkpoint("bundled", device="cpu", dtype=dtype)
    fast, reference = both(checkpoint.policy, frames(checkpoint, 2), noise_for(checkpoint.policy, 2))
    assert torch.cosine_similarity(fast.float().flatten(), reference.float().flatten(), dim=0) > 0.999


@pytest.fixture(scope="module")
def full_size():
    checkpoint = build_random_450m(3, device="cpu", dtype="float32")
    checkpoint.policy.config.num_steps = 2
    checkpoint.policy.config.empty_cameras = 2
    return checkpoint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "absent", "rtc"), [(1, (), True), (1, ("scene", "camera3"), False), (4, ("wrist", "camera3"), False)]
)
def test_the_full_size(full_size, count, absent, rtc):
    """Sentences of several lengths, padded; three cameras, or one or two black images in place of the others."""
    policy, batch = full_size.policy, frames(full_size, count)
    for name in absent:
        del batch[f"observation.images.{name}"]
    left = noise_for(policy, 1, 5)[0, :20, :7] if rtc else None
    assert_same(*both(policy, batch, noise_for(policy, count), left, 3))


class ShapesStay(FastSampler):
    """Computes on the CPU as on a GPU: with every token, so that no shape depends on an observation."""

    def _keeps_shapes(self, tensor):
        return True


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("rtc", [False, True])
def test_fixed_shapes_as_on_a_gpu(bundled, count, rtc):
    policy, batch, noise = bundled.policy, frames(bundled, count), noise_for(bundled.policy, count)
    left = noise_for(policy, 1, 5)[0, :20] if rtc else None
    _, reference = both(policy, batch, noise, left, 3)
    target = PrefixGuidance(max_weight=float(policy.config.num_steps)).make_target(left, 3, 32) if rtc else None
    sampler = ShapesStay(policy)
    assert_same(sampler.sample(dict(batch), noise, target), reference)
    inputs = sampler.inputs(batch, noise, target)
    assert inputs.tokens.shape == (count, policy.config.tokenizer_max_length)


def test_a_chunk_on_a_gpu_does_not_synchronize(bundled):
    """Traced without data: a value that the host had to know, or a shape that depends on one, would raise here."""
    from torch.fx.experimental.proxy_tensor import make_fx

    sampler, batch, noise = ShapesStay(bundled.policy), frames(bundled, 2), noise_for(bundled.policy, 2)
    sampler.sample(batch, noise)  # constants are made before a graph is captured
    inputs = sampler.inputs(batch, noise)

    def chunk(*flat):
        return sampler._flat_chunk(*flat)

    with torch.no_grad():
        traced = make_fx(chunk, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs[:-1], *inputs.images)
        assert_same(traced(*inputs[:-1], *inputs.images), sampler.sample(batch, noise))
    names = {str(node.target) for node in traced.graph.nodes}
    assert not {name for name in names if "local_scalar" in name or "nonzero" in name}
    # Constants from the host would be copied to the device while a graph is captured, which CUDA forbids.
    assert not {name for name in names if "lift_fresh" in name}


@pytest.mark.slow
def test_compiled(tmp_path):
    from torch._dynamo.utils import counters

    policy, batch = other_policy(tmp_path)
    sampler = FastSampler(policy, compile_mode="default")
    for count, seed in ((2, 1), (2, 2)):
        noise = noise_for(policy, count, seed)
        assert_same(sampler.sample(dict(batch), noise), policy.predict_action_chunk(dict(batch), noise=noise), 5e-5)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    keys = [f"observation.language.{name}" for name in ("tokens", "attention_mask")]
    length = int(batch[keys[1]].sum(dim=1).max())
    batch |= {key: batch[key][:, :length] for key in keys}  # as without padding
    assert_same(sampler.sample(dict(batch), noise), policy.predict_action_chunk(dict(batch), noise=noise), 5e-5)
    assert counters["stats"]["unique_graphs"] == graphs, "a sentence of another length is not compiled again"


class Adapted(torch.nn.Linear):
    """What an adapter does: a linear layer whose output is not its weight's alone."""

    def forward(self, states):
        return super().forward(states) * 3.0


def test_a_layer_of_another_kind_is_called(tmp_path):
    policy, batch = other_policy(tmp_path)
    attend = policy.model.vlm_with_expert.lm_expert.layers[0].self_attn
    adapted = Adapted(attend.v_proj.in_features, attend.v_proj.out_features, bias=False)
    adapted.load_state_dict(attend.v_proj.state_dict())
    sampler = FastSampler(policy)
    before = sampler.sample(dict(batch), noise_for(policy, 2))
    attend.v_proj = adapted
    after = sampler.sample(dict(batch), noise_for(policy, 2))
    fast, reference = both(policy, batch, noise_for(policy, 2))
    assert_same(fast, reference)
    assert torch.equal(fast, after)
    assert (fast - before).abs().max() > 1e-3


def test_a_graph_is_of_no_use_once_anything_is_elsewhere(tmp_path):
    """A CUDA graph computes what was there when it was captured; what has changed since is noticed."""
    policy, _ = other_policy(tmp_path)
    attend = policy.model.vlm_with_expert.lm_expert.layers[0].self_attn
    sampler = FastSampler(policy)
    assert sampler._weights_moved()
    assert not sampler._weights_moved()
    adapted = Adapted(attend.o_proj.in_features, attend.o_proj.out_features, bias=False)
    adapted.weight = attend.o_proj.weight  # where it was
    attend.o_proj = adapted
    assert sampler._weights_moved()
    hook = attend.q_proj.register_forward_hook(lambda module, inputs, output: output)
    assert sampler._weights_moved()
    hook.remove()
    assert sampler._weights_moved()
    policy.model.state_proj.weight.data = policy.model.state_proj.weight.data.clone()
    assert sampler._weights_moved()
    assert not sampler._weights_moved()


def test_weights_may_be_replaced_and_saved(tmp_path):
    """Stacked weights are views of common memory; neither a new weight nor a file may suffer from it."""
    from safetensors.torch import load_file

    policy, batch = other_policy(tmp_path)
    original = {key: value.clone() for key, value in policy.state_dict().items()}
    sampler = FastSampler(policy)
    policy.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert {key for key in original if key in saved and not torch.equal(original[key], saved[key])} == set()
    assert len(saved) == len(original)
    for parameter in policy.parameters():
        parameter.data = parameter.data * 1.05
    after = sampler.sample(dict(batch), noise_for(policy, 2))
    assert_same(after, policy.predict_action_chunk(dict(batch), noise=noise_for(policy, 2)))


def test_no_weight_is_there_twice(tmp_path):
    policy, batch = other_policy(tmp_path)
    first = FastSampler(policy)
    places = [parameter.data_ptr() for parameter in policy.parameters()]
    second = FastSampler(policy)  # such as that of the same policy with other flow steps
    chunks = [sampler.sample(dict(batch), noise_for(policy, 2)) for sampler in (first, second, first)]
    assert torch.equal(chunks[0], chunks[1])
    assert [parameter.data_ptr() for parameter in policy.parameters()] == places
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in policy.parameters()}
    assert sum(storages.values()) == sum(p.numel() * p.element_size() for p in policy.parameters())


def test_it_may_be_trained_after_inference_mode(tmp_path):
    policy, batch = other_policy(tmp_path)
    with torch.inference_mode():
        FastSampler(policy).sample(dict(batch), noise_for(policy, 2))
    for parameter in policy.parameters():
        parameter.requires_grad_(True)
    assert not any(parameter.is_inference() for parameter in policy.parameters())


def test_unsupported_policies_are_refused(tmp_path):
    policy, _ = other_policy(tmp_path, use_cache=False)
    with pytest.raises(UnsupportedPolicyError, match="use_cache"):
        FastSampler(policy)


def request():
    pixels = {name: np.full((64, 64, 3), 90, np.uint8) for name in ("wrist", "scene")}
    observation = {"pixels": pixels, "agent_pos": np.append(STANDBY, 0.0).astype(np.float32)}
    return ChunkRequest(observation, "lift the red cube", np.ones((32, 7), np.float32), None, 0)


def test_the_policy_is_fast_by_default():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = LocalPolicy(load_checkpoint("bundled", device="cpu"))
        chunks = [fast.infer(request()).actions for _ in range(2)]
    reference = LocalPolicy(load_checkpoint("bundled", device="cpu"), sampler="reference")
    assert (fast.sampler, reference.sampler) == ("fast", "reference")
    np.testing.assert_array_equal(chunks[0], chunks[1])
    np.testing.assert_allclose(chunks[0], reference.infer(request()).actions, atol=1e-5)
    with pytest.raises(UnknownNameError, match="turbo"):
        LocalPolicy(load_checkpoint("bundled", device="cpu"), sampler="turbo")


def test_only_the_first_chunk_is_computed_both_ways():
    """Later there is an arm that waits for it."""
    policy = LocalPolicy(load_checkpoint("bundled", device="cpu"))
    inner, calls = policy.checkpoint.policy, []
    own = inner.predict_action_chunk
    inner.predict_action_chunk = lambda *args, **kwargs: calls.append(kwargs) or own(*args, **kwargs)
    policy.infer(request())
    assert [sorted(kwargs) for kwargs in calls] == [["noise"], ["inference_delay", "noise", "prev_chunk_left_over"]]
    policy.infer(replace(request(), leftover=np.zeros((20, 7), np.float32), inference_delay=3))
    policy.infer(request())
    assert len(calls) == 2
    assert policy.fallback is None


def test_the_cause_is_in_the_message_if_ending_a_capture_fails_too():
    policy = LocalPolicy(load_checkpoint("bundled", device="cpu"))

    def captured(*args):
        try:
            raise ValueError("a copy from the host")
        finally:
            raise RuntimeError("the capture is not valid any more")

    policy.fast.sample = captured
    with pytest.warns(UserWarning, match="a copy from the host"):
        policy.infer(request())
    assert policy.sampler == "reference"


def test_a_changed_policy_falls_back_with_a_warning():
    checkpoint = load_checkpoint(bundled_checkpoint(), device="cpu")
    model = checkpoint.policy.model
    own = model.denoise_step

    def steered(*args, **kwargs):
        return own(*args, **kwargs) + 0.1

    model.denoise_step = steered
    policy = LocalPolicy(checkpoint)
    with pytest.warns(UserWarning, match="LeRobot's own code.*differs"):
        first = policy.infer(request()).actions
    assert policy.sampler == "reference"
    assert "differs" in policy.fallback
    np.testing.assert_array_equal(first, policy.infer(request()).actions)
