"""``smolvla-gym eval`` as a user calls it."""

import json

import pytest

pytest.importorskip("lerobot")

from smolvla_gym.cli.main import main


def test_a_table_a_plot_and_json(tmp_path, capsys):
    out = tmp_path / "eval"
    command = ["eval", "--episodes", "2", "--seed", "2", "--workers", "1", "--mode", "async", "rtc", "--latency-ms",
               "100", "--device", "cpu", "--out", str(out), "--json"]  # fmt: skip
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "eval.json").read_text())
    assert [row["mode"] for row in printed["conditions"]] == ["async", "rtc"]
    assert printed["seeds"] == [2, 3]
    assert all(row["stalled_steps"] == 0 for row in printed["conditions"])
    assert "| rtc | 100 |" in (out / "eval.md").read_text()
    assert (out / "eval.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "expert"], "--policy='expert'"),
        (["--policy", "no such folder"], "There is no policy"),
        (["--latency-ms", "-5"], "latency_ms"),
        (["--aggregate", "newest"], "There is no aggregate 'newest'"),
        (["--randomization", "3"], "--randomization=3"),
        (["--task", "lfit"], "Did you mean 'lift'"),
        (["--mode", "asink"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_loads(arguments, message, capsys, tmp_path):
    assert main(["eval", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
