"""Layouts and instructions of every task."""

import numpy as np
import pytest

from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import GRIPPERS
from smolvla_gym.parol6.inverse_kinematics import solve
from smolvla_gym.sim.scene import COLORS, CUBE_SIZE
from smolvla_gym.tasks import TASKS
from smolvla_gym.training.tiny.paraphrases import paraphrases
from tests.tasks.scenes import layouts


@pytest.mark.parametrize("num_objects", [2, 3])
@pytest.mark.parametrize("task", TASKS)
def test_instructions_name_an_object_that_is_there_and_is_told_apart_by_its_colour(task, num_objects):
    sentences = set()
    for layout in layouts(task, num_objects=num_objects):
        assert len(layout.colors) == len(set(layout.colors)) == len(layout.positions) == num_objects
        named = [color for color in COLORS if color in layout.instruction.split()]
        expected = {layout.colors[layout.target]} | ({layout.colors[layout.base]} if layout.base >= 0 else set())
        assert set(named) == expected
        assert layout.base != layout.target
        words = layout.instruction
        for color in COLORS:
            words = words.replace(f" {color} ", " COLOR ")
        sentences.add(words)
    assert len(sentences) >= 3  # several templates


@pytest.mark.parametrize("task", TASKS)
def test_any_object_and_any_colour_may_be_named(task):
    drawn = layouts(task, num_objects=3)
    assert {layout.target for layout in drawn} == {0, 1, 2}
    assert {layout.colors[layout.target] for layout in drawn} == set(COLORS)


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if not task.has_belt])
def test_objects_are_spread_over_20_by_25_cm_and_never_overlap(task):
    for gripper, span in (("ssg48", (0.19, 0.24)), ("pneumatic", (0.10, 0.26))):
        drawn = layouts(task, gripper)
        targets = np.array([layout.positions[layout.target][:2] for layout in drawn])
        everything = np.concatenate([layout.positions[:, :2] for layout in drawn])
        assert np.all(np.ptp(everything, axis=0) >= span)
        assert np.all(np.ptp(targets, axis=0) >= np.multiply(span, 0.9))
        for layout in drawn:
            things = [*layout.positions[:, :2], *([layout.goal[:2]] if layout.goal is not None else [])]
            gaps = [np.linalg.norm(a - b) for i, a in enumerate(things) for b in things[:i]]
            assert min(gaps) > 0.05


@pytest.mark.parametrize("gripper", GRIPPERS)
@pytest.mark.parametrize("task", TASKS)
def test_everything_named_is_within_reach(task, gripper):
    for layout in layouts(task, gripper, 3, seeds=60):
        spots = [layout.positions[layout.target], *([layout.goal] if layout.goal is not None else [])]
        for x, y, _ in spots:
            assert solve((x, y, CUBE_SIZE / 2), 0.0, GRIPPERS[gripper]) is not None


@pytest.mark.parametrize("task", TASKS)
def test_another_object_of_the_same_scene_is_named(make, task):
    env = make(task, num_objects=3)
    env.reset(seed=5)
    before = env.unwrapped.backend.layout
    for color in before.colors:
        _, info = env.reset(seed=5, options={"target": color})
        layout = env.unwrapped.backend.layout
        assert layout.colors[layout.target] == color
        assert color in info["instruction"]
        assert layout.base != layout.target
        np.testing.assert_array_equal(layout.positions, before.positions)
        np.testing.assert_array_equal(layout.yaws, before.yaws)
    _, info = env.reset(seed=5, options={"instruction_template": TASKS[task].unseen_instruction_templates[0]})
    assert "{" not in info["instruction"]
    absent = next(color for color in COLORS if color not in before.colors)
    for options in (
        {"target": absent},
        {"instruction_template": "do it"},
        {"instruction_template": "the {color} {base} {thing}"},
        {"target": 3},
    ):
        with pytest.raises(OptionError):
            env.reset(seed=5, options=options)


@pytest.mark.parametrize("task", TASKS)
def test_templates_for_tests_are_not_those_for_training(task):
    trained = {*paraphrases(task), *TASKS[task].instruction_templates}
    assert len(trained) > 100
    assert not trained.intersection(TASKS[task].unseen_instruction_templates)
    fields = [field for field in ("{color}", "{base}") if field in TASKS[task].instruction_templates[0]]
    assert all(
        template.count(field) == 1
        for template in (*trained, *TASKS[task].unseen_instruction_templates)
        for field in fields
    )
