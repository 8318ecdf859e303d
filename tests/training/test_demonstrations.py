from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("lerobot")

from smolvla_gym import SIM_ID
from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER, MAX_SPEED
from smolvla_gym.sim.scene import COLORS
from smolvla_gym.tasks import TASKS
from smolvla_gym.training.tiny.demonstrations import DemonstrationOptions, collect
from smolvla_gym.training.tiny.interrupted_expert import InterruptedExpert, record_segments
from smolvla_gym.utils.worker_pool import process_pool


@pytest.fixture(scope="module", params=[("stack", 1), ("push", 2)], ids=["here", "in processes"])
def recorded(request):
    task, workers = request.param
    return task, collect(DemonstrationOptions(task=task, episodes=2, first_seed=3_000_000, stride=12, workers=workers))


def test_referents_are_the_positions_of_the_named_objects(recorded):
    task, frames = recorded
    colors = list(COLORS)
    places = frames.targets.reshape(-1, len(colors) + 1, 5)
    for row, frame in enumerate(frames.with_images):
        sentence = frames.instructions[frames.instruction_ids[frame]]
        named = [
            (color, base)
            for template in TASKS[task].instruction_templates
            for color in colors
            for base in colors
            if template.format(color=color, base=base) == sentence
        ]
        color, base = named[0]
        second = colors.index(base) if task == "stack" else len(colors)
        expected = places[row, [colors.index(color), second]].reshape(-1)
        np.testing.assert_array_equal(frames.referents[row], expected)
        assert np.isfinite(expected).all()


def test_paraphrases_name_the_same_colours(recorded):
    _, frames = recorded
    named = [frozenset(COLORS) & frozenset(sentence.split()) for sentence in frames.instructions]
    for colors, same in zip(named, frames.paraphrases, strict=True):
        assert {named[i] for i in same} == {colors}


def test_demonstrations_respect_limits_and_speeds(recorded):
    _, frames = recorded
    for values in (frames.states, frames.actions):
        assert (values[:, :6] >= JOINT_LOWER - 1e-3).all()
        assert (values[:, :6] <= JOINT_UPPER + 1e-3).all()
        assert (values[:, 6] >= 0).all()
        assert (values[:, 6] <= 1).all()
    # Within a stretch nothing is left out.
    together = np.diff(frames.segments) == 0
    assert (np.abs(np.diff(frames.states[:, :6], axis=0)[together]) < 1.1 * MAX_SPEED / 30).all()
    assert len(np.unique(frames.segments)) > 2  # it was interrupted


def test_a_pool_records_the_same():
    options = DemonstrationOptions(task="reach", episodes=4, first_seed=3_200_000, stride=30, workers=1)
    here = collect(options)
    with process_pool(2) as pool:
        collect(replace(options, task="lift", episodes=1), pool=pool)
        there = collect(options, pool=pool)
    np.testing.assert_array_equal(there.states, here.states)
    np.testing.assert_array_equal(there.actions, here.actions)
    for name, images in here.images.items():
        np.testing.assert_array_equal(there.images[name], images)


def test_an_interrupted_recording_closes_its_envs(monkeypatch):
    made, make = [], gym.make

    def note(*args, **options):
        made.append(make(*args, **options))
        return made[-1]

    def stop(done):
        raise KeyboardInterrupt

    monkeypatch.setattr(gym, "make", note)
    with pytest.raises(KeyboardInterrupt):
        collect(DemonstrationOptions(task="reach", episodes=1, first_seed=3_300_000, workers=1), stop)
    with pytest.raises(gym.error.ClosedEnvironmentError):
        made[0].reset()


class Tipped(gym.Wrapper):
    """A puck rolls away after some steps."""

    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 20:
            self.unwrapped.backend.world.place_object(0, np.array([1.5, 0.0, 0.012]), 0.0)
        return super().step(action)


def test_an_episode_ends_where_an_object_is_lost():
    env = Tipped(
        gym.make(SIM_ID, task="push", cameras=("wrist",), image_size=(64, 64), num_objects=2, disable_env_checker=True)
    )
    expert = InterruptedExpert(np.random.default_rng(3), cameras=("wrist",), image_size=64, stride=30, hard_weight=4.0)
    segments = record_segments(env, expert, 5)
    env.close()
    assert sum(len(segment.states) for segment in segments) <= 20
    assert np.nanmax(np.abs(np.concatenate([segment.targets for segment in segments]))) < 1


def test_a_policy_interrupts_with_its_delay():
    options = DemonstrationOptions(
        task="place", episodes=2, first_seed=3_100_002, stride=12, workers=1, policy=bundled_checkpoint(),
        latencies_ms=(466.0,),
    )  # fmt: skip
    frames = collect(options)
    other = collect(replace(options, latencies_ms=(0.0,)))
    assert len(np.unique(frames.segments)) > 2
    assert not np.array_equal(frames.states, other.states)
