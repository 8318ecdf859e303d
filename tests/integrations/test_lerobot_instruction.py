"""The sentence that a program of LeRobot's records is that of the simulated scene."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("lerobot")

from smolvla_gym.errors import OptionError
from smolvla_gym.integrations.lerobot.robot import PAROL6Sim, PAROL6SimConfig
from smolvla_gym.integrations.lerobot.robot.instruction import find_instruction

RECORD = "venv/bin/lerobot-record"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([RECORD, "--dataset.single_task=pick up the red cube"], "pick up the red cube"),
        ([RECORD, "--dataset.fps=30", "--dataset.single_task", "push it"], "push it"),
        (["lerobot/scripts/lerobot_rollout.py", "--task=a=b"], "a=b"),
        ([RECORD, "--dataset.fps=30"], None),
        (["my_program.py", "--task=lift"], None),
        ([], None),
    ],
)
def test_the_command_line_has_the_sentence(argv, sentence):
    assert find_instruction(None, argv) == sentence
    assert find_instruction(sentence or "mine", argv) == (sentence or "mine")


def test_a_contradiction_is_refused():
    with pytest.raises(OptionError, match="pick up the red cube"):
        find_instruction("pick up the blue cube", [RECORD, "--dataset.single_task=pick up the red cube"])
    with pytest.raises(OptionError):
        find_instruction(" ", [])


def test_every_scene_has_what_the_sentence_names(tmp_path, monkeypatch):
    monkeypatch.setattr("lerobot.robots.robot.HF_LEROBOT_CALIBRATION", tmp_path)
    monkeypatch.setattr(sys, "argv", [RECORD, "--dataset.single_task=Fetch the RED cube"])
    for seed in range(3):
        robot = PAROL6Sim(PAROL6SimConfig(id="test", observed=[], fps=50, seed=seed))
        robot.connect()
        try:
            layout = robot.loop.env.backend.layout
            assert robot.loop.latest().instruction == "Fetch the RED cube"
            assert layout.colors[layout.target] == "red"
        finally:
            robot.disconnect()
