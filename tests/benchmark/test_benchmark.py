"""Figures of a policy, measured in this process and in one of its own."""

import dataclasses
import json
import mmap
import multiprocessing
import os
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("lerobot")

from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy
from smolvla_gym.agent.policies.local import LocalPolicy
from smolvla_gym.benchmark.difference import compare_chunks
from smolvla_gym.benchmark.inputs import noise_requests, sim_requests
from smolvla_gym.benchmark.machine import read_memory, watch_other_programs
from smolvla_gym.benchmark.measure import BenchmarkOptions, run_benchmark, smoothness, time_chunks, time_pops
from smolvla_gym.benchmark.result import Targets, check_report
from smolvla_gym.benchmark.tables import describe, findings
from smolvla_gym.benchmark.variant import RANDOM_450M, Variant
from smolvla_gym.benchmark.worker import run_variant
from smolvla_gym.errors import InferenceError, OptionError, PolicyMismatchError
from smolvla_gym.parol6 import GRIPPERS, STANDBY, forward_kinematics

FEW = BenchmarkOptions(chunks=4, warm_up=2, samples=2)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the host's memory is known on Linux only")


@pytest.fixture(scope="module")
def policy():
    return LocalPolicy(load_checkpoint("bundled", device="cpu"))


@pytest.fixture(scope="module")
def requests(policy):
    return noise_requests(policy.card, 2)


class Wrapped(ChunkPolicy):
    """A policy with a defect of its own."""

    def __init__(self, policy, spoil):
        self._policy, self._spoil = policy, spoil

    @property
    def card(self):
        return self._policy.card

    def infer(self, request):
        return self._spoil(self._policy.infer(request))


class Cheap(ChunkPolicy):
    """Gives chunks of zeros."""

    def __init__(self, card):
        self._card = card

    @property
    def card(self):
        return self._card

    def infer(self, request):
        zeros = np.zeros((self._card.chunk_size, 7), np.float32)
        return Chunk(zeros, zeros)


def check_spread(spread):
    assert 0 < spread.p50 <= spread.p95 <= spread.p99 <= spread.max
    assert 0 < spread.mean <= spread.max


def test_the_figures_of_a_sound_policy(policy):
    calls = []
    result = run_benchmark(policy, FEW, lambda *call: calls.append(call))
    card = policy.card
    assert result.shape == (card.chunk_size, 7)
    assert (result.chunks, result.warm_up, result.num_steps) == (4, 2, card.num_steps)
    assert (result.not_finite, result.repeatable, result.leaks) == (0, True, False)
    check_spread(result.latency_ms)
    check_spread(result.pop_ms)
    assert result.pop_ms.p50 < result.latency_ms.p50  # nothing is computed there
    assert result.first_ms > 0
    assert result.chunks_per_s == pytest.approx(1e3 / result.latency_ms.mean)
    assert result.actions_per_s == pytest.approx(result.chunks_per_s * card.n_action_steps)
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
    result = run_benchmark(LocalPolicy(spoilt), FEW)
    assert result.not_finite == 2 + 4 + 2 + 1
    assert (result.smoothness, result.pop_ms, result.repeatable) == (None, None, False)
    check_spread(result.latency_ms)


def test_a_policy_that_gives_something_else_each_time_is_noticed(policy):
    rng = np.random.default_rng(0)
    restless = Wrapped(policy, lambda chunk: Chunk(chunk.actions + np.float32(rng.uniform(0, 1e-6)), chunk.normalized))
    assert not run_benchmark(restless, FEW).repeatable


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

    greedy = Wrapped(Cheap(policy.card), keep)
    result = run_benchmark(greedy, dataclasses.replace(FEW, chunks=40))
    assert result.leaks == leaks
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
        cores_of_others, own, start = watch_other_programs(), time.process_time(), time.monotonic()
        while time.process_time() - own < 0.5:
            pass
        with_it, elapsed = cores_of_others(), time.monotonic() - start
    finally:
        other.kill()
        other.communicate()
    stat = os.sysconf("SC_CLK_TCK")
    cores = os.cpu_count()
    assert 0 < with_it <= cores + 0.1
    # What this program did is not counted: whatever the machine did beside it fits on the cores that were left.
    assert with_it * elapsed <= cores * elapsed - 0.5 + 4 * cores / stat


def test_a_budget_ends_the_measurement(policy, requests):
    cheap = Cheap(policy.card)
    (times,) = time_chunks([cheap.infer], requests, 10, budget_s=0.0)
    assert len(times) == 3
    assert run_benchmark(cheap, FEW.quick()).warm_up == 1


def test_several_policies_compute_in_turn(requests):
    calls = []
    times = time_chunks([lambda r: calls.append(("a", r)), lambda r: calls.append(("b", r))], requests, 3)
    assert [len(mine) for mine in times] == [3, 3]
    assert calls == [(name, requests[number % 2]) for number in range(3) for name in "ab"]


def test_popping_asks_no_policy(policy, requests):
    chunk = policy.infer(requests[0])
    times = time_pops(policy.card, chunk, requests[0], count=100)
    assert len(times) == 100
    assert min(times) > 0


def test_a_chunk_of_one_action_leaves_nothing_to_pop(policy):
    result = run_benchmark(Cheap(dataclasses.replace(policy.card, chunk_size=1, n_action_steps=1)), FEW)
    assert result.pop_ms is None
    assert result.to_dict()["pop_ms"] is None


def test_smoothness_is_in_rad():
    actions = np.cumsum(np.full((5, 7), 0.02, np.float32), axis=0)
    assert smoothness(Chunk(actions, actions)) == pytest.approx(0.02, rel=1e-5)
    assert smoothness(Chunk(actions[:1], actions[:1])) == 0.0


@pytest.mark.parametrize("options", [{"chunks": 2}, {"warm_up": 0}, {"samples": 0}, {"inputs": "video"}])
def test_options_are_checked(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        BenchmarkOptions(**options)


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
    assert (apart.joints_max, apart.joints_mean, apart.tool_max, apart.gripper_max, apart.chunks) == (0, 0, 0, 0, 1)
    assert apart.cosine_min == pytest.approx(1.0)


def test_a_turn_about_the_base_moves_the_tool_on_its_circle():
    turned = poses()
    turned.actions[1, 0] += 0.01
    turned.actions[2, 6] = 0.25
    turned.normalized[:, :] = -1.0
    apart = compare_chunks([poses()], [turned])
    radius = np.hypot(*forward_kinematics(STANDBY, GRIPPERS["ssg48"])[:2, 3])
    assert apart.joints_max == pytest.approx(0.01, rel=1e-3)
    assert apart.joints_mean == pytest.approx(0.01 / 24, rel=1e-3)
    assert apart.tool_max == pytest.approx(1e3 * 0.01 * radius, rel=1e-3)
    assert apart.tool_mean == pytest.approx(apart.tool_max / 4)
    assert apart.gripper_max == pytest.approx(0.25)
    assert apart.cosine_min == pytest.approx(-1.0)


def test_shifted_actions_differ_by_the_shift():
    shifted = Chunk(poses().actions + np.float32(0.1), poses().normalized)
    assert compare_chunks([poses()], [shifted]).joints_mean == pytest.approx(0.1, rel=1e-4)


# Variants, each in a process of its own.

BLOCK = 800_000_000
"""Memory in bytes that this process holds while the other one measures."""


@pytest.fixture(scope="module")
def report():
    calls = []
    block = np.ones(BLOCK // 8)
    result = run_variant(Variant("bundled", dtype="bfloat16", device="cpu"), FEW, lambda *call: calls.append(call))
    assert block.all()
    assert [doing for doing, _, _ in calls][:2] == ["import", "load"]
    assert ("chunks", 4, 4) in calls
    assert not multiprocessing.active_children()
    return result


def test_a_variant_comes_back_as_a_report(report, policy):
    assert report.parameters == sum(p.numel() for p in policy.checkpoint.policy.parameters())
    assert sum(report.dtypes.values()) == report.parameters
    assert set(report.dtypes) == {"bfloat16", "float32"}
    assert 2 * report.parameters < report.weights < 2.1 * report.parameters
    assert report.load_s > 0
    assert (report.device, report.device_name, report.mask_dtype) == ("cpu", None, "torch.bool")
    assert report.vision_size == (64, 64)
    assert report.benchmark.samples[0].actions.shape == (32, 7)
    json.dumps(report.to_dict())
    apart = compare_chunks([policy.infer(r) for r in noise_requests(policy.card, 2)], report.benchmark.samples)
    assert 0 < apart.joints_max < 0.1  # the worker had the same requests


@linux_only
def test_its_peak_is_its_own(report):
    """The peak is not that of the parent process, which held a block meanwhile."""
    assert report.weights < report.benchmark.host_peak < read_memory("cpu").host_peak - BLOCK / 2


def test_the_verdict_is_about_the_targets(report):
    figures = report.benchmark

    lax = Targets(1e9, 1e-9, 1e9)

    def failed(targets=lax, **changes):
        changed = dataclasses.replace(report, benchmark=dataclasses.replace(figures, **changes))
        checks = check_report(changed, targets)
        text = describe(changed, checks)["verdict"]
        names = [check.name for check in checks if not check.passed]
        assert text == (f"FAIL: {', '.join(names)}" if names else "PASS")
        return names

    assert failed() == []
    assert failed(Targets(1e-9, 1e-9, 1e9)) == ["latency"]
    assert failed(Targets(1e9, 1e9, 1e9)) == ["rate"]
    assert failed(not_finite=1) == ["finite"]
    assert failed(repeatable=False) == ["repeatable"]
    assert failed(host_growth=50_000_000) == ["leak"]
    assert failed(device_growth=50_000_000) == ["leak"]
    # On a GPU its own memory counts, elsewhere the host's.
    assert failed(Targets(1e9, 1e-9, 2.0), host_peak=int(3e9)) == ["memory"]
    assert failed(Targets(1e9, 1e-9, 2.0), host_peak=int(3e9), device_peak=int(1e9)) == []
    assert failed(Targets(1e9, 1e-9, 2.0), host_peak=int(1e9), device_peak=int(3e9)) == ["memory"]
    assert "memory" not in [check.name for check in check_report(dataclasses.replace(
        report, benchmark=dataclasses.replace(figures, host_peak=None)), Targets())]  # fmt: skip


def test_findings_name_frequent_obstacles(report):
    mask, types, actions = findings(report)
    assert "torch.bool" in mask
    assert "bfloat16" in types
    assert "stay float32" in types
    assert "7 wide" in actions
    assert "smolvla_base" in actions
    assert "the first of 32" in findings(dataclasses.replace(report, padded_width=32))[2]


def test_a_process_that_is_killed_is_explained():
    def kill(doing, done, total):
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(InferenceError, match=r"'bundled' ended with exit code -9.*memory"):
        run_variant(Variant("bundled", device="cpu"), FEW, kill)


@pytest.mark.slow
def test_a_missing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "/nonexistent")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with pytest.raises(InferenceError, match=r"C\+\+ compiler"):
        run_variant(Variant("bundled", device="cpu", num_steps=1, compile_mode="default"), FEW)


def test_an_interruption_leaves_no_process():
    def interrupt(doing, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_variant(Variant("bundled", device="cpu"), FEW, interrupt)
    assert not multiprocessing.active_children()


def test_a_checkpoint_takes_no_number_of_cameras():
    with pytest.raises(OptionError, match="cameras=3"):
        Variant("bundled", cameras=3)
    assert Variant(RANDOM_450M, cameras=3).cameras == 3
