"""Domain randomization: what each level changes, and that a lower level restores it."""

import numpy as np
import pytest

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
