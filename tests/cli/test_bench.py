"""``smolvla-gym bench`` as a user calls it."""

import json
import shutil

import pytest

pytest.importorskip("lerobot")

from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint
from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.benchmark import worker
from smolvla_gym.benchmark.result import find_reference
from smolvla_gym.benchmark.variant import Variant
from smolvla_gym.cli.main import main

QUICK = ["bench", "--quick", "--device", "cpu"]


_kept = {}


@pytest.fixture
def kept(monkeypatch):
    """The variants that were measured: measuring one again would only take time."""
    measure = worker.run_variant

    def once(variant, options, progress):
        if (variant, options) not in _kept:
            _kept[variant, options] = measure(variant, options, progress)
        return _kept[variant, options]

    monkeypatch.setattr(worker, "run_variant", once)
    return _kept


@pytest.mark.slow
def test_two_types_are_compared_in_json(capsys, tmp_path):
    out = tmp_path / "deep" / "result.json"
    command = [*QUICK, "--dtype", "float32", "--dtype", "bfloat16", "--num-steps", "2", "--json", "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result == json.loads(out.read_text())
    # float32 is measured too, to be compared with.
    names = [f"bundled, {dtype}, 2 steps" for dtype in ("float32", "bfloat16")]
    assert [row["name"] for row in result["variants"]] == names
    for row in result["variants"]:
        assert row["shape"] == [32, 7]
        assert row["num_steps"] == 2
        assert 3 <= row["chunks"] <= 10
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p99"]
        assert 0 < row["pop_ms"]["p50"] <= row["pop_ms"]["p99"]
        assert (row["not_finite"], row["repeatable"], row["leaks"], row["mask_dtype"]) == (0, True, False, "torch.bool")
        assert {check["name"] for check in row["checks"]} >= {"latency", "rate", "finite", "repeatable", "leak"}
        assert row["passed"] == all(check["passed"] for check in row["checks"])
    (bfloat16,) = result["differences"]
    assert bfloat16["name"] == names[1]
    assert 0 < bfloat16["joints_max"] < 0.1
    assert 0 < bfloat16["tool_mean"] < 20
    assert 0.99 < bfloat16["cosine_min"] < 1
    assert result["targets"] == {"latency_ms": 150.0, "chunks_per_s": 7.0, "memory_gb": 8.0}
    assert set(result["definitions"]) >= {"smoothness", "warm-up", "memory"}
    assert result["machine"]["cores"] >= 1
    for stage in ("import", "load", "warm-up", "chunks", "samples"):
        assert f"smolvla-gym: 2 of 2: bundled, bfloat16, 2 steps: {stage}" in printed.err


@pytest.mark.slow
def test_both_samplers_in_turn_and_where_the_time_goes(capsys):
    command = [*QUICK, "--compare", "--num-steps", "2", "--num-steps", "5"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (apart,) = result["differences"]
    assert apart["name"] == "bundled, auto, 2 steps"  # against the one with five
    assert 1e-5 < apart["joints_max"] < 1.0
    flow = []
    for row in result["variants"]:
        speedup = row["speedup"]
        assert speedup["ratio"] > 0
        assert speedup["difference"]["joints_max"] < 1e-4
        stages = {stage["name"]: stage for stage in speedup["stages"]}
        assert list(stages) == ["vision", "prefix", "flow", "rest"]
        for name in ("vision", "prefix", "flow"):
            assert stages[name]["ms"] > 0
            assert stages[name]["product_rate"] > 0
            assert stages[name]["weights"] > 0
        flow.append(stages["flow"])
    # Work and weights of the flow are in proportion to its steps; a product of n x m x k counts as 2 n m k.
    assert flow[1]["flops"] / flow[0]["flops"] == pytest.approx(2.5, rel=0.02)
    assert flow[1]["weights"] / flow[0]["weights"] == 2.5
    network = load_checkpoint("bundled", device="cpu").policy.model.vlm_with_expert
    vision = weights_of(network.get_vlm_model().vision_model.encoder.layers)
    assert stages["vision"]["flops"] >= 2 * vision * 2 * 64  # two cameras of 64 patches, and attention besides
    expert = weights_of(network.lm_expert.layers, "q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert stages["flow"]["flops"] >= 2 * expert * 5 * 32  # five steps of 32 actions


@pytest.mark.slow
def test_a_fallback_to_the_reference_is_named_and_refused_where_the_fast_sampler_is_to_be_measured(capsys, tmp_path):
    folder = shutil.copytree(bundled_checkpoint(), tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "add_image_special_tokens": True}))
    assert main([*QUICK, "--policy", str(folder), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["variants"]
    assert row["sampler"] == "reference"
    assert "add_image_special_tokens" in row["fallback"]
    for option in ("--compare", "--compile"):
        assert main([*QUICK, "--policy", str(folder), option]) == 1
        said = capsys.readouterr().err
        assert "add_image_special_tokens" in said
        assert "warm-up" not in said


def test_a_type_is_compared_with_float32_and_float32_with_the_most_flow_steps():
    few, many, few_half, many_half = (
        Variant("bundled", dtype=dtype, num_steps=steps) for dtype in ("float32", "bfloat16") for steps in (2, 10)
    )
    steps = {few: 2, many: 10, few_half: 2, many_half: 10}
    references = {variant: find_reference(variant, steps) for variant in steps}
    assert references == {few: many, many: None, few_half: few, many_half: many}
    only_half = {few_half: 2, many_half: 10}
    assert [find_reference(variant, only_half) for variant in only_half] == [many_half, None]


def weights_of(layers, *kinds):
    named = [(name, weight) for name, weight in layers.named_parameters() if weight.ndim == 2]
    return sum(weight.numel() for name, weight in named if not kinds or name.split(".")[-2] in kinds)


@pytest.mark.slow
def test_the_table_the_verdict_and_a_variant_that_fails(capsys, tmp_path, kept):
    folder = shutil.copytree(bundled_checkpoint(), tmp_path / "six")
    config = json.loads((folder / "config.json").read_text())
    config["output_features"]["action"]["shape"] = [6]
    (folder / "config.json").write_text(json.dumps(config))
    command = [*QUICK, "--policy", "bundled", "--policy", str(folder), "--inputs", "sim", "--target-ms", "1e9"]
    assert main([*command, "--target-rate", "1e9"]) == 1
    printed = capsys.readouterr().out
    for word in ("bundled, auto", "smoothness", "(32, 7)", "PASS < 1e+09 ms", "FAIL > 1e+09/s", "FAIL: rate"):
        assert word in printed
    for word in ("torch.bool", "7 wide", "smoothness: mean absolute difference", "warm-up: the chunks before"):
        assert word in printed
    assert f"{folder}, auto: could not be measured: The policy in {folder} has actions of 6 components" in printed
    assert "--policy random-450m" in printed


@pytest.mark.slow
def test_only_strict_makes_a_miss_an_error(capsys, kept):
    lax = ["--target-ms", "1e9", "--target-rate", "1e-9", "--target-gb", "1e9"]
    command = [*QUICK, "--inputs", "sim"]
    assert main([*command, *lax, "--strict"]) == 0
    assert main([*command, "--target-ms", "1e-6"]) == 0
    assert main([*command, "--target-ms", "1e-6", "--strict"]) == 1
    assert main([*command, *lax, "--target-gb", "1e-6", "--strict"]) == 1
    assert len(kept) == 1
    assert "FAIL < 1e-06 GB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["--policy", "expert"], "--policy"),
        (["--policy", "no such folder"], "no such folder"),
        (["--cameras", "3"], "cameras"),
        (["--policy", "random-450m", "--cameras", "0"], "--cameras"),
        (["--policy", "random-450m", "--cameras", "9"], "cameras"),
        (["--dtype", "int8"], "--dtype"),
        (["--compile", "fastest"], "fastest"),
        (["--num-steps", "0"], "--num-steps"),
        (["--absent-cameras", "1"], "absent"),
        (["--compare", "--sampler", "reference"], "sampler"),
        (["--chunks", "2"], "--chunks"),
        (["--target-ms", "0"], "--target-ms"),
        (["--inputs", "video"], "--inputs"),
        (["--out", "."], "--out"),
        (["--device", "tpu9", "--compare-dtype"], "tpu9"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_measured(arguments, key, capsys):
    assert main(["bench", *arguments]) == 2
    printed = capsys.readouterr()
    assert key in printed.err
    assert "import" not in printed.err


def test_a_device_that_is_not_there_is_a_wrong_argument(capsys):
    assert main(["bench", "--device", "cuda:99"]) == 2
    assert "cuda:99" in capsys.readouterr().err


def test_help_says_what_compiling_takes(capsys):
    assert main(["bench", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "C++ compiler" in printed
