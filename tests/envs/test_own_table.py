"""A table of one's own in the environments: objects, obstacles, cameras."""

import pickle

import gymnasium as gym
import numpy as np
import pytest

from smolvla_gym.errors import OptionError, UnknownNameError
from smolvla_gym.sim.own_table import read_table

TABLE = """
[table]
size = [0.9, 0.7]
center = [0.25, 0.05]
color = [0.2, 0.3, 0.4]
texture = "wood"
[[obstacles]]
name = "shelf"
center = [0.0, 0.30, 0.15]
size = [0.4, 0.1, 0.3]
[cameras.scene]
position = [0.7, 0.1, 0.5]
target = [0.2, 0.0, 0.0]
fovy = 45
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
[[objects]]
name = "ball"
shape = "sphere"
size = [0.03]
"""


TURN = np.array([1.4, 0, 0, 0, 0, 0])  # of J1, towards the shelf at y = 0.25 to 0.35


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.toml"
    path.write_text(TABLE)
    return path


def make(path, **options):
    return gym.make("PAROL6Sim-v0", **{"table": path, "cameras": (), **options}).unwrapped


def test_the_scene_is_that_of_the_file(path):
    env = make(path, cameras=("wrist", "scene"), image_size=(48, 64), privileged=True, num_objects=2)
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    assert observation["privileged"]["object_position"].shape == (3, 3)
    model = env.backend.world.model
    assert model.geom("table").size == pytest.approx([0.45, 0.35, 0.02])
    assert model.material("table").rgba[:3] == pytest.approx([0.2, 0.3, 0.4])
    assert model.camera("scene").pos == pytest.approx([0.7, 0.1, 0.5])
    assert any(noun in info["instruction"] for noun in ("red box", "blue can", "ball"))
    assert env.backend.world.num_objects == 3
    env.close()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_each_level_renders_and_repeats(path, level):
    images = []
    for _ in range(2):
        env = make(path, cameras=("scene",), image_size=(48, 64), randomization=level)
        env.reset(seed=1)
        for _ in range(3):
            observation = env.step(env.expert_action())[0]
        images.append(observation["pixels"]["scene"])
        env.close()
    assert np.array_equal(*images)
    assert images[0].std() > 5


def test_sizes_vary_at_level_two(path):
    env = make(path, randomization=2)
    scales = []
    for seed in range(4):
        env.reset(seed=seed)
        scales.append([env.backend.world.sizes.scale(i) for i in range(3)])
    assert np.ptp(scales, axis=0).min() > 0.01
    env.close()


def test_an_env_with_a_table_survives_a_pickle_trip(path):
    env = make(read_table(path))
    copy = pickle.loads(pickle.dumps(env))
    assert env.reset(seed=3)[1]["instruction"] == copy.reset(seed=3)[1]["instruction"]
    env.close(), copy.close()


def test_the_gate_keeps_the_arm_out_of_an_obstacle(path):
    env = make(path)
    env.reset(seed=0)
    start = env.backend.world.joints
    safety = []
    for _ in range(60):
        *_, info = env.step(np.append(start + TURN, 1.0))
        safety += info["safety"]
    assert any("shelf" in entry["where"] for entry in safety)
    assert env.backend.world.tool_position[1] < 0.25
    env.close()


def test_camera_poses_replace_those_of_the_file(path):
    pose = {"scene": {"position": np.array([0.6, 0.0, 0.4]), "target": (0.2, 0.0, 0.0)}}
    env = make(path, camera_poses=pose)
    assert env.backend.world.model.camera("scene").pos == pytest.approx([0.6, 0.0, 0.4])
    env.close()
    env = make(None, camera_poses=pose)
    env.reset(seed=0)
    assert env.backend.world.model.camera("scene").pos == pytest.approx([0.6, 0.0, 0.4])
    env.close()


@pytest.mark.parametrize("level", [1, 2])
def test_a_camera_that_was_moved_by_hand_stays_moved(level):
    env = make(None, randomization=level)
    env.reset(seed=0)
    model = env.backend.world.model
    still = model.camera("wrist").pos.copy()
    model.camera("scene").pos[:] = [0.5, 0.1, 0.6]
    for seed in range(3):
        env.reset(seed=seed)
        assert np.abs(model.camera("scene").pos - [0.5, 0.1, 0.6]).max() <= (0.015 if level == 2 else 0.0)
        assert np.abs(model.camera("wrist").pos - still).max() <= (0.004 if level == 2 else 0.0)
    env.close()


def test_a_higher_table_is_solid_for_the_gate_and_the_objects(tmp_path):
    text = TABLE.replace(
        "center = [0.25, 0.05]", "center = [0.60, 0.05]\nheight = 0.03\narea = [[0.20, 0.32], [-0.1, 0.1]]"
    )
    (tmp_path / "table.toml").write_text(text)
    env = make(tmp_path / "table.toml")
    env.reset(seed=0)
    world = env.backend.world
    for _ in range(20):
        env.step(env.expert_action())
    for i in range(3):
        assert world.object_position(i)[2] == pytest.approx(0.03 + world.half_height(i), abs=2e-3)
    terminated = truncated = False
    while not (terminated or truncated):
        *_, terminated, truncated, info = env.step(env.expert_action())
        truncated |= env.backend.world.data.time > 12
    assert info["is_success"]
    env.close()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"table": "missing.toml"}, OptionError),
        ({"table": 3}, OptionError),
        ({"task": "reach"}, OptionError),
        ({"num_objects": 4}, OptionError),
        ({"num_objects": 0}, OptionError),
        ({"camera_poses": {"left": {}}}, UnknownNameError),
        ({"camera_poses": {"scene": {"pos": (0, 0, 0)}}}, UnknownNameError),
        ({"camera_poses": {"scene": {"position": (0, 0)}}}, OptionError),
        ({"camera_poses": "scene"}, OptionError),
    ],
)
def test_what_does_not_fit_is_refused(path, options, error):
    given = {"table": path} | options
    with pytest.raises(error):
        make(given.pop("table"), **given)


def add_lamp(spec):
    spec.worldbody.add_light(name="lamp", pos=[0, 0, 2])


def test_a_function_of_the_caller_changes_the_scene(path):
    env = pickle.loads(pickle.dumps(make(path, edit_scene=add_lamp)))
    assert env.backend.world.model.light("lamp").pos[2] == 2
    env.close()
    with pytest.raises(OptionError):
        make(path, edit_scene="module:function")


def test_the_twin_has_the_table_and_its_obstacles(path):
    env = gym.make(
        "PAROL6Real-v0", port="twin", realtime=False, cameras=(), table=path, log=None, twin_options={"homed": True}
    ).unwrapped
    _, info = env.reset(seed=0)
    assert any(noun in info["instruction"] for noun in ("red box", "blue can", "ball"))
    assert env.backend.stage.world.num_objects == 3
    start = env.backend.commanded
    safety = []
    for _ in range(60):
        *_, info = env.step(np.append(start + TURN, 1.0))
        safety += info["safety"]
    assert any("shelf" in entry["where"] for entry in safety)
    env.close()
