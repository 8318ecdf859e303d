"""The task with a moving belt."""

import numpy as np
import pytest

from smolvla_gym.errors import OptionError
from smolvla_gym.sim.belt import BELT_HEIGHT, BELT_REACH
from tests.tasks.scenes import run_expert


def still(env):
    """An action that holds the arm where it is."""
    return np.append(env.unwrapped.backend.commanded, 1.0).astype(np.float32)


@pytest.mark.parametrize("speed", [0.0, 0.02, 0.05, 0.1])
def test_the_belt_carries_the_cubes_at_its_speed(make, speed):
    env = make("belt", belt_speed=speed, num_objects=3)
    env.reset(seed=0)
    world = env.unwrapped.backend.world
    env.step(still(env))
    before = np.array([world.object_position(i) for i in range(3)])
    for _ in range(15):
        env.step(still(env))
    way = np.array([world.object_position(i) for i in range(3)]) - before
    np.testing.assert_allclose(np.abs(way[:, 1]), 0.5 * speed, atol=0.0005)
    np.testing.assert_allclose(way[:, [0, 2]], 0.0, atol=0.0005)
    assert world.object_position(0)[2] == pytest.approx(BELT_HEIGHT + world.half_height(0), abs=0.001)


def test_it_turns_round_before_a_cube_is_out_of_reach(make):
    env = make("belt", belt_speed=0.1, num_objects=3, max_episode_s=60.0)
    env.reset(seed=1)
    world, turns = env.unwrapped.backend.world, 0
    before = world.belt.velocity(world.data)[1]
    for _ in range(400):
        env.step(still(env))
        now = world.belt.velocity(world.data)[1]
        turns, before = turns + (now != before), now
        assert all(abs(world.object_position(i)[1]) < BELT_REACH + 0.01 for i in range(3))
        assert abs(now) == pytest.approx(0.1)
    assert turns >= 3


@pytest.mark.parametrize(("speed", "options"), [
    (0.0, {}), (0.05, {"num_objects": 3}), (0.1, {}), (0.02, {"gripper": "pneumatic"}), (0.05, {"randomization": 2}),
    (0.02, {"randomization": 0}),
], ids=str)  # fmt: skip
def test_the_expert_catches_the_cube(make, speed, options):
    env = make("belt", belt_speed=speed, **options)
    for seed in (50, 51, 52):
        env.reset(seed=seed)
        assert run_expert(env), seed


def test_the_same_seed_gives_the_same_motion(make):
    states = []
    for _ in range(2):
        env = make("belt", belt_speed=0.05)
        env.reset(seed=7)
        for _ in range(60):
            env.step(env.unwrapped.expert_action())
        states.append(env.unwrapped.backend.world.data.qpos.copy())
    np.testing.assert_array_equal(*states)


def test_other_tasks_have_no_belt(make):
    fast, slow = make("lift", belt_speed=0.1), make("lift")
    for env in (fast, slow):
        env.reset(seed=2)
        for _ in range(20):
            env.step(env.unwrapped.expert_action())
    np.testing.assert_array_equal(*(env.unwrapped.backend.world.data.qpos for env in (fast, slow)))
    assert fast.unwrapped.backend.world.belt is None


def test_failures_are_told_apart(make):
    env = make("belt")
    env.reset(seed=3)
    backend = env.unwrapped.backend
    assert backend.stage.failure() == "did not reach it"
    backend.world.place_object(backend.layout.target, np.array([0.34, 0.1, 0.014]), 0.0)
    backend.world.settle()
    assert backend.stage.failure() == "pushed it away or lost it"


@pytest.mark.parametrize("speed", [-0.01, 0.2, np.nan, "fast", True])
def test_a_speed_that_is_not_allowed_is_refused(make, speed):
    with pytest.raises(OptionError) as refused:
        make("belt", belt_speed=speed)
    assert refused.value.option == "belt_speed"
