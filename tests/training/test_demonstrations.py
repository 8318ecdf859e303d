import numpy as np
import pytest

pytest.importorskip("lerobot")

from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER, MAX_SPEED
from smolvla_gym.sim.scene import COLORS
from smolvla_gym.tasks import TASKS
from smolvla_gym.training.demonstrations import DemonstrationOptions, collect


@pytest.fixture(scope="module", params=["stack", "push"])
def recorded(request):
    options = DemonstrationOptions(task=request.param, episodes=2, first_seed=3_000_000, stride=12, workers=1)
    return request.param, collect(options)


def test_what_the_sentence_speaks_of_is_where_it_is(recorded):
    task, frames = recorded
    colors = list(COLORS)
    places = frames.targets.reshape(-1, len(colors) + 1, 5)
    for row, frame in enumerate(frames.pictures):
        sentence = frames.instructions[frames.instruction_ids[frame]]
        named = [
            (color, base)
            for phrase in TASKS[task].phrasings
            for color in colors
            for base in colors
            if phrase.format(color=color, base=base) == sentence
        ]
        color, base = named[0]
        second = colors.index(base) if task == "stack" else len(colors)
        expected = places[row, [colors.index(color), second]].reshape(-1)
        np.testing.assert_array_equal(frames.referents[row], expected)
        assert np.isfinite(expected).all()


def test_words_of_a_meaning_name_the_same_colours(recorded):
    _, frames = recorded
    for sentence, same in zip(frames.instructions, frames.paraphrases, strict=True):
        spoken = {tuple(sorted(c for c in COLORS if c in frames.instructions[i].split())) for i in same}
        assert spoken == {tuple(sorted(c for c in COLORS if c in sentence.split()))}


def test_demonstrations_stay_within_the_limits_and_move_as_the_arm_can(recorded):
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
