"""``smolvla-gym bench`` as a user calls it."""

import dataclasses
import json
import shutil

import pytest

pytest.importorskip("lerobot")

from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint
from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.benchmark import worker
from smolvla_gym.cli.main import main

QUICK = ["bench", "--quick", "--device", "cpu"]


_kept = {}


@pytest.fixture
def kept(monkeypatch):
    """The variants that were measured: measuring one again would only take time."""
    measure = worker.run_variant

    def once(variant, progress):
        if variant not in _kept:
            _kept[variant] = measure(variant, progress)
        return _kept[variant]

    monkeypatch.setattr(worker, "run_variant", once)
    return _kept


@pytest.mark.slow
def test_two_types_are_compared_in_json(capsys):
    command = [*QUICK, "--dtype", "float32", "--dtype", "bfloat16", "--num-steps", "2", "--json"]
    assert main(command) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    # float32 is measured too, to be compared with.
    names = [f"bundled, {dtype}, 2 steps" for dtype in ("float32", "bfloat16")]
    assert [row["name"] for row in result["variants"]] == names
    for row in result["variants"]:
        assert row["shape"] == [32, 7]
        assert row["num_steps"] == 2
        assert 3 <= row["chunks"] <= 10
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p99"]
        assert 0 < row["pop_ms"]["p50"] <= row["pop_ms"]["p99"]
        assert (row["not_finite"], row["repeatable"]) == (0, True)
        assert "leak" not in row["failed"]
    ((name, bfloat16),) = result["differences"].items()
    assert name == names[1]
    assert 0 < bfloat16["joints_max"] < 0.1
    assert 0 < bfloat16["tool_mean"] < 20
    assert 0.99 < bfloat16["cosine_min"] < 1
    assert result["machine"]["cores"] >= 1
    assert f"smolvla-gym: measuring {names[1]}" in printed.err


@pytest.mark.slow
def test_both_samplers_in_turn_and_where_the_time_goes(capsys):
    command = [*QUICK, "--compare", "--num-steps", "2", "--num-steps", "5"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    ((name, apart),) = result["differences"].items()
    assert name == "bundled, auto, 2 steps"  # against the one with five
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
        assert "add_image_special_tokens" in capsys.readouterr().err


def weights_of(layers, *kinds):
    named = [(name, weight) for name, weight in layers.named_parameters() if weight.ndim == 2]
    return sum(weight.numel() for name, weight in named if not kinds or name.split(".")[-2] in kinds)


@pytest.mark.slow
def test_the_table_the_verdict_and_a_variant_that_fails(capsys, tmp_path, kept):
    folder = shutil.copytree(bundled_checkpoint(), tmp_path / "six")
    config = json.loads((folder / "config.json").read_text())
    config["output_features"]["action"]["shape"] = [6]
    (folder / "config.json").write_text(json.dumps(config))
    command = [*QUICK, "--policy", "bundled", "--policy", str(folder), "--inputs", "sim"]
    assert main(command) == 1
    printed = capsys.readouterr().out
    for word in ("bundled, auto", "smoothness", "(32, 7)", "< 150 ms", "> 7/s", "PASS < 8 GB", "PASS the same bits"):
        assert word in printed
    assert f"{folder}, auto: could not be measured: The policy in {folder} has actions of 6 components" in printed
    assert "--policy random-450m" in printed


@pytest.mark.slow
def test_only_strict_makes_a_miss_an_error(capsys, kept):
    command = [*QUICK, "--inputs", "sim"]
    assert main(command) == 0
    (variant,) = kept
    kept[variant] = dataclasses.replace(kept[variant], not_finite=1)
    assert main(command) == 0
    assert main([*command, "--strict"]) == 1
    assert "FAIL no NaN" in capsys.readouterr().out


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
        (["--chunks", "2"], "--chunks"),
        (["--inputs", "video"], "--inputs"),
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
