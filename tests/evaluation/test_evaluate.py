"""Conditions with the same seeds, whatever the number of processes."""

import importlib.util
import os
import shutil
from dataclasses import replace

import av
import pytest

pytest.importorskip("lerobot")

from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint
from smolvla_gym.errors import SmolVLAGymError
from smolvla_gym.evaluation.comparison import failures, markdown, plot, table
from smolvla_gym.evaluation.conditions import INSTRUCTIONS, Condition, EvaluationOptions
from smolvla_gym.evaluation.evaluate import evaluate, record_video
from smolvla_gym.evaluation.summary import summarise
from smolvla_gym.sim.scene import COLORS
from smolvla_gym.tasks import TASKS

CONDITIONS = [Condition("sync", 0.0), Condition("rtc", 200.0)]
SEEDS = range(3, 6)
OPTIONS = EvaluationOptions(device="cpu", env={"reward": "sparse", "max_episode_steps": 40})


@pytest.fixture(scope="module")
def alone():
    seen = []
    results = evaluate(OPTIONS, CONDITIONS, SEEDS, progress=lambda *episode: seen.append(episode))
    assert len(seen) == 2 * len(SEEDS)
    return results


def test_every_condition_gets_every_seed(alone):
    assert list(alone) == CONDITIONS
    for outcomes in alone.values():
        assert [outcome.seed for outcome in outcomes] == list(SEEDS)
        assert all(outcome.steps == 40 for outcome in outcomes)
    same = [[outcome.instruction for outcome in outcomes] for outcomes in alone.values()]
    assert same[0] == same[1]
    assert {outcome.statistics.waited_steps for outcome in alone[CONDITIONS[1]]} == {6}


def test_fewer_flow_steps_are_another_condition():
    """All conditions share a checkpoint, and one must not compute with the steps of another."""
    given, one = (Condition("sync", 0.0, num_steps=steps) for steps in (None, 1))
    short = replace(OPTIONS, env={**OPTIONS.env, "max_episode_steps": 14})
    together = evaluate(short, [given, one], [3, 4])
    assert evaluate(short, [one, given], [3, 4]) == together
    assert together[given] != together[one]
    rows = [summarise(condition, together[condition], 30.0) for condition in (given, one)]
    assert [row[0] for row in table(rows)] == ["task", "lift", "lift, 1 flow step"]


@pytest.mark.slow
def test_the_number_of_processes_does_not_matter(alone):
    """Not even that of the episodes before: other seeds, in another order, with other neighbours."""
    results = evaluate(OPTIONS, CONDITIONS[::-1], [5, 3, 4], workers=2)
    for condition in CONDITIONS:
        assert [outcome.seed for outcome in results[condition]] == [5, 3, 4]
        before = {outcome.seed: outcome for outcome in alone[condition]}
        assert all(outcome == before[outcome.seed] for outcome in results[condition])


def test_the_table_and_the_plot(alone, tmp_path):
    rows = [summarise(condition, outcomes, 30.0) for condition, outcomes in alone.items()]
    assert [(row["mode"], row["latency_ms"], row["episodes"]) for row in rows] == [("sync", 0, 3), ("rtc", 200, 3)]
    assert (rows[0]["successes"], rows[0]["time_to_success_s"]) == (0, None)  # 40 steps are too few
    assert rows[1]["waited_steps"] == 6.0
    assert rows[1]["border_jump_p99_rad"] <= rows[1]["border_jump_max_rad"]
    heads, *cells = table(rows)
    assert "task" not in heads  # it is the same in both
    assert all(len(row) == len(heads) for row in cells)
    assert sum(rows[0]["failures"].values()) == 3
    assert failures(rows)[1].startswith("lift, rtc, 200 ms failed: ")
    lines = markdown(rows).splitlines()
    assert lines[2].startswith("| sync | 0 | 0/3 |")
    plot(rows, tmp_path / "plot.png", "a title")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_other_instructions_for_the_same_scene(tmp_path):
    conditions = [Condition("sync", 0.0, task, kind) for task in ("stack", "reach") for kind in INSTRUCTIONS]
    options = EvaluationOptions(device="cpu", env={"reward": "sparse", "max_episode_steps": 3, "num_objects": 3})
    results = evaluate(options, conditions, [4])
    instructions = {(c.task, c.instruction): outcomes[0].instruction for c, outcomes in results.items()}
    for task in ("stack", "reach"):
        given, swapped, unseen = (instructions[task, kind] for kind in INSTRUCTIONS)
        named = [[word for word in sentence.split() if word in COLORS] for sentence in (given, swapped, unseen)]
        assert named[0][0] != named[1][0]
        assert named[0] == named[2]
        template = unseen.replace(named[2][0], "{color}", 1)
        assert (
            template.replace(named[2][-1], "{base}", 1) in TASKS[task].unseen_instruction_templates
            or template in TASKS[task].unseen_instruction_templates
        )
    rows = [summarise(condition, outcomes, 30.0) for condition, outcomes in results.items()]
    heads, *cells = table(rows)
    assert heads[0] == "task"
    assert [row[0] for row in cells[:2]] == ["stack", "stack, swapped instruction"]
    assert "border" not in heads
    plot(rows, tmp_path / "bars.png", "a title")
    assert rows[0]["words"] == "given", "files keep their key"
    record_video(options, conditions[0], 4, tmp_path / "videos" / "one.mp4")
    with av.open(str(tmp_path / "videos" / "one.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 1 + 3


@pytest.mark.slow
def test_a_cluster_gives_the_same(alone, tmp_path):
    if importlib.util.find_spec("ray") is None:  # it reads its settings, which we make, once it is imported
        pytest.skip("Ray is not installed")
    policy = shutil.copytree(bundled_checkpoint(), tmp_path / "policy")  # is sent there
    options = replace(OPTIONS, policy=str(policy))
    there = evaluate(options, CONDITIONS[:1], SEEDS, workers=2, ray="local")
    assert there[CONDITIONS[0]] == alone[CONDITIONS[0]]
    # It listens on all interfaces, as Ray always does, and obeys those who know the token.
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    # Without a GPU in it a job that wants one would wait for ever.
    with pytest.raises(SmolVLAGymError, match=r"'cuda'.*no machine of the cluster has a GPU.*--num-gpus"):
        evaluate(replace(options, device="cuda"), CONDITIONS[:1], [3], workers=1, ray="local")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_no_cluster_is_said(address):
    pytest.importorskip("ray")
    with pytest.raises(SmolVLAGymError, match=f"no Ray cluster at '{address}'"):
        evaluate(OPTIONS, CONDITIONS[:1], [3], ray=address)


def test_episodes_that_are_known_are_not_run_again(alone, tmp_path):
    from smolvla_gym.evaluation.journal import EpisodeJournal

    with EpisodeJournal(tmp_path / "episodes.jsonl", {}, 6) as journal:
        for condition, outcomes in alone.items():
            for outcome in outcomes[1:] if condition == CONDITIONS[1] else outcomes:
                journal.add(0, condition, outcome, 0.0)
    with EpisodeJournal.resume(tmp_path / "episodes.jsonl") as journal:
        known = journal.of(0)
    ran = []
    again = evaluate(OPTIONS, CONDITIONS, SEEDS, progress=lambda *episode: ran.append(episode), done=known)
    assert [(condition, outcome.seed) for condition, outcome in ran] == [(CONDITIONS[1], 3)]
    assert again == alone
