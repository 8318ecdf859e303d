"""Fixture of environments of a task, closed when a test ends."""

import gymnasium as gym
import pytest

import smolvla_gym


@pytest.fixture
def make():
    envs = []

    def build(task, **options):
        env = gym.make(smolvla_gym.SIM_ID, task=task, cameras=(), **options)
        envs.append(env)
        return env

    yield build
    for env in envs:
        env.close()
