"""The fast sampler's chunk on a GPU, as one CUDA graph, against LeRobot's own code."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("lerobot")

import torch

from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.agent.policies.local import LocalPolicy
from smolvla_gym.agent.rtc_guidance import PrefixGuidance
from smolvla_gym.agent.sampler import FastSampler
from smolvla_gym.benchmark.inputs import noise_requests
from smolvla_gym.benchmark.random_450m import build_random_450m
from tests.agent.test_sampler import Adapted, assert_same, both, frames, noise_for, other_policy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture
def exact(monkeypatch):
    """Cameras go together here and one by one there, and cuDNN is in TF32 unless it is forbidden to."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def bundled():
    return load_checkpoint("bundled", device="cuda", dtype="float32")


def noise(policy, count, seed=1):
    return noise_for(policy, count, seed).cuda()


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("rtc", [False, True])
def test_it_agrees(bundled, count, rtc):
    left = noise(bundled.policy, 1, 5)[0, :20] if rtc else None
    assert_same(*both(bundled.policy, frames(bundled, count), noise(bundled.policy, count), left, 3))


def on_gpu(tmp_path, **changes):
    policy, batch = other_policy(tmp_path, **changes)
    policy.cuda()
    policy.config.device = "cuda"
    return policy, {key: value.cuda() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("absent", [(), ("b",), ("a", "c")])
def test_cameras_that_are_absent_and_padded_sentences(tmp_path, absent):
    policy, batch = on_gpu(tmp_path, empty_cameras=2)
    for name in absent:
        del batch[f"observation.images.{name}"]
    assert_same(*both(policy, batch, noise(policy, 2)))


@pytest.mark.usefixtures("exact")
def test_one_graph_serves_every_observation_and_instruction(bundled):
    policy, sampler = bundled.policy, FastSampler(bundled.policy)
    guidance = PrefixGuidance(max_weight=float(policy.config.num_steps))
    holds = PrefixGuidance(max_weight=float(policy.config.num_steps), max_delay=12)
    chunks = []
    for seed in range(4):
        batch = frames(bundled, 4, seed)
        batch = {key: value[seed : seed + 1] for key, value in batch.items() if isinstance(value, torch.Tensor)}
        left = noise(policy, 1, 9)[0, :20] if seed % 2 else None
        target = None if left is None else guidance.make_target(left, 3, policy.config.chunk_size)
        chunks.append((sampler.sample(dict(batch), noise(policy, 1, seed), target), batch, left, seed))
    for delay in (1, 9):
        left = noise(policy, 1, 9)[0, :20]
        batch = {key: value[:1] for key, value in frames(bundled, 4, 0).items() if isinstance(value, torch.Tensor)}
        chunk = sampler.sample(batch, noise(policy, 1, 0), holds.make_target(left, delay, policy.config.chunk_size))
        torch.testing.assert_close(chunk[0, :delay], left[:delay])
    assert len(sampler._graphs) == 1
    for chunk, batch, left, seed in chunks:  # none was written over by a later one
        assert_same(chunk, both(policy, batch, noise(policy, 1, seed), left, 3)[1])


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", ["q_proj", "o_proj"])
def test_a_layer_of_another_kind_is_called(tmp_path, name):
    policy, batch = on_gpu(tmp_path)
    attend = policy.model.vlm_with_expert.lm_expert.layers[0].self_attn
    sampler, layer = FastSampler(policy), getattr(attend, name)
    before = sampler.sample(dict(batch), noise(policy, 2))
    adapted = Adapted(layer.in_features, layer.out_features, bias=False)
    adapted.weight = layer.weight  # where it was
    setattr(attend, name, adapted)
    after = sampler.sample(dict(batch), noise(policy, 2))
    assert (after - before).abs().max() > 1e-3
    assert_same(after, policy.predict_action_chunk(dict(batch), noise=noise(policy, 2)))


def test_a_policy_that_leaves_the_gpu_takes_its_memory_along(tmp_path):
    policy, batch = on_gpu(tmp_path)
    sampler = FastSampler(policy)
    sampler.sample(dict(batch), noise(policy, 2))
    held = torch.cuda.memory_allocated()
    policy.cpu()
    batch = {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    sampler.sample(batch, noise_for(policy, 2))
    size = sum(parameter.numel() * parameter.element_size() for parameter in policy.parameters())
    assert torch.cuda.memory_allocated() <= held - size


@pytest.mark.usefixtures("exact")
def test_weights_may_change_and_be_replaced(tmp_path):
    policy, batch = on_gpu(tmp_path)
    sampler = FastSampler(policy)
    before = sampler.sample(dict(batch), noise(policy, 2))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.05)  # where they are
    changed = sampler.sample(dict(batch), noise(policy, 2))
    assert (changed - before).abs().max() > 1e-3
    assert_same(changed, policy.predict_action_chunk(dict(batch), noise=noise(policy, 2)))
    for parameter in policy.parameters():
        parameter.data = parameter.data * 1.05  # elsewhere
    torch.cuda.empty_cache()
    replaced = sampler.sample(dict(batch), noise(policy, 2))
    assert (replaced - changed).abs().max() > 1e-3
    assert_same(replaced, policy.predict_action_chunk(dict(batch), noise=noise(policy, 2)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_policy_is_fast_and_stays_so(dtype):
    """Its first chunk is checked against LeRobot's code; another thread uses the device meanwhile."""
    policy = LocalPolicy(load_checkpoint("bundled", device="cuda", dtype=dtype))
    reference = LocalPolicy(policy.checkpoint, sampler="reference")
    requests = noise_requests(policy.card, 3, 0)
    done, pixels = threading.Event(), torch.ones((64, 64), device="cuda")

    def keep_busy():
        while not done.is_set():
            assert (pixels * pixels).sum().item() == 64 * 64

    with ThreadPoolExecutor() as threads, warnings.catch_warnings():
        warnings.simplefilter("error")
        other = threads.submit(keep_busy)
        try:
            chunks = [policy.infer(request) for request in requests]
        finally:
            done.set()
        other.result()
    assert policy.fallback is None
    for chunk, request in zip(chunks, requests, strict=True):
        one, two = (torch.from_numpy(each.normalized).flatten() for each in (chunk, reference.infer(request)))
        assert torch.cosine_similarity(one, two, dim=0) > 0.999


@pytest.mark.slow
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("count", "rtc"), [(1, True), (4, False)])
def test_the_full_size(count, rtc):
    checkpoint = build_random_450m(3, device="cuda", dtype="float32")
    left = noise(checkpoint.policy, 1, 5)[0, :20, :7] if rtc else None
    batch = frames(checkpoint, count)
    del batch["observation.images.scene"]
    assert_same(*both(checkpoint.policy, batch, noise(checkpoint.policy, count), left, 3))
