"""The environment as LeRobot's programs make it, in this process."""

from __future__ import annotations

import gymnasium as gym
import pytest

pytest.importorskip("lerobot")

from lerobot.envs.utils import NEW_ROLLOUT_OPTION

from smolvla_gym.errors import UnknownNameError
from smolvla_gym.integrations.lerobot.env.small_images import LEROBOT_SIM_ID


def test_reset_options_of_lerobots_own_are_not_for_the_env():
    envs = gym.make_vec(LEROBOT_SIM_ID, num_envs=2, vectorization_mode="sync", vector_kwargs={}, cameras=())
    envs.reset(seed=[0, 1], options={NEW_ROLLOUT_OPTION: True})  # as lerobot-eval does
    with pytest.raises(UnknownNameError):
        envs.reset(options={"joint": 3})
    envs.close()
