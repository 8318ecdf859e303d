"""The contract of PAROL6Sim-v0, for every task and a spread of options."""

import pickle
import re
import shutil
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, env_render_passive_checker

import smolvla_gym
import smolvla_gym.envs
from smolvla_gym.envs import PAROL6Env
from smolvla_gym.errors import ActionError, OptionError, SmolVLAGymError, UnknownNameError
from smolvla_gym.parol6 import GRIPPERS, JOINT_LOWER, JOINT_UPPER, rad_from_steps, steps_from_rad
from smolvla_gym.sim.world import start_pose
from smolvla_gym.tasks import TASKS
from tests.envs.episodes import episode, leaves

SMALL = {"image_size": (64, 64)}
OPTIONS = [
    {"cameras": ()},
    {"cameras": ("wrist", "scene"), "image_size": (48, 64), "depth": True},
    {"cameras": "scene", "image_size": [64, 48], "render_mode": "rgb_array", "render_quality": "balanced"},
    {"gripper": "pneumatic", "randomization": 2, "num_objects": 3, **SMALL},
    {"control_hz": 50, "randomization": 0, "reward": "sparse", "render_quality": "high", **SMALL},
]
NORMALISED = (
    "For Box action spaces, we recommend using a symmetric and normalized space (range=[-1, 1] or [0, 1]). "
    "See https://stable-baselines3.readthedocs.io/en/master/guide/rl_tips.html for more information."
)


def checked(env):
    """What Gymnasium's checker warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # A window needs a display: the test below has one.
        check_env(env.unwrapped, skip_render_check=True)
        if env.render_mode is not None:
            env_render_passive_checker(env.unwrapped)
    return [re.sub(r"\x1b\[\d*m|WARN: ", "", str(warning.message)) for warning in caught]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options))
@pytest.mark.parametrize("task", TASKS)
def test_gymnasiums_checker_finds_nothing_but_that_actions_are_radians(make, task, options):
    assert checked(make(task=task, **options)) == [NORMALISED]


def test_so_it_does_with_a_window(tmp_path):
    """The checker in full, which also opens the window of the mode human."""
    if shutil.which("xvfb-run") is None:
        pytest.skip("needs xvfb-run")
    program = """
import sys, warnings, gymnasium as gym, smolvla_gym
from gymnasium.utils.env_checker import check_env, env_render_passive_checker
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    check_env(gym.make("PAROL6Sim-v0", image_size=(32, 32)).unwrapped)
print(len(caught), "normalized" in str(caught[0].message))
"""
    command = ["xvfb-run", "-a", sys.executable, "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (run.returncode, run.stdout.split()) == (0, ["1", "True"]), run.stderr


def test_normalised_actions_are_one_wrapper_away(make):
    env = gym.wrappers.RescaleAction(make(cameras=()), np.float32(-1), np.float32(1))
    assert np.all(env.action_space.low == -1)
    env.reset(seed=0)
    env.step(np.zeros(7, np.float32))
    middle = (JOINT_LOWER + JOINT_UPPER) / 2
    # Towards the middle of every joint's range, and half open.
    goal = np.sign(middle - start_pose(GRIPPERS["ssg48"]))
    before = env.unwrapped.backend.commanded
    env.step(np.zeros(7, np.float32))
    moved = env.unwrapped.backend.commanded - before
    assert np.all(moved * goal >= 0)


def test_spaces_are_those_of_the_contract(make):
    env = make(cameras=("wrist", "scene"), depth=True)
    assert env.action_space.shape == (7,)
    assert env.action_space.dtype == np.float32
    np.testing.assert_allclose(env.action_space.low, [*JOINT_LOWER, 0], rtol=1e-6)
    np.testing.assert_allclose(env.action_space.high, [*JOINT_UPPER, 1], rtol=1e-6)
    spaces = {path: (space.shape, space.dtype) for path, space in leaves_of_space(env.observation_space)}
    assert spaces == {
        "/agent_pos": ((7,), np.float32),
        "/pixels/wrist": ((256, 256, 3), np.uint8),
        "/pixels/scene": ((256, 256, 3), np.uint8),
        "/depth/wrist": ((256, 256, 1), np.uint16),
        "/depth/scene": ((256, 256, 1), np.uint16),
    }
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)


def leaves_of_space(space, path=""):
    if isinstance(space, gym.spaces.Dict):
        for key, inner in space.items():
            yield from leaves_of_space(inner, f"{path}/{key}")
    else:
        yield path, space


def test_defaults_are_one_wrist_camera_at_256_and_30_hz(make):
    env = make()
    observation, info = env.reset(seed=0)
    assert {path for path, _ in leaves(observation)} == {"/agent_pos", "/pixels/wrist"}
    assert observation["pixels"]["wrist"].shape == (256, 256, 3)
    assert env.unwrapped.metadata["render_fps"] == 30
    assert env.unwrapped.task == "lift"
    assert env.unwrapped.task_description == info["instruction"]
    assert env.render_mode is None
    assert isinstance(env.unwrapped, PAROL6Env)


def test_info_tells_what_the_contract_promises_at_reset_and_step(make):
    env = make(cameras=())
    _, at_reset = env.reset(seed=0)
    _, _, _, _, at_step = env.step(env.action_space.high)
    keys = {"instruction", "is_success", "safety", "shaping", "fault", "timing", "frame_age_s", "state_age_s"}
    for info in (at_reset, at_step):
        assert keys <= set(info)
        assert info["fault"] is None
        assert info["is_success"] is False
        assert info["frame_age_s"] == info["state_age_s"] == 0.0
    assert at_reset["safety"] == ()
    assert at_reset["shaping"] == {}
    assert at_step["safety"] == ()
    assert at_step["shaping"].keys() == {"speed", "acceleration"}
    assert at_step["timing"]["step"] > 0


def test_agent_pos_is_what_the_board_reports(make):
    env = make(cameras=())
    observation, _ = env.reset(seed=0)
    start = start_pose(GRIPPERS["ssg48"])
    np.testing.assert_allclose(observation["agent_pos"], [*rad_from_steps(steps_from_rad(start)), 1.0], atol=1e-6)
    target = np.append(start + np.array([0.3, 0.1, -0.1, 0.2, 0.1, 0.4]), 0.5).astype(np.float32)
    for _ in range(90):
        observation, *_ = env.step(target)
    np.testing.assert_allclose(observation["agent_pos"][:6], target[:6], atol=3e-4)
    assert observation["agent_pos"][6] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("control_hz", [5, 30, 29.97, 100.0])
def test_a_step_lasts_exactly_one_period_of_simulated_time(make, control_hz):
    env = make(cameras=(), control_hz=control_hz)
    assert env.unwrapped.metadata["render_fps"] == control_hz
    env.reset(seed=0)
    data = env.unwrapped.backend.world.data
    for n in range(1, 40):
        env.step(env.action_space.sample())
        assert data.time == pytest.approx(n / control_hz, abs=1e-9)


def test_a_bad_action_moves_nothing_and_takes_no_time(make):
    env = make(cameras=())
    env.reset(seed=0)
    env.step(env.action_space.high)
    data = env.unwrapped.backend.world.data
    time, qpos = data.time, data.qpos.copy()
    for action, name in ((np.full(7, np.nan, np.float32), "joint_1=nan"), (np.zeros(6, np.float32), r"\(6,\)"),
                         (np.zeros(7, int), "int64")):  # fmt: skip
        with pytest.raises(ActionError, match=name):
            env.unwrapped.step(action)
        assert data.time == time
        np.testing.assert_array_equal(data.qpos, qpos)
    env.step(env.action_space.high)  # and it goes on


def test_clamped_targets_are_in_info(make):
    env = make(cameras=())
    env.reset(seed=0)
    action = np.append(start_pose(GRIPPERS["ssg48"]), 2.0).astype(np.float32)
    action[0] = 9.0
    *_, info = env.step(action)
    assert [(each["rule"], each["where"]) for each in info["safety"]] == [
        ("position", "joint_1"), ("position", "gripper")
    ]  # fmt: skip
    assert f"{JOINT_UPPER[0]:.4g}" in info["safety"][0]["why"]


@pytest.mark.parametrize(
    "joints", [[0.3, -1.5, 3.2, 0.1, -0.4, 2.0], tuple(rad_from_steps([0, -32000, 57905, 0, 0, 32000]))]
)
def test_an_episode_can_begin_anywhere(make, joints):
    env = make(cameras=())
    observation, _ = env.reset(seed=0, options={"joints": joints, "opening": 0.25})
    np.testing.assert_allclose(observation["agent_pos"], [*joints, 0.25], atol=3e-4)
    # The same action for a second: the arm starts at rest from there.
    for _ in range(30):
        observation, *_ = env.step(np.append(joints, 0.25).astype(np.float32))
    np.testing.assert_allclose(observation["agent_pos"], [*joints, 0.25], atol=0.02)


@pytest.mark.parametrize("edge", ["low", "high"])
def test_it_can_begin_wherever_an_action_can_lead(make, edge):
    env = make(cameras=())
    joints = getattr(env.action_space, edge)[:6]
    observation, _ = env.reset(seed=0, options={"joints": joints})
    np.testing.assert_allclose(observation["agent_pos"][:6], joints, atol=3e-4)
    again, _ = env.reset(seed=0, options={"joints": observation["agent_pos"][:6]})
    np.testing.assert_array_equal(again["agent_pos"], observation["agent_pos"])


@pytest.mark.parametrize(
    "options",
    [{"joints": np.zeros(6)}, {"joints": [0.0] * 5}, {"joints": "home"}, {"joints": None}, {"joints": [np.nan] * 6},
     {"opening": 1.1}, {"opening": np.nan}, {"opening": "open"}, {"opening": None}],
)  # fmt: skip
def test_a_start_that_cannot_be_is_refused_and_the_episode_goes_on(make, options):
    env, twin = make(cameras=()), make(cameras=())
    for one in (env, twin):
        one.reset(seed=3)
        one.step(one.action_space.low)
    with pytest.raises(OptionError, match=next(iter(options))):
        env.reset(seed=4, options=options)
    np.testing.assert_array_equal(env.step(env.action_space.high)[0]["agent_pos"],
                                  twin.step(twin.action_space.high)[0]["agent_pos"])  # fmt: skip


def test_an_air_gripper_is_open_or_closed(make):
    env = make(gripper="pneumatic", cameras=())
    observation, _ = env.reset(seed=0)
    pose = observation["agent_pos"].copy()
    seen = []
    for opening in (0.49, 0.51, 0.0, 1.0):
        pose[6] = opening
        for _ in range(10):
            observation, *_ = env.step(pose)
            assert observation["agent_pos"][6] in (0.0, 1.0)
        seen.append(float(observation["agent_pos"][6]))
    assert seen == [0.0, 1.0, 0.0, 1.0]


BAD = [
    ({"task": "lfit"}, UnknownNameError, "Did you mean 'lift'.*reach, lift, place, stack, push"),
    ({"task": None}, UnknownNameError, "reach, lift, place, stack, push"),
    ({"gripper": "ssg-48"}, UnknownNameError, "Did you mean 'ssg48'.*ssg48, pneumatic"),
    ({"cameras": ("wirst",)}, UnknownNameError, "Did you mean 'wrist'.*wrist, scene"),
    ({"cameras": ("wrist", 3)}, UnknownNameError, "wrist, scene"),
    ({"cameras": None}, SmolVLAGymError, "wrist.*scene"),
    ({"cameras": 5}, SmolVLAGymError, "wrist.*scene"),
    ({"image_size": 256}, OptionError, "height, width"),
    ({"image_size": (8, 256)}, OptionError, "16 to 1280"),
    ({"image_size": (256.0, 256)}, OptionError, "16 to 1280"),
    ({"image_size": "256x256"}, OptionError, "height, width"),
    ({"image_size": (256, 256, 3)}, OptionError, "height, width"),
    ({"depth": "yes"}, OptionError, "depth='yes'.*True or False"),
    ({"control_hz": 0}, OptionError, "5 to 100"),
    ({"control_hz": 1000}, OptionError, "5 to 100"),
    ({"control_hz": float("nan")}, OptionError, "5 to 100"),
    ({"control_hz": "30"}, OptionError, "5 to 100"),
    ({"randomization": 3}, OptionError, "one of 0, 1, 2"),
    ({"randomization": True}, OptionError, "one of 0, 1, 2"),
    ({"randomization": -1}, OptionError, "one of 0, 1, 2"),
    ({"num_objects": 4}, OptionError, "one of 2, 3"),
    ({"num_objects": 1}, OptionError, "one of 2, 3"),
    ({"reward": "denes"}, OptionError, "'dense', 'sparse'"),
    ({"render_quality": "low"}, OptionError, "'fast', 'balanced', 'high'"),
]


@pytest.mark.parametrize("name", [smolvla_gym.SIM_ID, smolvla_gym.REAL_ID])
@pytest.mark.parametrize(
    ("options", "kind", "message"), BAD, ids=lambda value: str(value) if isinstance(value, dict) else ""
)
def test_a_bad_option_is_refused_with_what_would_do(name, options, kind, message):
    """Also by the real arm, before any device is opened."""
    with pytest.raises(kind, match=message) as error:
        gym.make(name, **options)
    assert isinstance(error.value, ValueError)
    assert type(pickle.loads(pickle.dumps(error.value))) is type(error.value)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_an_unknown_render_mode_is_refused():
    with pytest.raises(OptionError, match="'rgb_array', 'human'"):
        smolvla_gym.envs.make_sim_env(render_mode="ansi")


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match="colour"):
        gym.make(smolvla_gym.SIM_ID, colour="red")


def test_the_spec_survives_json(make):
    env = make(task="stack", cameras=("scene",), image_size=(32, 48), control_hz=20, randomization=2)
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    again = gym.make(spec)
    try:
        assert again.observation_space == env.observation_space
        assert again.action_space == env.action_space
        assert again.unwrapped.task == "stack"
        assert episode(again, 5, steps=5) == episode(env, 5, steps=5)
        assert gym.spec(smolvla_gym.SIM_ID).max_episode_steps == 450
        assert again.spec.max_episode_steps == env.spec.max_episode_steps == 300  # 15 s at 20 Hz
    finally:
        again.close()


def test_a_pickle_carries_the_recipe(make):
    env = make(task="push", cameras=("wrist",), image_size=(32, 32), depth=True, render_mode="rgb_array")
    expected = episode(env, 1, steps=5)
    again = pickle.loads(pickle.dumps(env))
    try:
        assert again.spec == env.spec
        assert again.render_mode == "rgb_array"
        assert again.observation_space == env.observation_space
        assert episode(again, 1, steps=5) == expected
    finally:
        again.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vectors_of_envs_do_what_single_ones_do(make, mode):
    options = {"task": "reach", "image_size": (32, 32)}
    single = make(**options)
    # This process may have drawn already, and OpenGL does not survive a fork.
    workers = {"context": "spawn"} if mode == "async" else {}
    vector = gym.make_vec(smolvla_gym.SIM_ID, num_envs=2, vectorization_mode=mode, vector_kwargs=workers, **options)
    try:
        first, _ = vector.reset(seed=[7, 8])
        actions = [np.stack([single.action_space.low, single.action_space.high])] * 3
        last = [vector.step(action) for action in actions][-1]
    finally:
        vector.close()
    for i, seed in enumerate((7, 8)):
        observation, _ = single.reset(seed=seed)
        np.testing.assert_array_equal(observation["pixels"]["wrist"], first["pixels"]["wrist"][i])
        for action in actions:
            observation, reward, *_ = single.step(action[i])
        np.testing.assert_array_equal(observation["pixels"]["wrist"], last[0]["pixels"]["wrist"][i])
        np.testing.assert_array_equal(observation["agent_pos"], last[0]["agent_pos"][i])
        assert reward == last[1][i]


def test_an_episode_ends_in_time(make):
    env = make(cameras=(), task="reach", max_episode_steps=10)
    observation, _ = env.reset(seed=0)
    still = observation["agent_pos"]
    ends = [env.step(still)[2:4] for _ in range(10)]
    assert ends == [(False, False)] * 9 + [(False, True)]


def test_order_is_enforced_and_a_closed_env_says_so(make):
    env = make(cameras=())
    for one in (env, env.unwrapped):
        with pytest.raises(gym.error.ResetNeeded, match="reset"):
            one.step(env.action_space.low)
    env.reset(seed=0)
    env.close()
    env.close()
    for call in (lambda: env.unwrapped.step(env.action_space.low), lambda: env.unwrapped.reset(), lambda: env.reset()):
        with pytest.raises(gym.error.ClosedEnvironmentError, match="closed"):
            call()


def test_no_instruction_before_the_first_reset(make):
    with pytest.raises(RuntimeError, match="reset"):
        _ = make(cameras=()).unwrapped.task_description


def test_sparse_and_dense_rewards(make):
    dense, sparse = make(cameras=(), task="reach"), make(cameras=(), task="reach", reward="sparse")
    for env in (dense, sparse):
        env.reset(seed=0)
    rewards = []
    while True:
        action = dense.unwrapped.expert_action()
        *_, close, success, _, _ = dense.step(action)
        _, point, same, _, _ = sparse.step(action)
        rewards.append(close)
        assert success == same
        assert point == float(success)
        if success:
            break
    assert all(0 <= reward <= 1 for reward in rewards)
    assert rewards[-1] == 1.0
    assert rewards[len(rewards) // 2] > rewards[0]
