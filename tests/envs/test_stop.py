"""``env.unwrapped.stop()``, from any thread, stops the arm until the fault is cleared."""

import gymnasium as gym
import pytest

import smolvla_gym
from smolvla_gym.errors import FaultError
from tests.envs.twin_rig import make_twin


@pytest.mark.parametrize("backend", ["sim", "twin"])
def test_stop_of_the_env(backend):
    env = gym.make(smolvla_gym.SIM_ID, cameras=()) if backend == "sim" else make_twin()
    with env:
        env.reset(seed=1)
        action = env.unwrapped.expert_action()
        env.step(action)
        env.unwrapped.stop()
        for _ in range(3):
            _, _, _, truncated, info = env.step(action)
            if truncated:
                break
        assert truncated
        assert info["fault"] == "operator_stop"
        with pytest.raises(FaultError, match="operator_stop"):
            env.step(action)
        with pytest.raises(FaultError):
            env.reset()
        env.unwrapped.clear_fault()
        env.reset(seed=1)
        assert not env.step(action)[3]
