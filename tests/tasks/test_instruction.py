"""A scene that is laid out for a sentence."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import smolvla_gym
from smolvla_gym.errors import OptionError
from smolvla_gym.sim.scene import COLORS
from smolvla_gym.tasks import TASKS
from smolvla_gym.tasks.instruction import instructed

COLOR = st.sampled_from(sorted(COLORS))


@given(st.sampled_from(sorted(TASKS)), st.integers(0, 2**31), COLOR, COLOR, st.sampled_from([2, 3]))
def test_the_named_objects_take_the_places_of_those_that_were_drawn(name, seed, color, base, count):
    drawn = TASKS[name].layout(np.random.default_rng(seed), "ssg48", count, 1)
    two = drawn.base >= 0
    sentence = f"{color.upper()} {{thing}}" + (f" onto {base}" if two else "")
    if two and color == base:
        with pytest.raises(OptionError):
            instructed(drawn, sentence)
        return
    layout = instructed(drawn, sentence)
    assert layout.instruction == sentence
    assert layout.instruction_template.format(color=color.upper(), base=base) == sentence
    assert layout.colors[layout.target] == color
    assert not two or layout.colors[layout.base] == base
    assert len(set(layout.colors)) == count
    assert (layout.target, layout.base) == (drawn.target, drawn.base)
    np.testing.assert_array_equal(layout.positions, drawn.positions)


def test_a_sentence_that_asks_for_no_scene_leaves_it():
    drawn = TASKS["lift"].layout(np.random.default_rng(0), "ssg48", 2, 1)
    assert instructed(drawn, "wave").colors == drawn.colors


@pytest.mark.parametrize(
    ("task", "wrong"), [("lift", "take red and blue"), ("stack", "take red"), ("stack", "red on red")]
)
def test_other_numbers_of_objects_are_refused_and_the_episode_stays(task, wrong):
    env = gym.make(smolvla_gym.SIM_ID, task=task, cameras=())
    _, info = env.reset(seed=0)
    with pytest.raises(OptionError, match="instruction"):
        env.reset(seed=1, options={"instruction": wrong})
    assert env.unwrapped.task_description == info["instruction"]
    with pytest.raises(OptionError, match="target"):
        env.reset(seed=1, options={"instruction": "take red", "target": "red"})
    env.close()


def test_the_expert_fetches_what_the_instruction_names():
    env = gym.make(smolvla_gym.SIM_ID, task="lift", cameras=(), num_objects=2)
    for seed, color in enumerate(sorted(COLORS)):
        _, info = env.reset(seed=seed, options={"instruction": f"Please pick up the {color.title()} cube!"})
        assert info["instruction"] == f"Please pick up the {color.title()} cube!"
        done = False
        while not done:
            *_, terminated, truncated, info = env.step(env.unwrapped.expert_action())
            done = terminated or truncated
        assert info["is_success"]
    env.close()
