"""Domain randomization: what each level changes, and that a lower level restores it."""

import numpy as np
import pytest

from smolvla_gym.errors import OptionError
from smolvla_gym.parol6.inverse_kinematics import solve
from smolvla_gym.sim.distractors import DISTRACTORS
from smolvla_gym.sim.textures import TEXTURES

FIELDS = ("geom_rgba", "mat_rgba", "geom_friction", "light_diffuse", "light_pos", "light_dir", "cam_pos",
          "cam_quat")  # fmt: skip


def model_of(env):
    model = env.unwrapped.backend.world.model
    return {"ambient": model.vis.headlight.ambient.copy(), **{name: getattr(model, name).copy() for name in FIELDS}}


def resets(env, seeds):
    for seed in seeds:
        env.reset(seed=seed)
        yield env.unwrapped.backend.layout, model_of(env)


def changed(models, name):
    return any(not np.array_equal(models[0][name], model[name]) for model in models[1:])


@pytest.mark.parametrize("task", ["reach", "lift", "place", "stack", "push"])
def test_level_0_moves_nothing_but_still_draws_what_is_named(make, task):
    layouts, models = zip(*resets(make(cameras=(), task=task, randomization=0), range(12)), strict=True)
    for layout in layouts[1:]:
        np.testing.assert_array_equal(layout.positions, layouts[0].positions)
        np.testing.assert_array_equal(layout.yaws, layouts[0].yaws)
    assert len({layout.instruction for layout in layouts}) > 2
    assert not any(changed(models, name) for name in models[0] if name != "geom_rgba")


def test_level_1_moves_the_objects_and_nothing_else(make):
    layouts, models = zip(*resets(make(cameras=(), randomization=1), range(12)), strict=True)
    assert len({layout.positions.tobytes() for layout in layouts}) == 12
    assert len({layout.yaws.tobytes() for layout in layouts}) == 12
    assert not any(changed(models, name) for name in models[0] if name != "geom_rgba")
    shades = {
        color: {model["geom_rgba"][-3 + i].tobytes() for layout, model in zip(layouts, models, strict=True)
                for i, c in enumerate(layout.colors) if c == color}
        for color in ("red", "green", "blue", "yellow")
    }  # fmt: skip
    assert all(len(shade) <= 1 for shade in shades.values())


def test_level_2_changes_colours_lights_cameras_friction_and_delay(make):
    env = make(cameras=(), randomization=2)
    models, delays = [], set()
    for _, model in resets(env, range(12)):
        models.append(model)
        before = env.unwrapped.backend.world.joints
        start = np.append(before, 1.0).astype(np.float32)
        start[0] += 0.5
        env.step(start)
        delays.add(bool(np.array_equal(env.unwrapped.backend.world.joints, before)))
    for name in ("ambient", *FIELDS):
        assert changed(models, name), name
    assert delays == {True, False}
    spread = np.ptp([model["cam_pos"] for model in models], axis=0)
    assert 0 < spread.max() < 0.05


@pytest.mark.parametrize("task", ["reach", "lift", "push"])
def test_level_2_changes_the_sizes_of_the_objects_which_still_rest_on_the_table(make, task):
    env, sizes = make(cameras=(), task=task, randomization=2, num_objects=3), []
    for seed in range(10):
        env.reset(seed=seed)
        world, layout = env.unwrapped.backend.world, env.unwrapped.backend.layout
        sizes.append([world.sizes.scale(i) for i in range(3)])
        np.testing.assert_allclose(sizes[-1], layout.scales)
        for i in range(3):
            assert world.object_position(i)[2] == pytest.approx(world.half_height(i), abs=1e-6)
    assert 0.85 <= np.min(sizes) < 0.9
    assert 1.1 < np.max(sizes) <= 1.15
    plain = make(cameras=(), task=task, randomization=1)
    plain.reset(seed=0)
    assert [plain.unwrapped.backend.world.sizes.scale(i) for i in range(3)] == [1.0, 1.0, 1.0]


def test_level_2_gives_the_table_textures_and_puts_distractors_beside_the_objects(make):
    env, materials, counts = make(cameras=(), task="push", randomization=2, num_objects=3), set(), set()
    for seed in range(40):
        env.reset(seed=seed)
        world, layout = env.unwrapped.backend.world, env.unwrapped.backend.layout
        materials.add(int(world.model.geom_matid[world.model.geom("table_top").id]))
        there = [world.data.body(name).xpos for name in DISTRACTORS if world.data.body(name).xpos[2] > -0.1]
        counts.add(len(there))
        for place in there:
            things = [*layout.positions, layout.goal]
            assert min(np.linalg.norm(place[:2] - thing[:2]) for thing in things) > 0.08
        before = [world.data.body(name).xpos.copy() for name in DISTRACTORS]
        env.step(env.unwrapped.expert_action())
        for name, place in zip(DISTRACTORS, before, strict=True):
            np.testing.assert_allclose(world.data.body(name).xpos, place, atol=0.002)
    assert len(materials) == len(TEXTURES) + 1
    assert counts == {0, 1, 2}
    assert make(cameras=(), randomization=1).unwrapped.backend.world.distractors is None


def test_a_distractor_is_not_put_where_the_arm_begins(make):
    env = make(cameras=(), randomization=2)
    for seed in range(30):
        env.reset(seed=seed)
        world = env.unwrapped.backend.world
        low = solve((0.26, 0.03, 0.02), np.pi / 2, world.gripper)
        try:
            env.reset(seed=seed, options={"joints": low, "opening": 1.0})
        except OptionError:  # an object of the task is there
            continue
        bodies = world.model.geom_bodyid[world.data.contact.geom[: world.data.ncon]]
        distractors = {world.model.body(name).id for name in DISTRACTORS}
        assert all(0 in pair for pair in bodies.tolist() if distractors & set(pair))


def test_a_refused_start_leaves_the_sizes_of_the_present_episode(make):
    env, refused = make(cameras=(), randomization=2), 0
    world = env.unwrapped.backend.world
    low = solve((0.22, 0.0, 0.02), np.pi / 2, world.gripper)
    for seed in range(20):
        env.reset(seed=1)
        before = [world.sizes.scale(i) for i in range(3)]
        try:
            env.reset(seed=seed, options={"joints": low, "opening": 0.3})
        except OptionError:
            refused += 1
            assert [world.sizes.scale(i) for i in range(3)] == before
    assert refused > 0


def test_level_2_has_lens_and_sensor_in_the_image_and_the_same_ones_for_a_seed(make):
    env = make(task="reach", cameras=("wrist", "scene"), image_size=(64, 64), randomization=2)
    world = env.unwrapped.backend.world
    observed = []
    for _ in range(2):
        observation, _ = env.reset(seed=4)
        frames = [observation["pixels"]]
        for _ in range(3):
            frames.append(env.step(env.unwrapped.expert_action())[0]["pixels"])
        observed.append(frames)
    for first, second in zip(*observed, strict=True):
        for name, image in first.items():
            np.testing.assert_array_equal(image, second[name])
    with_effects, world.image_effects = world.observe().pixels, {}
    for name, image in world.observe().pixels.items():
        assert np.mean(image != with_effects[name]) > 0.3
    plain = make(task="reach", image_size=(64, 64), randomization=1)
    plain.reset(seed=4)
    assert plain.unwrapped.backend.world.image_effects == {}


def test_level_2_misplaces_the_joints_zero(make):
    errors = []
    for level in (1, 2):
        env = make(cameras=(), randomization=level)
        for seed in range(6):
            observation, _ = env.reset(seed=seed)
            world = env.unwrapped.backend.world
            errors.append(world.measured_joints - observation["agent_pos"][:6])
            for _ in range(30):
                observation, *_ = env.step(observation["agent_pos"])
            after = world.measured_joints - observation["agent_pos"][:6]
            np.testing.assert_allclose(after, errors[-1], atol=np.deg2rad(0.12))  # it sags a little
    assert np.abs(errors[:6]).max() < np.deg2rad(0.01)
    assert np.deg2rad(0.2) < np.abs(errors[6:]).max() < np.deg2rad(0.41)


def test_the_expert_knows_of_it(make):
    env = make(cameras=(), task="lift", randomization=2)
    for seed in range(3):
        env.reset(seed=seed)
        done = False
        while not done:
            *_, terminated, truncated, info = env.step(env.unwrapped.expert_action())
            done = terminated or truncated
        assert info["is_success"]


def test_images_change_with_the_level_and_come_back(make):
    env = make(task="reach", image_size=(64, 64), randomization=2)
    shown = [env.reset(seed=seed)[0]["pixels"]["wrist"] for seed in (1, 2, 1)]
    np.testing.assert_array_equal(shown[0], shown[2])
    assert np.mean(shown[0] != shown[1]) > 0.5  # not only where the objects are: lamps and table too
    plain = make(task="reach", image_size=(64, 64), randomization=1)
    shown = [plain.reset(seed=seed)[0]["pixels"]["wrist"] for seed in (1, 2)]
    assert np.mean(shown[0] != shown[1]) < 0.5


def test_objects_that_an_episode_does_not_use_are_out_of_sight(make):
    two, three = make(cameras=(), num_objects=2), make(cameras=(), num_objects=3)
    for env, count in ((two, 2), (three, 3)):
        for seed in range(5):
            env.reset(seed=seed)
            world = env.unwrapped.backend.world
            heights = [world.object_position(i)[2] for i in range(3)]
            assert sum(height > 0 for height in heights) == count == len(env.unwrapped.backend.layout.colors)
