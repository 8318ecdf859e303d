import json
from collections import Counter

import av
import gymnasium as gym
import numpy as np
import pytest

import smolvla_gym
from smolvla_gym.agent.scripted import ExpertAgent, RandomAgent
from smolvla_gym.episodes.rollout import rollout
from smolvla_gym.episodes.summary import RolloutSummary
from smolvla_gym.errors import ActionError, FaultError, OptionError, RecordingError
from tests.episodes.injectors import Disturbed, Faulty, throw
from tests.training.full_disk import full_disk


@pytest.fixture
def make():
    """Makes envs, by default without cameras and at a low control rate, since a small number of steps is enough."""
    envs = []

    def make(**options):
        options = {"task": "reach", "cameras": (), "control_hz": 10, "render_mode": "rgb_array"} | options
        envs.append(gym.make(smolvla_gym.SIM_ID, **options))
        return envs[-1]

    yield make
    for env in envs:
        env.close()


class Moody(ExpertAgent):
    """Does what the expert does, but stands still in the episodes with odd seeds."""

    def reset(self, instruction, seed=None):
        self._works = seed % 2 == 0

    def act(self, observation):
        return super().act(observation) if self._works else observation["agent_pos"]


def decode(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def files(folder):
    return sorted(file.name for file in folder.iterdir())


def play(env, agent, seed):
    """Runs an episode with a loop of its own; returns the expected entry of the summary."""
    agent.attach(env)
    observation, info = env.reset(seed=seed)
    agent.reset(info["instruction"], seed=seed)
    rewards, rules, terminated, truncated = [], Counter(), False, False
    while not terminated and not truncated:
        observation, reward, terminated, truncated, info = env.step(agent.act(observation))
        rewards.append(reward)
        rules.update(event["rule"] for event in info["safety"])
    return {
        "seed": seed,
        "task": "reach",
        "instruction": info["instruction"],
        "success": info["is_success"],
        "steps": len(rewards),
        "return": pytest.approx(sum(rewards)),
        "end": "terminated" if terminated else "truncated",
        "fault": None,
        "safety": rules,
    }


def test_the_summary_says_all(make, tmp_path):
    env, other = make(max_episode_steps=25), make(max_episode_steps=25)
    summary = rollout(env, Moody(), episodes=3, seed=4, out=tmp_path, policy="moody")
    assert files(tmp_path) == ["rollout_000.mp4", "rollout_001.mp4", "rollout_002.mp4", "summary.json"]
    saved = json.loads((tmp_path / "summary.json").read_text())
    assert saved == summary.to_dict()
    episodes = saved.pop("episodes")
    assert saved == {
        "env_id": "PAROL6Sim-v0",
        "policy": "moody",
        "control_hz": 10.0,
        "success_rate": pytest.approx(2 / 3),
        "interrupted": False,
    }
    expected = [play(other, Moody(), seed) for seed in (4, 5, 6)]
    assert episodes == [{**episode, "video": f"rollout_{i:03}.mp4"} for i, episode in enumerate(expected)]
    assert [episode["success"] for episode in episodes] == [True, False, True]
    assert (episodes[1]["steps"], episodes[1]["end"]) == (25, "truncated")
    assert episodes[0]["safety"]["acceleration"] > 0
    # One frame before the first step and one after each.
    lengths = [len(decode(tmp_path / episode["video"])) for episode in episodes]
    assert lengths == [episode["steps"] + 1 for episode in episodes]


def test_the_video_shows_the_scene_the_wrist_view_and_the_success(make, tmp_path):
    env = make(cameras=("wrist",), image_size=(96, 96))
    (episode,) = rollout(env, ExpertAgent(), out=tmp_path).episodes
    assert files(tmp_path) == ["rollout.mp4", "summary.json"]
    assert (episode.end, episode.success, episode.video) == ("terminated", True, "rollout.mp4")
    with av.open(str(tmp_path / "rollout.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.average_rate) == (640 + 480, 10)
        assert stream.height > 480
    video = [image.astype(int) for image in decode(tmp_path / "rollout.mp4")]
    assert len(video) == episode.steps + 1
    # The video is the whole of what env.render() gives, with the wrist's view beside it and text below.
    env.reset(seed=0)
    assert np.abs(video[0][:480, :640] - env.render()).mean() < 3
    assert np.abs(video[0] - video[-1])[:480, :640].mean() > 0.5, "the arm moved"
    assert np.abs(video[0] - video[-1])[:480, 640:].mean() > 5, "and its camera with it"
    green = [(image[485:, :, 1] - image[485:, :, 0]).max() > 80 for image in video]
    assert green == [False] * episode.steps + [True]


def test_a_failed_episode_says_why(make, tmp_path):
    env = make(max_episode_steps=3)
    (episode,) = rollout(env, RandomAgent(), out=tmp_path).episodes
    assert episode.failure == env.unwrapped.backend.stage.failure()
    assert not episode.success
    red = [(image[485:, :, 0].astype(int) - image[485:, :, 1]).max() > 60 for image in decode(tmp_path / "rollout.mp4")]
    assert red == [False] * 3 + [True]
    assert "failure" not in episode.to_dict(), "files stay as they were"


def test_without_a_folder_nothing_is_written(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = make(render_mode=None)
    summary = rollout(env, ExpertAgent())
    assert summary.success_rate == 1.0
    assert summary.policy == "ExpertAgent"
    assert summary.episodes[0].video is None
    assert files(tmp_path) == []
    rollout(env, ExpertAgent(), out=tmp_path / "out", video=False)
    assert files(tmp_path / "out") == ["summary.json"]


def test_a_fault_ends_the_episode_and_is_recorded(make, tmp_path):
    env = Faulty(make(), at=5)
    summary = rollout(env, ExpertAgent(), out=tmp_path)
    (episode,) = summary.episodes
    assert (episode.end, episode.fault, episode.steps, episode.success) == ("fault", "ESTOP", 5, False)
    assert (summary.success_rate, summary.interrupted) == (0.0, False)
    assert len(decode(tmp_path / "rollout.mp4")) == 6


def test_nothing_clears_a_fault_by_itself(make, tmp_path):
    env = Faulty(make(), at=5)
    with pytest.raises(FaultError, match="ESTOP"):
        rollout(env, ExpertAgent(), episodes=3, out=tmp_path)
    saved = json.loads((tmp_path / "summary.json").read_text())
    assert saved["interrupted"] is True
    assert [(episode["end"], episode["fault"]) for episode in saved["episodes"]] == [("fault", "ESTOP")]
    assert files(tmp_path) == ["rollout_000.mp4", "summary.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_saves_what_there_is(make, tmp_path, error):
    real = make()
    first = rollout(real, ExpertAgent()).episodes[0].steps
    env = Disturbed(real, first + 5, lambda: throw(error))
    with pytest.raises(error):
        rollout(env, ExpertAgent(), episodes=3, seed=0, out=tmp_path)
    saved = json.loads((tmp_path / "summary.json").read_text())
    assert saved["interrupted"] is True
    assert saved["success_rate"] == 1.0, "the episode that was cut short does not count"
    assert [(episode["steps"], episode["end"]) for episode in saved["episodes"]] == [
        (first, "terminated"),
        (4, "interrupted"),
    ]
    assert len(decode(tmp_path / "rollout_001.mp4")) == 5
    assert files(tmp_path) == ["rollout_000.mp4", "rollout_001.mp4", "summary.json"]


def test_an_action_that_the_env_refuses(make, tmp_path):
    class Broken(ExpertAgent):
        acts = 0

        def act(self, observation):
            self.acts += 1
            return super().act(observation) * (np.float32(np.nan) if self.acts == 3 else 1)

    env = make()
    with pytest.raises(ActionError, match="finite"):
        rollout(env, Broken(), out=tmp_path)
    (episode,) = json.loads((tmp_path / "summary.json").read_text())["episodes"]
    assert (episode["steps"], episode["end"], episode["success"]) == (2, "interrupted", False)
    assert len(decode(tmp_path / "rollout.mp4")) == 3


def test_what_fails_before_the_first_episode_writes_nothing(make, tmp_path):
    env = Disturbed(make(), 0, lambda: throw(RuntimeError))
    with pytest.raises(RuntimeError):
        rollout(env, ExpertAgent(), out=tmp_path)
    assert files(tmp_path) == []


def test_progress_sees_each_step(make):
    env, seen = make(max_episode_steps=25), []
    summary = rollout(env, Moody(), episodes=2, progress=lambda record: seen.append((record.steps, record.end)))
    first = summary.episodes[0].steps
    assert seen[:first] == [*((i, None) for i in range(1, first)), (first, "terminated")]
    assert seen[first:] == [*((i, None) for i in range(1, 25)), (25, "truncated")]


def test_wrong_options_are_refused_before_anything_runs(make, tmp_path):
    env = make(render_mode=None)
    with pytest.raises(OptionError, match="episodes=0"):
        rollout(env, ExpertAgent(), episodes=0)
    with pytest.raises(OptionError, match="rgb_array"):
        rollout(env, ExpertAgent(), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_random_agents_repeat_and_leave_the_space_alone(make):
    env = make(max_episode_steps=8)
    env.action_space.seed(3)
    expected = env.action_space.sample()
    env.action_space.seed(3)
    agent = RandomAgent()
    agent.attach(env)

    def draw(seed):
        agent.reset("anything", seed=seed)
        return np.stack([agent.act({}) for _ in range(5)])

    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))
    assert draw(1).dtype == np.float32
    assert np.array_equal(env.action_space.sample(), expected)
    first, second = (rollout(env, agent, episodes=2).to_dict() for _ in range(2))
    assert first == second
    assert first["success_rate"] == 0.0


def test_the_expert_needs_an_env_that_has_one():
    with pytest.raises(OptionError, match="simulated"):
        ExpertAgent().attach(gym.make("CartPole-v1"))


def test_a_summary_is_whole_or_absent(tmp_path):
    path = tmp_path / "summary.json"
    RolloutSummary("id", "expert", 30.0).save(path)
    before = path.read_text()
    assert json.loads(before)["success_rate"] is None
    with full_disk(10), pytest.raises(RecordingError, match=r"summary\.json could not be written"):
        RolloutSummary("id", "random", 30.0).save(path)
    assert path.read_text() == before
    assert files(tmp_path) == ["summary.json"]
