"""PAROL6Real-v0 on its twin keeps the contract of PAROL6Sim-v0, and moves as that does."""

from __future__ import annotations

import pickle
import re
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import smolvla_gym
from smolvla_gym.errors import NotHomedError, OptionError, SmolVLAGymError
from smolvla_gym.parol6 import GRIPPERS, HOME, JOINT_LOWER, JOINT_UPPER
from smolvla_gym.sim.world import start_pose
from tests.envs.episodes import episode
from tests.envs.twin_rig import QUICK, SOUND, TARGET, Tap, make_twin

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

SMALL = {"cameras": ("wrist",), "image_size": (48, 48)}


@pytest.fixture
def make():
    envs = []

    def build(**options):
        envs.append(make_twin(**options))
        return envs[-1]

    yield build
    for env in envs:
        env.close()


@pytest.fixture
def pair(make):
    """The env of the simulation and that of the twin, with the same options."""
    sims = []

    def build(realtime=False, twin_options=SOUND, **options):
        sims.append(gym.make(smolvla_gym.SIM_ID, **{"cameras": (), **options}))
        return sims[-1], make(realtime=realtime, twin_options=twin_options, **options)

    yield build
    for env in sims:
        env.close()


# -- the contract ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cameras": ("wrist", "scene"), "depth": True, "image_size": (48, 64)},
        {"gripper": "pneumatic", "task": "stack", "control_hz": 50, "cameras": ("scene",)},
        {"task": "reach", "render_mode": "rgb_array"},
    ],
    ids=str,
)
def test_both_ids_have_the_same_spaces(pair, options):
    sim, twin = pair(**options)
    assert sim.observation_space == twin.observation_space
    assert sim.action_space == twin.action_space
    for name in ("task", "control_hz", "gripper"):
        assert getattr(sim.unwrapped, name) == getattr(twin.unwrapped, name)
    assert sim.metadata == twin.metadata
    assert sim.spec.max_episode_steps == twin.spec.max_episode_steps


def test_gymnasiums_checker_finds_nothing_but_that_actions_are_radians(make):
    env = make(**SMALL, depth=True, render_mode="rgb_array")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped, skip_render_check=True)
    (warning,) = caught
    assert "symmetric and normalized" in str(warning.message)
    assert env.unwrapped.render().shape == (480, 640, 3)


def test_info(make):
    env = make(**SMALL)
    _, first = env.reset(seed=0)
    _, _, _, _, then = env.step(np.array([*HOME, 1.0], np.float32))
    types = {"instruction": str, "is_success": bool, "safety": tuple, "shaping": dict, "fault": type(None),
             "timing": dict, "frame_age_s": float, "state_age_s": float}  # fmt: skip
    for info in (first, then):
        assert {key: type(value) for key, value in info.items()} == types
        assert 0.0 <= info["frame_age_s"] <= 1 / 30
        assert 0.0 <= info["state_age_s"] <= 0.011
    assert env.unwrapped.task_description == then["instruction"]
    assert first["safety"] == then["safety"] == ()
    assert first["shaping"] == {}
    assert then["shaping"].keys() == {"speed", "acceleration"}
    assert then["timing"]["step"] == pytest.approx(1 / 30)


# -- the same as the simulation ----------------------------------------------------------------------------------------


def actions(kind: str, start: np.ndarray, seed: int, count: int = 60) -> list[np.ndarray]:
    rng, low, high = np.random.default_rng(seed), np.append(JOINT_LOWER, 0.0), np.append(JOINT_UPPER, 1.0)
    base = action = np.append(start, 1.0)
    speed, path = np.zeros(7), []
    for k in range(count):
        if kind == "smooth":
            speed = 0.9 * speed + rng.normal(0.0, 0.006, 7)
            action = action + speed
        elif kind == "jumps" and k % 10 == 0:
            action = base + rng.uniform(-0.6, 0.6, 7)
        elif kind == "alternation":
            action = base + (-1) ** k * np.array([0.3, 0.1, 0.1, 0.3, 0.3, 0.3, 0.0])
        action = np.clip(action, low, high)
        path.append(action.astype(np.float32))
    return path


def degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.rad2deg(np.abs(a - b).max()))


@pytest.mark.parametrize("kind", ["smooth", "jumps", "alternation"])
@pytest.mark.parametrize("seed", [0, 1])
def test_joints_go_the_same_way(pair, kind, seed):
    sim, twin = pair(task="reach" if seed else "lift")
    tap = Tap(twin)
    (a, info_a), (b, info_b) = sim.reset(seed=seed), twin.reset(seed=seed)
    assert info_a["instruction"] == info_b["instruction"]
    assert degrees(a["agent_pos"][:6], b["agent_pos"][:6]) < 0.02
    travelled = 0.0
    for action in actions(kind, start_pose(GRIPPERS["ssg48"]), seed):
        before = a["agent_pos"]
        (a, reward_a, done_a, _, info_a), (b, reward_b, done_b, _, info_b) = sim.step(action), twin.step(action)
        assert degrees(a["agent_pos"][:6], b["agent_pos"][:6]) < 0.25
        assert degrees(sim.unwrapped.backend.world.measured_joints, tap.twin.joints) < 0.1
        assert reward_a == pytest.approx(reward_b, abs=2e-3)
        assert (done_a, info_a["is_success"]) == (done_b, info_b["is_success"])
        assert info_a["safety"] == info_b["safety"] == ()
        travelled += degrees(a["agent_pos"][:6], before[:6])
    assert travelled > 10.0
    tap.check_limits()


def differences(a, b):
    """Differences of two images: the mean in grey levels, and the share of pixels that differ much."""
    gap = np.abs(a.astype(int) - b)
    return gap.mean(), (gap.max(axis=2) > 40).mean()


def test_the_expert_sees_and_does_the_same(pair):
    sim, twin = pair(cameras=("wrist", "scene"), depth=True, image_size=(128, 128))
    sim.reset(seed=3), twin.reset(seed=3)
    means, shifted, seen = [], [], {}
    for step in range(300):
        action = sim.unwrapped.expert_action()
        np.testing.assert_allclose(twin.unwrapped.expert_action(), action, atol=0.02)
        (a, reward_a, done_a, _, _), (b, reward_b, done_b, _, _) = sim.step(action), twin.step(action)
        assert degrees(a["agent_pos"][:6], b["agent_pos"][:6]) < 0.25
        assert reward_a == pytest.approx(reward_b, abs=0.01)
        for camera in ("wrist", "scene") if step % 3 == 0 else ():
            mean, other = differences(a["pixels"][camera], b["pixels"][camera])
            assert (mean < 2.0) & (other < 0.03)
            means.append(mean)
            shifted.append(differences(a["pixels"][camera][:, 1:], b["pixels"][camera][:, :-1])[0])
        for camera, error in (("wrist", 2), ("scene", 10)):  # the scene's camera counts whole mm
            near, virtual = a["depth"][camera].astype(int), b["depth"][camera].astype(int)
            both = (near > 0) & (virtual > 0)
            assert ((near > 0) != (virtual > 0)).mean() < 0.02
            assert not both.any() or np.median(np.abs(near - virtual)[both]) <= error
            seen[camera] = max(seen.get(camera, 0.0), both.mean())
        if done_a or done_b:
            break
    assert (done_a, done_b) == (True, True)
    assert min(seen.values()) > 0.5  # neither is blind
    assert np.mean(means) < 1.2
    assert np.mean(means) < 0.7 * np.mean(shifted)  # the view is right to less than a pixel


def test_noise_is_all_that_noise_adds(make):
    options = {"cameras": ("wrist",), "image_size": (480, 480)}
    quiet, noisy = (make(**options, twin_options={"homed": True, "noise": noise}) for noise in (0.0, 3.0))
    (a, _), (b, _) = quiet.reset(seed=0), noisy.reset(seed=0)
    np.testing.assert_array_equal(a["agent_pos"], b["agent_pos"])
    for _ in range(3):
        gap = b["pixels"]["wrist"].astype(int) - a["pixels"]["wrist"]
        inner = gap[(a["pixels"]["wrist"] > 20) & (a["pixels"]["wrist"] < 235)]
        assert abs(inner.mean()) < 0.1
        # Cutting the view out and scaling it averages over neighbours.
        assert 0.7 < inner.std() < 3.1
        action = np.array([*HOME, 1.0], np.float32)
        a, b = quiet.step(action)[0], noisy.step(action)[0]


@pytest.mark.alone
@pytest.mark.realtime
def test_joints_go_the_same_way_in_real_time(pair):
    sim, twin = pair(**QUICK)
    (a, _), (b, _) = sim.reset(seed=0), twin.reset(seed=0)
    late = 0
    for action in actions("smooth", start_pose(GRIPPERS["pneumatic"]), 0):
        (a, *_), (b, _, _, _, info) = sim.step(action), twin.step(action)
        # A step that the machine made late was seen later.
        if info["timing"]["step"] > 1.15 / 30 or info["state_age_s"] > 0.015:  # 0.9 deg at 1 rad/s
            late += 1
        else:
            assert degrees(a["agent_pos"][:6], b["agent_pos"][:6]) < 1.0
    assert late < 30


# -- seeds and pickles -------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_episode_bit_for_bit(make):
    options = {**SMALL, "twin_options": {"homed": True}}  # with noise
    first, second = make(**options), make(**options)
    third = pickle.loads(pickle.dumps(second))
    try:
        shown = episode(first, 5)
        assert shown == episode(second, 5)
        assert shown == episode(third, 5)
        assert shown != episode(third, 6)
    finally:
        third.close()


def test_an_episode_does_not_depend_on_the_one_before(make):
    env = make(**SMALL)
    first = episode(env, 5)
    assert episode(env, 6) != first
    again = episode(env, 5)
    assert first == again


def test_steps_that_were_lost_are_found_again_between_two_episodes(make):
    env = make(**SMALL)
    first = episode(env, 5)
    env.unwrapped.backend.twin.board.firmware.slip(3, 128.0)
    assert episode(env, 5) == first


# -- reset -------------------------------------------------------------------------------------------------------------


def test_where_an_episode_begins_and_what_it_asks_for(make):
    env = make()
    joints = start_pose(GRIPPERS["ssg48"]) + 0.1
    observation, info = env.reset(seed=0, options={"joints": joints, "opening": 0.3})
    assert degrees(observation["agent_pos"][:6], joints) < 0.03
    assert degrees(env.unwrapped.backend.twin.joints, joints) < 0.1
    assert observation["agent_pos"][6] == pytest.approx(0.3, abs=0.02)
    assert "cube" in info["instruction"]
    _, info = env.reset(seed=0, options={"instruction": "wave"})
    assert info["instruction"] == "wave"
    _, info = env.reset(seed=0)
    assert info["instruction"] != "wave"
    for wrong in ({"instruction": " "}, {"instruction": 3}, {"joints": [0.0] * 6}, {"opening": 2}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            env.reset(options=wrong)


def test_homing_is_asked_for_or_allowed(make):
    env = make(home=False, twin_options={"homed": False, "noise": 0.0})
    with pytest.raises(NotHomedError, match="home"):
        env.reset(seed=0)
    env.reset(seed=0, options={"home": True, "joints": HOME})
    assert degrees(env.unwrapped.backend.twin.joints, HOME) < 0.5
    tap = Tap(env)
    env.reset(seed=0, options={"joints": HOME})
    assert not any(frame.command == 100 for _, frame in tap.frames)


# -- options -----------------------------------------------------------------------------------------------------------

REAL = {"port": "/dev/ttyNONE", "camera": None, "realtime": True}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"camera": "123"}, "camera='123'"),
        ({**REAL, "camera": "twin"}, "camera='twin'"),
        ({**REAL, "realtime": False}, "realtime=False"),
        ({"realtime": 1}, "realtime=1"),
        *(({"speed_scale": value}, f"speed_scale={value!r}") for value in (0, 2, -0.5, 1e-3, float("nan"), True, "1")),
        ({**REAL, "camera": {"scene": "1"}, "cameras": ("wrist",)}, "camera={'scene': '1'}"),
        ({**REAL, "camera": "1", "cameras": ("wrist", "scene")}, "camera='1'"),
        ({"twin_options": {"bogus": 1}}, "twin_options={'bogus': 1}"),
        ({"twin_options": {"gripper": "ssg48"}}, "twin_options={'gripper': 'ssg48'}"),
        ({"twin_options": 3}, "twin_options=3"),
        ({"board_options": {"bogus": 1}}, "board_options={'bogus': 1}"),
        ({"board_options": {"gripper": "pneumatic"}}, "board_options={'gripper': 'pneumatic'}"),
        ({"board_options": {"disable_after": -1}}, "disable_after=-1"),
        ({"board_options": {"disable_after": "soon"}}, "disable_after='soon'"),
        ({"camera_options": {"bogus": 1}}, "camera_options={'bogus': 1}"),
        ({**REAL, "camera_options": {"serial": "1"}}, "camera_options={'serial': '1'}"),
        ({"home": "yes"}, "home='yes'"),
        ({"instruction": 3}, "instruction=3"),
        ({"log": 3}, "log=3"),
        ({"workspace": 1}, "workspace=1"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(make, options, named):
    with pytest.raises(OptionError, match=re.escape(named)):
        make(**options)


def test_a_port_that_is_not_there(make):
    with pytest.raises(SmolVLAGymError, match="/dev/ttyNONE"):
        make(**REAL)


def test_a_colour_that_is_not_there_moves_nothing():
    with make_twin() as env:
        env.reset(seed=3)
        for _ in range(20):
            env.step(TARGET)
        twin = env.unwrapped.backend.twin
        before = twin.world.measured_joints
        with pytest.raises(OptionError, match="mauve"):
            env.reset(seed=3, options={"target": "mauve"})
        np.testing.assert_array_equal(twin.world.measured_joints, before)


def test_a_slow_arm_is_given_the_time_of_its_way():
    """The longest way takes 5 s at full speed."""
    with make_twin(speed_scale=0.01) as env:
        assert env.unwrapped.backend.start_timeout > 2 * 5.0 / 0.01 - 1.0
