"""Figures of a policy, measured in this process and in one of its own."""

import dataclasses
import json
import mmap
import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

pytest.importorskip("lerobot")

from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.agent.policies.base import Chunk
from smolvla_gym.agent.policies.local import LocalPolicy
from smolvla_gym.benchmark.inputs import noise_requests, sim_requests
from smolvla_gym.benchmark.machine import other_cpu_seconds, read_memory
from smolvla_gym.benchmark.measure import measure, smoothness, time_chunks, time_pops
from smolvla_gym.benchmark.report import compare_chunks, compare_reports
from smolvla_gym.benchmark.tables import describe
from smolvla_gym.benchmark.variant import Variant
from smolvla_gym.benchmark.worker import run_variant
from smolvla_gym.errors import InferenceError, PolicyMismatchError
from smolvla_gym.parol6 import GRIPPERS, STANDBY, forward_kinematics

FEW = Variant(chunks=4, warm_up=2, samples=2, device="cpu")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the host's memory is known on Linux only")


@pytest.fixture(scope="module")
def policy():
    return LocalPolicy(load_checkpoint("bundled", device="cpu"))


@pytest.fixture(scope="module")
def requests(policy):
    return noise_requests(policy.card, 2)


class Wrapped:
    """A policy with a defect of its own."""

    def __init__(self, policy, spoil, card=None):
        self._policy, self._spoil = policy, spoil
        self.card = card or policy.card

    def __getattr__(self, name):
        return getattr(self._policy, name)

    def infer(self, request):
        return self._spoil(self._policy.infer(request))


class Cheap(Wrapped):
    """Gives chunks of zeros."""

    def __init__(self, policy, spoil=lambda chunk: chunk, card=None):
        super().__init__(policy, spoil, card)

    def infer(self, request):
        zeros = np.zeros((self.card.chunk_size, 7), np.float32)
        return self._spoil(Chunk(zeros, zeros))


def check_spread(spread):
    assert 0 < spread["p50"] <= spread["p95"] <= spread["p99"] <= spread["max"]
    assert 0 < spread["mean"] <= spread["max"]


def test_the_figures_of_a_sound_policy(policy):
    calls = []
    result = measure(policy, FEW, lambda *call: calls.append(call))
    card = policy.card
    assert result.shape == (card.chunk_size, 7)
    assert (result.chunks, result.num_steps, result.n_action_steps) == (4, card.num_steps, card.n_action_steps)
    assert (result.not_finite, result.repeatable) == (0, True)
    assert "leak" not in result.failed
    check_spread(result.latency_ms)
    check_spread(result.pop_ms)
    assert result.pop_ms["p50"] < result.latency_ms["p50"]  # nothing is computed there
    assert result.first_ms > 0
    assert result.chunks_per_s == pytest.approx(1e3 / result.latency_ms["mean"])
    expected = [np.mean(np.abs(chunk.actions[1:] - chunk.actions[:-1])) for chunk in result.samples]
    assert result.smoothness == pytest.approx(np.mean(expected), rel=1e-5)
    assert result.device_peak is None  # it computes on the CPU
    assert [call for call in calls if call[0] == "chunks"] == [("chunks", n, 4) for n in (1, 2, 3, 4)]
    assert "samples" not in json.loads(json.dumps(result.to_dict()))


def test_a_policy_that_is_not_finite_is_measured_all_the_same(policy):
    import torch

    spoilt = load_checkpoint("bundled", device="cpu")
    with torch.no_grad():
        spoilt.policy.model.action_out_proj.bias[3] = float("nan")
    result = measure(LocalPolicy(spoilt), FEW)
    assert result.not_finite == 2 + 4 + 2 + 1
    assert (result.smoothness, result.pop_ms, result.repeatable) == (None, None, False)
    check_spread(result.latency_ms)


def test_a_policy_that_gives_something_else_each_time_is_noticed(policy):
    rng = np.random.default_rng(0)
    restless = Wrapped(policy, lambda chunk: Chunk(chunk.actions + np.float32(rng.uniform(0, 1e-6)), chunk.normalized))
    assert not measure(restless, FEW).repeatable


@linux_only
@pytest.mark.parametrize(("kept_mb", "leaks"), [(0.0, False), (4.0, True)])
def test_a_policy_that_keeps_its_memory_is_noticed(policy, kept_mb, leaks):
    kept = []

    def keep(chunk):
        if kept_mb:
            # Not from the heap, which after other tests has room that already counts.
            kept.append(mmap.mmap(-1, int(kept_mb * 1e6)))
            kept[-1].write(b"x" * len(kept[-1]))
        return chunk

    result = measure(Cheap(policy, keep), dataclasses.replace(FEW, chunks=40))
    assert ("leak" in result.failed) == leaks
    assert result.host_growth == pytest.approx(32e6 * kept_mb, abs=4e6)


@linux_only
def test_the_peak_stays_when_memory_is_given_back():
    before = read_memory("cpu")
    size = 400_000_000
    with mmap.mmap(-1, size) as block:  # not through malloc, which libraries may have set up to keep its memory
        np.frombuffer(block, np.uint8)[:] = 1
        held = read_memory("cpu")
    after = read_memory("cpu")
    assert held.host - before.host > 390e6
    assert after.host < held.host - 390e6
    # Others in this process may have used more; the kernel counts in batches.
    assert after.host_peak == pytest.approx(max(held.host, before.host_peak), abs=1e6)
    assert (after.device, after.device_peak) == (None, None)


@linux_only
def test_work_of_other_programs_is_told_from_ones_own():
    """Two programs: the one is this."""
    code = "print(flush=True)\nwhile True: pass"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()  # it has begun
        before, own, start = other_cpu_seconds(), time.process_time(), time.monotonic()
        while time.process_time() - own < 0.5:
            pass
        worked, elapsed = other_cpu_seconds() - before, time.monotonic() - start
    finally:
        other.kill()
        other.communicate()
    stat = os.sysconf("SC_CLK_TCK")
    cores = os.cpu_count()
    assert 0 < worked <= (cores + 0.1) * elapsed
    # What this program did is not counted: whatever the machine did beside it fits on the cores that were left.
    assert worked <= cores * elapsed - 0.5 + 4 * cores / stat


def test_a_budget_ends_the_measurement(policy, requests):
    (times,) = time_chunks("chunks", [Cheap(policy).infer], requests, 10, budget_s=0.0)
    assert len(times) == 3


def test_several_policies_compute_in_turn(requests):
    calls = []
    times = time_chunks("chunks", [lambda r: calls.append(("a", r)), lambda r: calls.append(("b", r))], requests, 3)
    assert [len(mine) for mine in times] == [3, 3]
    assert calls == [(name, requests[number % 2]) for number in range(3) for name in "ab"]


def test_popping_asks_no_policy(policy, requests):
    chunk = policy.infer(requests[0])
    times = time_pops(policy.card, chunk, requests[0])
    assert len(times) == 1000
    assert min(times) > 0


def test_a_chunk_of_one_action_leaves_nothing_to_pop(policy):
    result = measure(Cheap(policy, card=dataclasses.replace(policy.card, chunk_size=1, n_action_steps=1)), FEW)
    assert result.pop_ms is None
    assert result.to_dict()["pop_ms"] is None


def test_smoothness_is_in_rad():
    actions = np.cumsum(np.full((5, 7), 0.02, np.float32), axis=0)
    assert smoothness(Chunk(actions, actions)) == pytest.approx(0.02, rel=1e-5)
    assert smoothness(Chunk(actions[:1], actions[:1])) == 0.0


# Requests.


def test_an_equal_seed_gives_equal_requests(policy):
    one, two, other = (noise_requests(policy.card, 3, seed) for seed in (0, 0, 1))
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a.noise, b.noise)
        assert all(np.array_equal(a.observation["pixels"][k], b.observation["pixels"][k]) for k in ("wrist", "scene"))
    assert not np.array_equal(one[0].noise, other[0].noise)
    assert not np.array_equal(one[0].noise, one[1].noise)
    assert not np.array_equal(*(r.observation["pixels"]["wrist"] for r in one[:2]))


def test_scenes_of_the_simulation(policy):
    first, second = sim_requests(policy.card, 2)
    assert first.instruction != ""
    assert second.observation["agent_pos"].shape == (7,)
    assert set(first.observation["pixels"]) == {"wrist", "scene"}
    assert not np.array_equal(first.observation["agent_pos"], second.observation["agent_pos"])
    # The request is a copy: the env rendered into the same images afterwards.
    assert not np.array_equal(first.observation["pixels"]["scene"], second.observation["pixels"]["scene"])
    assert np.isfinite(policy.infer(first).actions).all()


def test_cameras_that_the_simulation_lacks_are_named(policy):
    card = dataclasses.replace(policy.card, camera_map={"wrist": "camera3"})
    with pytest.raises(PolicyMismatchError, match="camera3"):
        sim_requests(card, 1)


# Comparing.


def poses(count=4):
    actions = np.tile(np.append(STANDBY, 0.5), (count, 1)).astype(np.float32)
    return Chunk(actions, np.ones((count, 7), np.float32))


def test_equal_chunks_differ_by_nothing():
    apart = compare_chunks([poses()], [poses()])
    assert [apart[name] for name in ("joints_max", "joints_mean", "tool_max", "gripper_max")] == [0, 0, 0, 0]
    assert apart["cosine_min"] == pytest.approx(1.0)


def test_a_turn_about_the_base_moves_the_tool_on_its_circle():
    turned = poses()
    turned.actions[1, 0] += 0.01
    turned.actions[2, 6] = 0.25
    turned.normalized[:, :] = -1.0
    apart = compare_chunks([poses()], [turned])
    radius = np.hypot(*forward_kinematics(STANDBY, GRIPPERS["ssg48"])[:2, 3])
    assert apart["joints_max"] == pytest.approx(0.01, rel=1e-3)
    assert apart["joints_mean"] == pytest.approx(0.01 / 24, rel=1e-3)
    assert apart["tool_max"] == pytest.approx(1e3 * 0.01 * radius, rel=1e-3)
    assert apart["tool_mean"] == pytest.approx(apart["tool_max"] / 4)
    assert apart["gripper_max"] == pytest.approx(0.25)
    assert apart["cosine_min"] == pytest.approx(-1.0)


def test_shifted_actions_differ_by_the_shift():
    shifted = Chunk(poses().actions + np.float32(0.1), poses().normalized)
    assert compare_chunks([poses()], [shifted])["joints_mean"] == pytest.approx(0.1, rel=1e-4)


# Variants, each in a process of its own.

BLOCK = 800_000_000
"""Memory in bytes that this process holds while the other one measures."""


def workers():
    """The processes that measure."""
    children = psutil.Process().children()
    return [child for child in children if "smolvla_gym.benchmark.worker" in child.cmdline()]


@pytest.fixture(scope="module")
def report():
    calls = []
    block = np.ones(BLOCK // 8)
    result = run_variant(dataclasses.replace(FEW, dtype="bfloat16"), lambda *call: calls.append(call))
    assert block.all()
    assert [doing for doing, _, _ in calls][:2] == ["import", "load"]
    assert ("chunks", 4, 4) in calls
    assert workers() == []
    return result


def test_a_variant_comes_back_as_a_report(report, policy):
    assert report.parameters == sum(p.numel() for p in policy.checkpoint.policy.parameters())
    assert sum(report.dtypes.values()) == report.parameters
    assert set(report.dtypes) == {"bfloat16", "float32"}
    assert 2 * report.parameters < report.weights < 2.1 * report.parameters
    assert report.load_s > 0
    assert report.device.startswith("cpu, ")
    assert report.samples[0].actions.shape == (32, 7)
    json.dumps(report.to_dict())
    apart = compare_chunks([policy.infer(r) for r in noise_requests(policy.card, 2)], report.samples)
    assert 0 < apart["joints_max"] < 0.1  # the worker had the same requests


@linux_only
def test_its_peak_is_its_own(report):
    """The peak is not that of the parent process, which held a block meanwhile."""
    assert report.weights < report.host_peak < read_memory("cpu").host_peak - BLOCK / 2


def test_the_verdict_is_about_the_targets(report):
    sound = {"latency_ms": dict.fromkeys(report.latency_ms, 10.0), "host_peak": int(1e9), "host_growth": 0}

    def failed(**changes):
        changed = dataclasses.replace(report, **{**sound, **changes})
        assert describe(changed)["verdict"] == (f"FAIL: {', '.join(changed.failed)}" if changed.failed else "PASS")
        return changed.failed

    assert failed() == []
    assert failed(latency_ms=dict.fromkeys(report.latency_ms, 145.0)) == ["rate"]
    assert failed(latency_ms=dict.fromkeys(report.latency_ms, 151.0)) == ["latency", "rate"]
    assert failed(not_finite=1) == ["finite"]
    assert failed(repeatable=False) == ["repeatable"]
    assert failed(host_growth=50_000_000) == ["leak"]
    assert failed(device_growth=50_000_000) == ["leak"]
    # On a GPU its own memory counts, elsewhere the host's.
    assert failed(host_peak=int(9e9)) == ["memory"]
    assert failed(host_peak=int(9e9), device_peak=int(1e9)) == []
    assert failed(device_peak=int(9e9)) == ["memory"]
    assert "memory" not in dataclasses.replace(report, host_peak=None).checks


def test_variants_are_compared_with_float32_and_the_most_flow_steps(report):
    def made(name, joint, **variant):
        samples = [Chunk(chunk.actions + np.float32(joint), chunk.normalized) for chunk in report.samples]
        variant = Variant(name, **variant)
        return dataclasses.replace(report, variant=variant, num_steps=variant.num_steps or 5, samples=samples)

    reports = [
        made("bundled", 0.1, dtype="float32", num_steps=2),
        made("bundled", 0.0, dtype="float32", num_steps=10),
        made("bundled", 0.3, dtype="bfloat16", num_steps=10),
        made("other", 0.5),
    ]
    differences = compare_reports(reports)
    assert {name: round(apart["joints_max"], 4) for name, apart in differences.items()} == {
        "bundled, float32, 2 steps": 0.1,
        "bundled, bfloat16, 10 steps": 0.3,
    }


def test_a_process_that_is_killed_is_explained():
    def kill(doing, done, total):
        for process in workers():
            process.kill()

    with pytest.raises(InferenceError, match=r"'bundled' ended with exit code -9.*memory"):
        run_variant(FEW, kill)


@pytest.mark.slow
def test_a_missing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "/nonexistent")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with pytest.raises(InferenceError, match=r"C\+\+ compiler"):
        run_variant(dataclasses.replace(FEW, num_steps=1, compile_mode="default"))


def test_an_interruption_leaves_no_process():
    def interrupt(doing, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_variant(FEW, interrupt)
    assert workers() == []
