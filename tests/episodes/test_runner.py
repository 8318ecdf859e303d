"""The runner of episodes, with agents that end them, label them and judge them."""

import gymnasium as gym
import numpy as np
import pytest

import smolvla_gym
from smolvla_gym.agent.protocol import Demonstrator, EpisodeOver
from smolvla_gym.agent.scripted import ExpertAgent, RandomAgent
from smolvla_gym.episodes.callback import Callback
from smolvla_gym.episodes.runner import run_episode
from smolvla_gym.errors import SmolVLAGymError
from tests.episodes.injectors import Faulty


@pytest.fixture(scope="module")
def env():
    made = gym.make(smolvla_gym.SIM_ID, task="reach", cameras=(), control_hz=10)
    yield made
    made.close()


class Steps(Callback):
    """Keeps the steps."""

    def __init__(self):
        self.steps, self.ends = [], []

    def step(self, record, step):
        self.steps.append(step)
        self.ends.append(record.end)


class Scripted(Demonstrator):
    """Holds the arm for some steps, labels each second one, then decides."""

    def __init__(self, steps, verdict=None):
        self._steps, self._decision = steps, verdict

    def attach(self, env):
        self.env = env

    def reset(self, instruction, seed=None):
        self.verdict, self._left = None, self._steps

    def act(self, observation):
        if self._left == 0:
            self.verdict = self._decision
            raise EpisodeOver
        self._left -= 1
        action = observation["agent_pos"].astype(np.float32)
        self.label = action + np.float32(0.01) if self._left % 2 else None
        return action


@pytest.mark.parametrize(("verdict", "success"), [(None, False), (True, True), (False, False)])
def test_an_agent_ends_the_episode_and_a_demonstrator_judges_it(env, verdict, success):
    seen = Steps()
    agent = Scripted(4, verdict)
    record = run_episode(env, agent, [seen], seed=1)
    assert agent.env is env
    assert (record.end, record.steps, record.success) == ("agent", 4, success)
    assert (record.failure is None) == success
    assert seen.ends == [None] * 5
    assert [step.label is not None for step in seen.steps] == [False, True, False, True, False]
    for before, step in zip(seen.steps, seen.steps[1:], strict=False):
        np.testing.assert_array_equal(step.action, before.observation["agent_pos"])
        if step.label is not None:
            np.testing.assert_allclose(step.label - step.action, 0.01, atol=1e-6)


def test_other_agents_label_with_what_they_do(env):
    seen = Steps()
    record = run_episode(env, RandomAgent(), [seen], seed=1)
    assert (record.end, seen.ends[-1]) == ("truncated", "truncated")
    assert all(step.label is step.action for step in seen.steps)
    assert record.failure


def test_an_episode_may_go_on_until_the_agent_ends_it(env):
    class Long(ExpertAgent):
        steps = 0

        def act(self, observation):
            self.steps += 1
            if self.steps > 60:
                raise EpisodeOver
            return super().act(observation)

    usual = run_episode(env, ExpertAgent(), seed=1)
    record = run_episode(env, Long(), seed=1, until_agent_ends=True)
    assert (usual.end, usual.success, usual.steps < 60) == ("terminated", True, True)
    assert (record.end, record.success, record.steps) == ("agent", True, 60)
    with Faulty(gym.make(smolvla_gym.SIM_ID, cameras=()), at=5) as broken:
        faulty = run_episode(broken, Long(), seed=1, until_agent_ends=True)
    assert (faulty.end, faulty.fault, faulty.steps) == ("fault", "ESTOP", 5)


def test_options_reach_the_reset(env):
    record = run_episode(env, ExpertAgent(), seed=1, options={"instruction": "point there"})
    assert record.instruction == "point there"


@pytest.mark.parametrize("agent", [RandomAgent(), ExpertAgent()], ids=["random", "expert"])
def test_an_agent_without_an_env_says_so(agent):
    with pytest.raises(SmolVLAGymError, match="attach"):
        agent.act({})
