"""Demonstrators, and which of their episodes are recorded."""

import contextlib
import json
import shutil

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("datasets")

import smolvla_gym
from smolvla_gym.agent.protocol import Demonstrator, EpisodeOver
from smolvla_gym.agent.scripted import ExpertAgent, RandomAgent
from smolvla_gym.data.dagger import DaggerAgent
from smolvla_gym.data.dataset import Dataset
from smolvla_gym.data.record import record
from smolvla_gym.data.replay import ReplayAgent
from smolvla_gym.data.spec import DatasetSpec
from smolvla_gym.errors import DatasetError, FaultError, OptionError
from tests.data.test_dataset import load


@pytest.fixture(scope="module")
def env():
    made = gym.make(smolvla_gym.SIM_ID, task="reach", cameras=("wrist",), image_size=(32, 32))
    yield made
    made.close()


def run(env, demonstrator, root, seeds, episodes):
    attempts = []
    dataset = Dataset(root, DatasetSpec.of(env))
    record(env, demonstrator, dataset, seeds, episodes, attempts.append)
    return dataset, attempts


def columns(root):
    frames = load(root).hf_dataset.with_format("numpy")
    return np.asarray(frames["observation.state"]), np.asarray(frames["action"])


def test_the_expert_and_its_replay_agree(env, tmp_path):
    dataset, attempts = run(env, ExpertAgent(), tmp_path / "a", range(20, 30), 2)
    assert [(a.seed, a.kept) for a in attempts] == [(20, True), (21, True)]
    assert len(dataset) == 2
    states, actions = columns(dataset.root)
    assert len(states) == sum(a.frames for a in attempts)
    assert np.isfinite(actions).all()

    replay = ReplayAgent(dataset.root)
    assert replay.seeds == [20, 21]
    again, attempts = run(env, replay, tmp_path / "b", replay.seeds, 2)
    assert [a.kept for a in attempts] == [True, True]
    for replayed, recorded in zip(columns(again.root), (states, actions), strict=True):
        np.testing.assert_array_equal(replayed, recorded)


def test_with_noise_the_clean_action_is_recorded(env):
    expert = ExpertAgent(noise=0.05)
    expert.attach(env)
    observation, info = env.reset(seed=4)
    expert.reset(info["instruction"], 4)
    pushed = expert.act(observation)
    clean = expert.label
    np.testing.assert_array_equal(clean, env.unwrapped.expert_action())
    assert 0.005 < np.abs(pushed - clean)[:6].max() < 0.3
    assert pushed[6] == clean[6]
    assert env.action_space.contains(pushed)


@pytest.mark.parametrize("noise", [-0.1, float("nan"), 2.0])
def test_noise_is_checked(noise):
    with pytest.raises(OptionError, match="noise"):
        ExpertAgent(noise=noise)


class Idle(Demonstrator):
    """Holds the arm: it never succeeds."""

    name = "idle"

    def __init__(self, steps=3):
        self._steps = steps

    def reset(self, instruction, seed=None):
        self._left = self._steps

    def act(self, observation):
        if self._left == 0:
            raise EpisodeOver
        self._left -= 1
        self.label = observation["agent_pos"].clip(-3, 3)
        return self.label


def test_failures_are_left_out_and_counted(env, tmp_path):
    dataset, attempts = run(env, Idle(), tmp_path / "a", range(3), 2)
    assert [(a.kept, a.frames) for a in attempts] == [(False, 3)] * 3
    assert (len(dataset), dataset.left_out, dataset.next_seed) == (0, 3, 3)
    assert not dataset.root.exists()


def test_after_a_policy_the_expert_is_recorded(env, tmp_path):
    dataset, (attempt,) = run(env, DaggerAgent(RandomAgent(), "random"), tmp_path / "a", range(5, 6), 1)
    assert attempt.kept
    states, _ = columns(dataset.root)
    observation, _ = env.reset(seed=5)
    assert np.abs(states[0] - observation["agent_pos"]).max() > 0.05  # the policy had driven
    assert dataset.episodes == [{"seed": 5, "source": "dagger, random"}]


def test_what_the_policy_solves_alone_is_no_failure(env, tmp_path):
    # The policy drives for longer than the task takes.
    seed = next(seed for seed in range(999) if np.random.default_rng([seed, 3]).integers(10, 90) > 85)
    dagger = DaggerAgent(ExpertAgent(), "expert")
    dataset, attempts = run(env, dagger, tmp_path / "a", [seed], 1)
    assert [(a.kept, a.reason) for a in attempts] == [(False, "the policy succeeded alone")]
    assert (dataset.left_out, dataset.solved_alone) == (0, 1)


def test_it_gives_up_where_nothing_succeeds(env, tmp_path):
    dataset = Dataset(tmp_path / "a", DatasetSpec.of(env))
    with pytest.raises(DatasetError, match=r"The last 3 episodes have all failed \(.* \d.*\), up to seed 12"):
        record(env, Idle(), dataset, range(10, 99), 1, patience=3)
    assert dataset.left_out == 3


def test_a_fault_ends_it_and_what_was_recorded_is_kept(tmp_path):
    options = {"port": "twin", "camera": "twin", "realtime": False, "log": None, "twin_options": {"homed": True}}
    twin = gym.make(smolvla_gym.REAL_ID, task="reach", cameras=("wrist",), image_size=(32, 32), **options)
    try:
        attempts = []

        def press(attempt):
            attempts.append(attempt)
            twin.unwrapped.backend.twin.faults.estop = True

        dataset = Dataset(tmp_path / "a", DatasetSpec.of(twin))
        with pytest.raises(FaultError, match="estop"):
            record(twin, ExpertAgent(), dataset, range(9), 3, press)
        assert (len(attempts), len(dataset)) == (1, 1)
    finally:
        twin.close()


def test_what_cannot_be_replayed_is_refused(tmp_path, spec, make_episode):
    Dataset(tmp_path / "a", spec).add(make_episode(1))
    (tmp_path / "a" / "meta" / "parol6.json").unlink()
    with pytest.raises(DatasetError, match=r"has 1 episodes, and meta/parol6\.json has the seeds of 0"):
        ReplayAgent(tmp_path / "a")
    with pytest.raises(DatasetError, match="There is no LeRobot dataset"):
        ReplayAgent(tmp_path / "b")


def actions_of(replay, seed):
    replay.reset("", seed)
    actions = []
    with contextlib.suppress(EpisodeOver):
        while True:
            actions.append(replay.act({}))
            assert replay.label is actions[-1]
    return actions


def test_a_replay_leaves_out_what_was_cut_off_and_checks(tmp_path, spec, make_episode):
    dataset = Dataset(tmp_path / "a", spec)
    for seed in (1, 2):
        dataset.add(make_episode(seed))
    shutil.copytree(dataset.root / "meta", dataset.root / ".meta_before")  # as a kill leaves it
    (extra := dataset.root / "data" / "chunk-000" / "file-002.parquet").write_bytes(b"PAR1 cut off")
    replay = ReplayAgent(dataset.root)
    assert "the last episode" in replay.lost
    assert extra.exists()  # who only reads changes nothing
    np.testing.assert_array_equal(actions_of(replay, 2), make_episode(2).actions)

    shutil.rmtree(dataset.root / ".meta_before")
    path = dataset.root / "meta" / "parol6.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "episodes": content["episodes"][:1]}))
    with pytest.raises(DatasetError, match=r"has 2 episodes, and meta/parol6\.json has the seeds of 1"):
        ReplayAgent(dataset.root)
    file = sorted((dataset.root / "data").rglob("*.parquet"))[-1]
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DatasetError):
        ReplayAgent(dataset.root)


def test_of_two_episodes_with_a_seed_the_first_is_replayed(tmp_path, spec, make_episode):
    dataset = Dataset(tmp_path / "a", spec)
    for frames in (5, 8):
        dataset.add(make_episode(1, frames))
    replay = ReplayAgent(dataset.root)
    assert replay.seeds == [1]
    np.testing.assert_array_equal(actions_of(replay, 1), make_episode(1, 5).actions)


def test_a_replay_is_in_the_scenes_of_the_recording(tmp_path, spec, make_episode):
    scene = {"task": "place", "num_objects": 3, "randomization": 1}
    Dataset(tmp_path / "a", spec, scene).add(make_episode(1))
    here = {**scene, "gripper": "ssg48"}
    for change, flags in (
        ({"task": "lift", "num_objects": 2}, "it has 1 episodes with --task place --num-objects 3"),
        ({"randomization": 0}, "--randomization 1"),
        ({"gripper": "pneumatic"}, "--gripper ssg48"),
    ):
        with pytest.raises(DatasetError, match=flags):
            ReplayAgent(tmp_path / "a", {**here, **change})
    assert ReplayAgent(tmp_path / "a", here).others is None

    Dataset(tmp_path / "a", spec, {**scene, "task": "lift"}).add(make_episode(2))
    replay = ReplayAgent(tmp_path / "a", here)
    assert (replay.seeds, replay.others) == ([1], "1 episodes with --task lift")

    Dataset(tmp_path / "old", spec).add(make_episode(1))  # earlier versions noted no scene
    assert ReplayAgent(tmp_path / "old", here).seeds == [1]


def test_an_env_without_cameras_gives_no_dataset():
    without = gym.make(smolvla_gym.SIM_ID, cameras=())
    with pytest.raises(DatasetError, match="has no camera"):
        DatasetSpec.of(without)
    without.close()
