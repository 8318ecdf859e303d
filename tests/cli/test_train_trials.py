"""When ``smolvla-gym train`` evaluates a policy, and what it says of it beforehand."""

from __future__ import annotations

import argparse

import pytest

pytest.importorskip("lerobot.datasets")

from smolvla_gym.cli.commands.train_trials import announce, check_drawing, plan_trials
from smolvla_gym.data.reader import open_recording
from smolvla_gym.errors import OptionError, UnknownNameError
from smolvla_gym.training.trials import TrialOptions
from tests.training.datasets import make_dataset

LIFT = TrialOptions(("lift",), 20, 5)


@pytest.mark.parametrize(
    ("options", "steps", "save_steps", "said"),
    [
        (LIFT, 4, 100, ["once", "lift", "seeds 5 to 24"]),
        (LIFT, 3000, 300, ["every 300 steps, 10 times", "lift"]),
        (TrialOptions((), 20), 3000, 300, ["--task"]),
        (TrialOptions(("lift",), 0), 3000, 300, []),
    ],
)
def test_trials_are_announced(options, steps, save_steps, said, capsys):
    announce(options, steps, save_steps)
    printed = capsys.readouterr().err
    assert all(text in printed for text in said)
    assert bool(printed) == bool(said)


def test_the_sentences_of_a_dataset_decide_on_the_tasks(tmp_path):
    recording = open_recording(make_dataset(tmp_path / "data"))
    arguments = argparse.Namespace(eval_episodes=3, eval_seed=0, task=None)
    assert plan_trials(arguments, recording, "cpu").tasks == ("lift",)
    arguments.eval_seed = min(recording.seeds)
    with pytest.raises(OptionError, match="seed"):
        plan_trials(arguments, recording, "cpu")
    arguments.eval_episodes = 0
    assert plan_trials(arguments, recording, "cpu").tasks == ()
    arguments.eval_episodes, arguments.eval_seed, arguments.task = 1, 0, ["juggle"]
    with pytest.raises(UnknownNameError):
        plan_trials(arguments, recording, "cpu")


def test_a_machine_that_draws_nothing_is_refused_before_training(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glx")
    with pytest.raises(OptionError, match="draws no images"):
        check_drawing(LIFT)
    check_drawing(TrialOptions((), 20))
