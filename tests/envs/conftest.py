"""Fixture of environments that are closed when a test ends."""

import gymnasium as gym
import pytest

import smolvla_gym


@pytest.fixture
def make():
    envs = []

    def build(**options):
        env = gym.make(smolvla_gym.SIM_ID, **options)
        envs.append(env)
        return env

    yield build
    for env in envs:
        env.close()
