"""Tasks with objects of one's own: instructions, layouts, grasps and experts."""

import gymnasium as gym
import numpy as np
import pytest

from smolvla_gym.errors import OptionError
from smolvla_gym.sim.own_table import read_table
from smolvla_gym.tasks.own_table import OWN_TASKS, own_task
from smolvla_gym.tasks.own_table.grasps import JAWS, find_grasps
from smolvla_gym.tasks.own_table.placing import find_places

TABLE = """
[[objects]]
name = "box"
shape = "box"
size = [0.06, 0.03, 0.02]
color = "red"
[[objects]]
name = "can"
shape = "cylinder"
size = [0.03, 0.05]
color = "blue"
nouns = ["can", "tin"]
[[objects]]
name = "small can"
shape = "cylinder"
size = [0.026, 0.03]
adjectives = ["small"]
nouns = ["can"]
[[objects]]
name = "ball"
shape = "sphere"
size = [0.03]
[[objects]]
name = "pen"
shape = "capsule"
size = [0.016, 0.08]
rotation = [90, 0, 0]
[[objects]]
name = "brick"
shape = "box"
size = [0.05, 0.025, 0.03]
[[objects]]
name = "plate"
shape = "box"
size = [0.04, 0.04, 0.012]
[[objects]]
name = "post"
shape = "box"
size = [0.02, 0.02, 0.08]
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.toml"
    path.write_text(TABLE)
    return read_table(path)


def play(env, seed, **options):
    """Run an episode of the expert; return whether it succeeded."""
    env.reset(seed=seed, options=options)
    while True:
        *_, terminated, truncated, info = env.step(env.unwrapped.expert_action())
        if terminated or truncated:
            return info["is_success"]


@pytest.mark.parametrize("task", sorted(OWN_TASKS))
def test_the_expert_succeeds(table, task):
    # Among eight objects there is hardly a free way to push one along.
    env = gym.make("PAROL6Sim-v0", task=task, table=table, num_objects=3 if task == "push" else 8, cameras=())
    assert sum(play(env, seed) for seed in range(4)) >= 3
    env.close()


def test_the_expert_lifts_each_object(table):
    env = gym.make("PAROL6Sim-v0", task="lift", table=table, num_objects=8, cameras=())
    lifted = [play(env, 10 + i, target=thing.name) for i, thing in enumerate(table.objects)]
    assert sum(lifted) >= 7
    env.close()


def test_the_expert_works_at_level_two(table):
    env = gym.make("PAROL6Sim-v0", task="place", table=table, num_objects=3, randomization=2, cameras=())
    assert sum(play(env, seed) for seed in range(4)) >= 3
    env.close()


def test_the_same_seed_gives_the_same_scene(table):
    task = own_task("place", table)
    first, second = (task.layout(np.random.default_rng(5), "ssg48", 4, 2) for _ in range(2))
    assert first.instruction == second.instruction
    assert np.array_equal(first.positions, second.positions)
    assert len(first.present) == 4
    assert first.target in first.present


def test_a_layout_keeps_objects_apart_and_parks_the_others(table):
    task = own_task("lift", table)
    for seed in range(20):
        layout = task.layout(np.random.default_rng(seed), "ssg48", 5, 1)
        for i in layout.present:
            for j in layout.present:
                radii = table.objects[i].radius + table.objects[j].radius
                assert i == j or np.linalg.norm(layout.positions[i, :2] - layout.positions[j, :2]) > radii + 0.01
        parked = [i for i in range(8) if i not in layout.present]
        assert (layout.positions[parked, 2] < -0.5).all()


def test_instructions_have_the_nouns_and_adjectives_of_the_file(table):
    task = own_task("lift", table)
    said = {task.layout(np.random.default_rng(seed), "ssg48", 8, 1).instruction for seed in range(200)}
    assert {"pick up the red box", "lift the blue tin", "grab the small can", "take the pen"} <= said


@pytest.mark.parametrize(
    ("sentence", "name"),
    [
        ("pick up the blue can", "can"),
        ("Pick up the SMALL CAN please", "small can"),
        ("raise the tin", "can"),
        ("{the} box, up!", "box"),
    ],
)
def test_an_instruction_names_its_object(table, sentence, name):
    task = own_task("lift", table)
    layout = task.instructed(task.layout(np.random.default_rng(0), "ssg48", 8, 1), sentence)
    assert layout.colors[layout.target] == name
    assert layout.instruction == sentence
    assert layout.instruction_template.format(object=layout.phrases[layout.target]) == sentence


def test_an_instruction_that_does_not_fit_is_refused(table):
    lift, stack = own_task("lift", table), own_task("stack", table)
    layout = lift.layout(np.random.default_rng(0), "ssg48", 2, 1)
    absent = next(thing.name for i, thing in enumerate(table.objects) if i not in layout.present)
    for sentence in ("put the pen on the brick", f"lift the {absent}"):
        with pytest.raises(OptionError):
            lift.instructed(layout, sentence)
    with pytest.raises(OptionError):
        stack.instructed(stack.layout(np.random.default_rng(0), "ssg48", 8, 1), "stack the brick")
    assert lift.instructed(layout, "do it").target == layout.target
    for options in ({"target": absent}, {"target": "cube"}, {"instruction_template": "lift the {color} cube"}):
        with pytest.raises(OptionError):
            lift.with_instruction(layout, **options)
    other = next(i for i in layout.present if i != layout.target)
    assert lift.with_instruction(layout, target=table.objects[other].name).target == other
    assert lift.another(layout) == table.objects[other].name


def test_only_what_has_a_flat_top_carries_a_stack(table):
    task = own_task("stack", table)
    for seed in range(40):
        layout = task.layout(np.random.default_rng(seed), "ssg48", 3, 1)
        assert {layout.target, layout.base} <= set(layout.present)
        assert table.objects[layout.base].name not in ("ball", "pen")


def test_a_task_without_own_objects_is_refused(table):
    for name in ("reach", "belt", "juggle"):
        with pytest.raises(OptionError) as caught:
            own_task(name, table)
        assert caught.value.option == "task"


def test_objects_without_room_are_refused(table):
    def nowhere(place, radius):
        return False

    area = ((0.12, 0.32), (-0.13, 0.13))
    assert find_places(np.random.default_rng(0), area, [0.02], nowhere) is None
    assert find_places(np.random.default_rng(0), area, [0.1] * 4, lambda *_: True) is None


def box_points(*edges, pitch=0.0015):
    axes = [np.arange(-0.5 * edge + 0.5 * pitch, 0.5 * edge, pitch) for edge in edges]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def test_a_grasp_is_across_the_narrow_side_and_near_the_middle():
    found = find_grasps(box_points(0.06, 0.03, 0.02), 0.0015, JAWS["ssg48"], np.zeros(3))
    assert abs(np.sin(found.yaws[0])) == pytest.approx(1.0)  # the jaws travel along y
    assert found.widths[0] == pytest.approx(0.03, abs=0.002)
    assert np.linalg.norm(found.points[0, :2]) < 0.003
    assert (np.diff(found.costs) >= 0).all()


def test_nothing_wider_than_the_jaws_is_grasped():
    assert not len(find_grasps(box_points(0.06, 0.06, 0.03), 0.0015, JAWS["ssg48"], np.zeros(3)).points)
    narrow = find_grasps(box_points(0.015, 0.015, 0.03), 0.0015, JAWS["pneumatic"], np.zeros(3))
    assert not len(narrow.points)  # its jaws stop 25 mm apart


def test_the_rim_of_a_wide_bowl_is_grasped():
    points = box_points(0.08, 0.08, 0.03)
    bowl = points[(np.abs(points[:, :2]).max(axis=1) > 0.036) | (points[:, 2] < -0.012)]
    found = find_grasps(bowl, 0.0015, JAWS["ssg48"], np.zeros(3))
    assert found.widths[0] < 0.01
    assert found.points[0, 2] - JAWS["ssg48"].below > -0.012  # the fingertips end above its floor


def test_tall_things_stay_clear_of_the_palm():
    found = find_grasps(box_points(0.02, 0.02, 0.10, pitch=0.002), 0.002, JAWS["ssg48"], np.zeros(3))
    assert (found.points[:, 2] + JAWS["ssg48"].palm >= 0.05 - 1e-6).all()
