"""An episode's limit is a time; gymnasium's limit in steps replaces it."""

import pickle

import gymnasium as gym
import pytest

import smolvla_gym
from smolvla_gym.envs.time_limit import MAX_EPISODE_S
from smolvla_gym.errors import OptionError


def steps(make, **options):
    """How many steps an episode takes in which nothing happens."""
    env = make(cameras=(), task="reach", **options)
    observation, _ = env.reset(seed=0)
    truncated, count = False, 0
    while not truncated and count < 30:
        observation, _, terminated, truncated, _ = env.step(observation["agent_pos"])
        count += 1
        assert not terminated
    return count if truncated else None


@pytest.mark.parametrize(("control_hz", "count"), [(5, 75), (20, 300), (29.97, 450), (30, 450), (50, 750), (100, 1500)])
def test_the_same_time_at_every_rate(make, control_hz, count):
    env = make(cameras=(), control_hz=control_hz)
    assert env.spec.max_episode_steps == count
    assert count / control_hz == pytest.approx(MAX_EPISODE_S, rel=0.002)


def test_it_is_an_option_in_seconds(make):
    assert steps(make, max_episode_s=0.5) == 15
    assert steps(make, max_episode_s=0.5, control_hz=10) == 5
    assert steps(make, max_episode_s=1e-3) == 1
    assert steps(make, max_episode_s=None) is None


def test_a_limit_in_steps_comes_first(make):
    assert steps(make, max_episode_steps=7, max_episode_s=0.1, control_hz=100) == 7
    assert make(cameras=(), control_hz=100, max_episode_steps=450).spec.max_episode_steps == 450  # as registered
    assert steps(make, max_episode_steps=-1, max_episode_s=0.1) is None


def test_copies_keep_it(make):
    env = make(cameras=(), control_hz=50)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.spec.max_episode_steps == 750
    copied = pickle.loads(pickle.dumps(gym.spec(smolvla_gym.SIM_ID)))
    assert gym.make(copied, cameras=(), control_hz=50).spec.max_episode_steps == 750
    assert gym.spec(smolvla_gym.SIM_ID).max_episode_steps == 450
    vector = gym.make_vec(smolvla_gym.SIM_ID, num_envs=2, cameras=(), control_hz=100)
    assert vector.get_attr("_max_episode_steps") == (1500, 1500)
    vector.close()


def test_the_arm_has_the_same_limit():
    options = {"port": "twin", "realtime": False, "cameras": (), "log": None, "twin_options": {"homed": True}}
    with gym.make(smolvla_gym.REAL_ID, **options, control_hz=100) as twin:
        assert twin.spec.max_episode_steps == 1500


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "15", True, (15,), 10**400])
def test_what_is_no_time_is_refused(make, value):
    with pytest.raises(OptionError, match="max_episode_s="):
        make(max_episode_s=value)
