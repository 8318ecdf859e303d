"""The committed prefix: actions that are executed until a chunk arrives, given to a policy that was trained for it."""

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("lerobot")

import torch

from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint
from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.agent.checkpoint.new_policy import make_policy
from smolvla_gym.agent.checkpoint.saving import copy_checkpoint
from smolvla_gym.agent.policies.base import ChunkRequest
from smolvla_gym.agent.policies.local import LocalPolicy
from smolvla_gym.agent.policies.remote.client import RemotePolicy
from smolvla_gym.agent.rtc_guidance import PrefixGuidance
from smolvla_gym.agent.sampler import FastSampler
from smolvla_gym.data.statistics import compute_stats
from smolvla_gym.errors import CheckpointError
from smolvla_gym.training.provenance import read_provenance, write_provenance
from smolvla_gym.training.tiny.checkpoint import tiny_geometry
from smolvla_gym.training.tiny.flow import FlowLoss
from tests.agent.policies.connections import serving

MAX_DELAY = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The bundled policy as if it had been trained for delays: its chunks are no good, but they are computed so."""
    path = tmp_path_factory.mktemp("policies") / "prefix"
    copy_checkpoint(bundled_checkpoint(), path)
    known = read_provenance(path)
    assert known is not None
    write_provenance(path, replace(known, rtc_max_delay=MAX_DELAY))
    return path


@pytest.fixture(scope="module")
def policy(folder):
    made = LocalPolicy(load_checkpoint(folder, device="cpu", dtype="float32"))
    made.infer(request(9))  # compares both samplers
    assert made.sampler == "fast"
    return made


@pytest.fixture(scope="module")
def reference(folder):
    return LocalPolicy(load_checkpoint(folder, device="cpu", dtype="float32"), sampler="reference")


@pytest.fixture(scope="module")
def plain():
    return LocalPolicy(load_checkpoint("bundled", device="cpu", dtype="float32"), sampler="reference")


def request(delay, left=20, seed=0):
    rng = np.random.default_rng(seed)
    observation = {
        "agent_pos": np.zeros(7, np.float32),
        "pixels": {name: rng.integers(0, 255, (64, 64, 3), np.uint8) for name in ("wrist", "scene")},
    }
    noise = rng.standard_normal((32, 7), dtype=np.float32)
    leftover = 0.3 * rng.standard_normal((left, 7), dtype=np.float32) if left else None
    return ChunkRequest(observation, "stack the red cube on the blue cube", noise, leftover, delay)


def test_the_checkpoint_states_its_delays(folder, policy):
    assert policy.card.max_delay == MAX_DELAY
    assert policy.card.chunk_size > MAX_DELAY


@pytest.mark.parametrize("delay", [1, 9, 16])
def test_a_chunk_begins_with_the_given_actions_and_continues_them(policy, delay):
    asked = request(delay)
    chunk = policy.infer(asked)
    np.testing.assert_array_equal(chunk.normalized[:delay], asked.leftover[:delay])
    free = policy.infer(request(0))
    assert np.abs(chunk.normalized[delay:] - free.normalized[delay:]).max() > 1e-3


@pytest.mark.parametrize("delay", [0, 1, 9, 16, 20])
def test_lerobots_own_code_computes_the_same(policy, reference, delay):
    asked = request(delay)
    np.testing.assert_allclose(policy.infer(asked).normalized, reference.infer(asked).normalized, atol=2e-5)
    assert not reference.checkpoint.policy.model.action_time_mlp_in._forward_pre_hooks


@pytest.mark.parametrize("left", [0, 20])
def test_without_a_given_action_a_chunk_equals_lerobots(policy, plain, left):
    free = replace(request(0, left), leftover=None)
    np.testing.assert_allclose(policy.infer(request(0, left)).normalized, plain.infer(free).normalized, atol=1e-5)


def test_of_a_longer_delay_the_first_actions_are_held_and_the_others_guide(policy):
    asked = request(20)
    chunk = policy.infer(asked)
    np.testing.assert_array_equal(chunk.normalized[:MAX_DELAY], asked.leftover[:MAX_DELAY])
    held = policy.infer(replace(asked, inference_delay=MAX_DELAY))
    rest = slice(MAX_DELAY, 20)
    far, near = (np.abs(c.normalized[rest] - asked.leftover[rest]).mean() for c in (held, chunk))
    assert near < 0.5 * far


def test_what_is_planned_after_the_given_actions_has_no_effect(policy):
    asked = request(9)
    other = asked.leftover.copy()
    other[9:] += 1.0
    chunk, same = policy.infer(asked), policy.infer(replace(asked, leftover=other))
    np.testing.assert_array_equal(chunk.normalized, same.normalized)


def test_the_sampler_goes_where_the_loss_looks(policy):
    """One flow step from noise ends where the loss is zero: noise minus velocity are the actions that are learnt."""
    checkpoint = load_checkpoint(policy.checkpoint.spec.directory, device="cpu", dtype="float32", language_head=True)
    one = LocalPolicy(checkpoint, num_steps=1)
    asked = request(9)
    chunk = torch.from_numpy(one.infer(asked).normalized)
    batch, noise = one.prepare(asked)
    loss = FlowLoss(checkpoint.policy)
    target = {**batch, "action": chunk[None], "action_is_pad": torch.zeros((1, 32), dtype=torch.bool)}
    with torch.no_grad():
        at = loss(target, noise, torch.ones(1), delays=torch.tensor([9]))
        elsewhere = loss(target, noise, torch.ones(1), delays=torch.tensor([8]))
    assert float(at) < 1e-8
    assert float(elsewhere) > 1e-6


def test_a_padded_action_is_given_as_in_training(tmp_path):
    """The components beyond the action's width are zero in training."""
    geometry = replace(tiny_geometry(chunk_size=6, n_action_steps=3, num_steps=3), padded_width=32, padded_text=True)
    rng = np.random.default_rng(0)
    stats = compute_stats(rng.normal(size=(20, 7)).astype(np.float32), rng.normal(size=(20, 7)).astype(np.float32))
    policy, preprocessor, _ = make_policy(
        tmp_path, geometry, cameras=("a",), stats=stats, sentences=["lift it"], vocabulary=300, seed=0
    )
    policy.eval()
    image = torch.rand((1, 3, 64, 64))
    batch = preprocessor({"task": ["lift it"], "observation.state": torch.zeros((1, 7)), "observation.images.a": image})
    noise = torch.randn((1, 6, 32), generator=torch.Generator().manual_seed(0))
    left = torch.randn((5, 7), generator=torch.Generator().manual_seed(1))
    target = PrefixGuidance(3.0, max_delay=3).make_target(left, 3, 6)
    chunk = FastSampler(policy).sample(batch, noise, target)
    wrong = noise.clone()
    wrong[:, :3] = 5.0  # the noise of given actions has no effect, neither within nor beyond the action's width
    torch.testing.assert_close(FastSampler(policy).sample(batch, wrong, target), chunk)


def test_a_server_holds_them_for_its_client(policy):
    with serving(policy) as server, contextlib.closing(RemotePolicy(server.address)) as remote:
        assert remote.card.max_delay == MAX_DELAY
        asked = request(9)
        np.testing.assert_array_equal(remote.infer(asked).normalized, policy.infer(asked).normalized)


def test_a_delay_as_long_as_a_chunk_is_refused(folder, tmp_path):
    path = tmp_path / "wrong"
    copy_checkpoint(folder, path)
    known = read_provenance(path)
    write_provenance(path, replace(known, rtc_max_delay=32))
    with pytest.raises(CheckpointError, match="rtc_max_delay 32, and a chunk of the checkpoint has 32 actions"):
        LocalPolicy(load_checkpoint(path, device="cpu"))


@pytest.mark.parametrize("value", [-1, 1.5, True, "9", None, 4096])
def test_other_delays_are_refused(tmp_path, value):
    path = tmp_path / "parol6.json"
    path.write_text(json.dumps({"control_hz": 30, "rtc_max_delay": value}))
    with pytest.raises(CheckpointError, match="rtc_max_delay"):
        read_provenance(tmp_path)


class ShapesStay(FastSampler):
    """Computes on the CPU as on a GPU."""

    def _keeps_shapes(self, tensor):
        return True


@pytest.mark.parametrize("delay", [0, 9, 20])
def test_fixed_shapes_as_on_a_gpu(policy, delay):
    """A CUDA graph gets the given actions as inputs of fixed shape: one graph serves every number of them."""
    asked = request(delay)
    batch, noise = policy.prepare(asked)
    guidance = PrefixGuidance(float(policy.card.num_steps), max_delay=MAX_DELAY)
    target = guidance.make_target(torch.from_numpy(asked.leftover), delay, 32)
    sampler = ShapesStay(policy.checkpoint.policy)
    chunk = sampler.sample(dict(batch), noise, target)[0].numpy()
    np.testing.assert_allclose(chunk, policy.infer(asked).normalized, atol=1e-5)
    shapes = [tensor.shape for tensor in sampler.inputs(batch, noise, target)[:-1]]
    assert shapes == [tensor.shape for tensor in sampler.inputs(batch, noise)[:-1]]
