"""``smolvla-gym eval`` as a user calls it."""

import json

import pytest

pytest.importorskip("lerobot")

from smolvla_gym.cli.main import main


@pytest.mark.slow
def test_a_table_a_plot_and_json(tmp_path, capsys):
    out = tmp_path / "eval"
    command = ["eval", "--episodes", "2", "--seed", "2", "--workers", "1", "--mode", "rtc", "--latency-ms", "100",
               "--device", "cpu", "--out", str(out), "--vs", "bundled", "--json"]  # fmt: skip
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "eval.json").read_text())
    (row,) = printed["conditions"]
    assert (row["mode"], row["latency_ms"], row["stalled_steps"]) == ("rtc", 100.0, 0)
    assert printed["seeds"] == [2, 3]
    # The same policy does the same.
    assert printed["vs"] == {name: printed[name] for name in ("policy", "conditions", "failed_seeds")}
    (pair,) = printed["paired"]
    assert (pair["first_only"], pair["second_only"], pair["p_value"]) == (0, 0, 1.0)
    assert pair["both"] + pair["neither"] == 2
    text = (out / "eval.md").read_text()
    assert text.count("| rtc | 100 |") == 2
    assert f"lift, rtc, 100 ms, the same seeds: both {pair['both']}, only bundled 0" in text
    for name in ("eval.png", "eval_vs.png"):
        assert (out / name).stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "expert"], "--policy='expert'"),
        (["--policy", "no such folder"], "There is no policy"),
        (["--vs", "no such folder"], "There is no policy"),
        (["--vs", "127.0.0.1:8765"], "--vs='127.0.0.1:8765'"),
        (["--latency-ms", "-5"], "latency_ms"),
        (["--aggregate", "newest"], "There is no aggregate 'newest'"),
        (["--randomization", "3"], "--randomization=3"),
        (["--task", "lfit"], "Did you mean 'lift'"),
        (["--gripper", "claw"], "There is no gripper 'claw'"),
        (["--dtype", "int8"], "invalid choice"),
        (["--compile", "fastest"], "compile_mode='fastest'"),
        (["--camera-map", "camera1"], "'camera1' is not of the form camera1=wrist"),
        (["--mode", "asink"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_loads(arguments, message, capsys, tmp_path):
    assert main(["eval", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
