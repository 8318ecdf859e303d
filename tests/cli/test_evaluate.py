"""``smolvla-gym eval`` as a user calls it."""

import json
import shutil
import sys
from collections import deque

import pytest

pytest.importorskip("lerobot")

from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint
from smolvla_gym.agent.chunk_statistics import AgentStatistics
from smolvla_gym.cli.main import main
from smolvla_gym.evaluation.conditions import Outcome
from smolvla_gym.tasks import TASKS
from smolvla_gym.utils.file_lock import lock_folder
from tests.training.full_disk import full_disk


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
    ("max_delay", "latency", "agent", "chosen"),
    [(0, 0.0, {}, "sync"), (0, 466.0, {}, "sync"), (12, 466.0, {}, "rtc"), (0, 0.0, {"aggregate": "average"}, "async")],
)
def test_the_table_tells_the_mode_that_auto_chose(monkeypatch, max_delay, latency, agent, chosen):
    from smolvla_gym.cli.commands import evaluate
    from smolvla_gym.evaluation.comparison import table
    from smolvla_gym.evaluation.conditions import Condition

    monkeypatch.setattr(evaluate, "policy_max_delay", lambda policy: max_delay)
    outcome = Outcome(1, "lift it", True, 30, AgentStatistics())
    figures = evaluate._figures("made", {Condition("auto", latency): [outcome]}, 30.0, agent)
    assert figures["conditions"][0]["chosen_mode"] == chosen
    heads, row = table(figures["conditions"])
    assert row[heads.index("mode")] == f"auto: {chosen}"
    explicit = evaluate._figures("made", {Condition("rtc", latency): [outcome]}, 30.0, agent)
    assert "chosen_mode" not in explicit["conditions"][0]


SHORT = ["eval", "--task", "reach", "--mode", "sync", "rtc", "--episodes", "2", "--workers", "1", "--vs", "bundled"]
"""Eight episodes, which test doubles run at once."""


@pytest.fixture
def episodes(monkeypatch):
    """The episodes that were run: what becomes of each follows from its condition and seed alone, as of real ones."""
    ran = []

    def run_job(job):
        _, condition, seed = job
        if len(ran) == ran_until[0]:
            raise KeyboardInterrupt
        ran.append((condition.mode, seed))
        jumps = [0.1 * seed + 1 / 3, len(condition.mode) / 7]
        statistics = AgentStatistics(steps=40 + seed, chunks=3, delays=deque([1, 2]), border_jumps=deque(jumps))
        failure = None if seed % 2 else "nicht berührt"
        return condition, Outcome(seed, "point at the red disc", bool(seed % 2), 40 + seed, statistics, failure)

    ran_until = [None]
    monkeypatch.setattr("smolvla_gym.evaluation.evaluate.run_job", run_job)
    for module in ("comparison", "matrix"):
        monkeypatch.setattr(f"smolvla_gym.evaluation.{module}.plot", lambda *arguments: None)  # takes a second each

    def until(count):
        ran.clear()
        ran_until[0] = count
        return ran

    return until


def results(folder):
    result = json.loads((folder / "eval.json").read_text())
    assert result.pop("seconds") >= 0.0
    return result, (folder / "eval.md").read_text()


def test_a_matrix(episodes, tmp_path, capsys):
    """All tasks in the conditions that the policy allows; it resumes as other evaluations do."""
    ran, folder = episodes(5), tmp_path / "out"
    command = ["eval", "--matrix", "--episodes", "2", "--workers", "1", "--out", str(folder)]
    assert main(command) == 130
    episodes(None)
    assert main(["eval", "--resume", str(folder), "--workers", "1"]) == 0
    result, text = results(folder)
    assert result["num_objects"] == 3
    lines = list(dict.fromkeys(row["line"] for row in result["conditions"]))
    assert lines[:7] == ["no latency", "100 ms", "466 ms", "1,000 ms", "level 2", "unseen phrasing", "other colour"]
    tasks = list(dict.fromkeys(row["task"] for row in result["conditions"]))
    assert tasks == list(TASKS)
    assert len(result["conditions"]) == len(lines) * len(tasks)
    assert [row["randomization"] for row in result["conditions"] if "randomization" in row] == [2] * len(tasks)
    assert len(ran) == 2 * len(result["conditions"]) - 5
    assert text.count("50 (9-91)") == len(result["conditions"])
    assert "| level 2 |" in text
    assert "1,000 ms" in capsys.readouterr().out


@pytest.mark.parametrize("stops", [[1], [3, 2], [8]], ids=str)
def test_an_evaluation_that_was_stopped_goes_on(episodes, stops, tmp_path, capsys):
    ran = episodes(None)
    assert main([*SHORT, "--out", str(tmp_path / "whole")]) == 0
    assert len(ran) == 8

    folder = tmp_path / "stopped"
    ran = [*episodes(stops[0])]
    assert main([*SHORT, "--out", str(folder)]) == (130 if stops[0] < 8 else 0)
    if stops[0] < 8:
        assert not (folder / "eval.json").exists()
        assert f"{stops[0]} of 8 episodes are kept" in capsys.readouterr().err
    for count in stops[1:]:
        episodes(count)
        assert main(["eval", "--out", str(folder), "--resume", "--workers", "1"]) == 130
    with (folder / "episodes.jsonl").open("a") as file:
        file.write('{"policy": 0, "condition": {"mo')  # the power went
    ran = episodes(None)
    assert main(["eval", "--resume", str(folder), "--workers", "1"]) == 0
    assert len(ran) == 8 - sum(stops)
    assert results(folder) == results(tmp_path / "whole")
    # Once more there is nothing left to run, and the tables come from what is kept.
    assert main(["eval", "--resume", str(folder), "--workers", "1"]) == 0
    assert len(ran) == 8 - sum(stops)
    assert results(folder) == results(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--seed", "1"], "--seed"),
        (["--task", "lift"], "--task"),
        (["--episodes", "3"], "--episodes"),
        (["--mode", "sync"], "--mode"),
        (["--latency-ms", "100"], "--latency-ms"),
        (["--policy", "lerobot/smolvla_base"], "--policy"),
        (["--camera-map", "camera1=wrist"], "--camera-map"),
        (["--swap-instruction"], "--swap-instruction"),
        (["--control-hz", "15"], "--control-hz"),
        (["--n-action-steps", "4"], "--n-action-steps"),
    ],
)
def test_other_options_are_refused(episodes, arguments, option, tmp_path, capsys):
    episodes(1)
    folder = tmp_path / "out"
    assert main([*SHORT, "--out", str(folder)]) == 130
    before = (folder / "episodes.jsonl").read_bytes()
    assert main(["eval", "--resume", str(folder), *arguments]) == 2
    assert f"error: {option}" in capsys.readouterr().err
    assert (folder / "episodes.jsonl").read_bytes() == before


def test_a_module_that_only_the_file_names_is_not_imported(episodes, tmp_path, capsys, monkeypatch):
    episodes(1)
    folder = tmp_path / "out"
    assert main([*SHORT, "--out", str(folder)]) == 130
    (tmp_path / "foreign_tasks.py").write_text("open('imported', 'w')")
    journal = folder / "episodes.jsonl"
    journal.write_text(journal.read_text().replace('["reach"]', '["foreign_tasks:reach"]'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert main(["eval", "--resume", str(folder), "--workers", "1"]) == 2
    assert "--task" in capsys.readouterr().err
    assert not (tmp_path / "imported").exists()


def test_a_policy_that_has_changed_is_refused(episodes, tmp_path, capsys):
    policy = shutil.copytree(bundled_checkpoint(), tmp_path / "policy")
    episodes(1)
    command = ["eval", "--policy", str(policy), "--episodes", "2", "--workers", "1", "--out", str(tmp_path / "out")]
    assert main(command) == 130
    (policy / "config.json").write_text((policy / "config.json").read_text() + " ")
    assert main([*command, "--resume"]) == 2
    assert "digest of --policy" in capsys.readouterr().err


def test_a_module_that_the_file_names_is_not_imported(tmp_path, capsys, monkeypatch):
    from smolvla_gym.cli.commands.evaluate import EvalOptions
    from smolvla_gym.cli.options.resuming import kept_values

    (tmp_path / "elsewhere.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    options = {**kept_values(EvalOptions()), "task": ["elsewhere:lift"]}
    head = {"format": 1, "episodes": 1, "options": options}
    (tmp_path / "episodes.jsonl").write_text(json.dumps(head) + "\n")
    assert main(["eval", "--resume", str(tmp_path)]) == 2
    assert "--task" in capsys.readouterr().err


def test_what_was_stopped_is_not_overwritten(episodes, tmp_path, capsys):
    episodes(1)
    command = [*SHORT, "--out", str(tmp_path / "out")]
    assert main(command) == 130
    assert main(command) == 2
    assert "1 of 8 episodes" in capsys.readouterr().err
    episodes(None)
    assert main([*command, "--resume"]) == 0
    assert main(command) == 0  # it is over, and may be begun anew


def test_two_at_a_time_are_refused(episodes, tmp_path, capsys):
    episodes(None)
    folder = tmp_path / "out"
    folder.mkdir()
    with lock_folder(folder):
        assert main([*SHORT, "--out", str(folder)]) == 1
    assert "Another program" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    ["", "[]\n", '{"format": 1}\n', '{"format": 9, "episodes": 1, "options": {}}\n', "[" * 100_000 + "\n"],
    ids=["empty", "a list", "no options", "another format", "deep"],
)
def test_a_broken_file_is_refused(content, tmp_path, capsys):
    (tmp_path / "episodes.jsonl").write_text(content)
    assert main(["eval", "--resume", str(tmp_path)]) == 1
    assert "episodes.jsonl" in capsys.readouterr().err


def test_there_is_nothing_to_go_on_with(tmp_path, capsys):
    assert main(["eval", "--resume"]) == 2
    assert main(["eval", "--resume", str(tmp_path / "nothing")]) == 2
    assert main(["eval", "--resume", str(tmp_path)]) == 1
    assert main(["eval", "--resume", str(tmp_path), "--out", str(tmp_path / "other")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_files(episodes, tmp_path, capsys):
    episodes(None)
    folder = tmp_path / "out"
    with full_disk(2000):
        assert main([*SHORT, "--out", str(folder)]) == 1
    said = capsys.readouterr().err
    assert "could not be written" in said
    assert "of 8 episodes are kept" in said
    assert [file.name for file in folder.iterdir()] == ["episodes.jsonl"]
    assert main([*SHORT, "--out", str(folder), "--resume"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "expert"], "--policy expert"),
        (["--policy", "no such folder"], "There is no policy"),
        (["--vs", "no such folder"], "There is no policy"),
        (["--policy", ""], "There is no policy ''"),
        (["--vs", "127.0.0.1:8765"], "--vs 127.0.0.1:8765"),
        (["--latency-ms", "-5"], "--latency-ms"),
        (["--episodes", "1" + "0" * 30], "--episodes 1"),
        (["--aggregate", "newest"], "There is no aggregate 'newest'"),
        (["--randomization", "3"], "--randomization 3"),
        (["--task", "lfit"], "Did you mean 'lift'"),
        (["--gripper", "claw"], "There is no gripper 'claw'"),
        (["--dtype", "int8"], "--dtype int8: expected one of"),
        (["--compile", "fastest"], "--compile fastest: expected"),
        (["--camera-map", "camera1"], "--camera-map camera1: expected the form camera1=wrist"),
        (["--mode", "asink"], "--mode asink: expected one of auto, sync, async, rtc"),
        (["--matrix", "--latency-ms", "100"], "--latency-ms 100: not with --matrix"),
        (["--matrix", "--randomization", "2"], "--randomization 2: not with --matrix"),
        (["--matrix", "--mode", "sync", "rtc"], "--mode sync rtc: expected one with --matrix"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_loads(arguments, message, capsys, tmp_path):
    assert main(["eval", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
