import json

import av
import numpy as np
import pytest

from smolvla_gym.errors import OptionError, RecordingError
from smolvla_gym.evaluation.rollout import RolloutSummary, rollout
from smolvla_gym.evaluation.scripted import ExpertAgent, RandomAgent
from tests.standin import StandIn


def frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def files(folder):
    return sorted(file.name for file in folder.iterdir())


def test_the_summary_says_all(tmp_path):
    env = StandIn()
    summary = rollout(env, ExpertAgent(env), episodes=3, seed=4, out=tmp_path, policy="expert")
    assert files(tmp_path) == ["rollout_000.mp4", "rollout_001.mp4", "rollout_002.mp4", "summary.json"]
    saved = json.loads((tmp_path / "summary.json").read_text())
    assert saved == summary.to_dict()
    episodes = saved.pop("episodes")
    assert saved == {
        "env_id": "StandIn",
        "policy": "expert",
        "control_hz": 30.0,
        "success_rate": pytest.approx(2 / 3),
        "interrupted": False,
    }
    assert [episode["seed"] for episode in episodes] == [4, 5, 6]
    assert [episode["success"] for episode in episodes] == [True, False, True]
    assert episodes[1] == {
        "seed": 5,
        "task": "lift",
        "instruction": "pick up the red cube",
        "success": False,
        "steps": 12,
        "return": 6.0,
        "end": "truncated",
        "fault": None,
        "safety": {"speed": 2},
        "video": "rollout_001.mp4",
    }
    # One frame before the first step and one after each.
    assert [frames(tmp_path / episode["video"]) for episode in episodes] == [9, 13, 9]


def test_one_episode_has_no_number(tmp_path):
    env = StandIn()
    rollout(env, ExpertAgent(env), out=tmp_path)
    assert files(tmp_path) == ["rollout.mp4", "summary.json"]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = StandIn(render_mode=None)
    summary = rollout(env, ExpertAgent(env))
    assert summary.success_rate == 1.0
    assert summary.policy == "ExpertAgent"
    assert summary.episodes[0].video is None
    rollout(env, ExpertAgent(env), out=tmp_path / "out", video=False)
    assert files(tmp_path / "out") == ["summary.json"]


def test_a_fault_ends_the_episode_and_is_recorded(tmp_path):
    env = StandIn(fault_at=5)
    summary = rollout(env, ExpertAgent(env), episodes=2, out=tmp_path)
    for episode in summary.episodes:
        assert (episode.end, episode.fault, episode.steps, episode.success) == ("fault", "ESTOP", 5, False)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_saves_what_there_is(tmp_path, error):
    class Interrupted(ExpertAgent):
        steps = 0

        def act(self, observation):
            self.steps += 1
            if self.steps == 8 + 5:
                raise error
            return super().act(observation)

    env = StandIn()
    with pytest.raises(error):
        rollout(env, Interrupted(env), episodes=3, seed=0, out=tmp_path)
    saved = json.loads((tmp_path / "summary.json").read_text())
    assert saved["interrupted"] is True
    assert saved["success_rate"] == 1.0, "the episode that was cut short does not count"
    assert [(episode["steps"], episode["end"]) for episode in saved["episodes"]] == [
        (8, "terminated"),
        (4, "interrupted"),
    ]
    assert frames(tmp_path / "rollout_001.mp4") == 5
    assert files(tmp_path) == ["rollout_000.mp4", "rollout_001.mp4", "summary.json"]


def test_progress_sees_each_step():
    env, seen = StandIn(), []
    rollout(env, ExpertAgent(env), episodes=2, progress=lambda record: seen.append((record.steps, record.end)))
    assert seen[:8] == [*((i, None) for i in range(1, 8)), (8, "terminated")]
    assert seen[-1] == (12, "truncated")


def test_wrong_options_are_refused_before_anything_runs(tmp_path):
    env = StandIn(render_mode=None)
    with pytest.raises(OptionError, match="episodes=0"):
        rollout(env, ExpertAgent(env), episodes=0)
    with pytest.raises(OptionError, match="rgb_array"):
        rollout(env, ExpertAgent(env), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_random_agents_repeat_and_leave_the_space_alone():
    env = StandIn()
    env.action_space.seed(3)
    expected = env.action_space.sample()
    env.action_space.seed(3)
    agent = RandomAgent(env.action_space)

    def draw(seed):
        agent.reset("anything", seed=seed)
        return np.stack([agent.act({}) for _ in range(5)])

    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))
    assert draw(1).dtype == np.float32
    assert np.array_equal(env.action_space.sample(), expected)
    assert rollout(env, agent, episodes=2).success_rate == 0.5


def test_the_expert_needs_an_env_that_has_one():
    class Real(StandIn):
        expert_action = None

    with pytest.raises(OptionError, match="simulated"):
        ExpertAgent(Real())


def test_a_summary_is_whole_or_absent(tmp_path):
    path = tmp_path / "summary.json"
    RolloutSummary("id", "expert", 30.0).save(path)
    before = path.read_text()
    assert json.loads(before)["success_rate"] is None
    (tmp_path / "summary.json.part").symlink_to("/dev/full")
    with pytest.raises(RecordingError, match=r"summary\.json could not be written"):
        RolloutSummary("id", "random", 30.0).save(path)
    assert path.read_text() == before
    assert files(tmp_path) == ["summary.json"]
