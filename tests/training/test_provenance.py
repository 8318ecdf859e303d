"""The rate and the gripper that a checkpoint was trained with."""

import pytest

pytest.importorskip("lerobot")

from smolvla_gym.agent import SmolVLAAgent
from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint
from smolvla_gym.agent.checkpoint.provenance import extract_words
from smolvla_gym.data.statistics import compute_stats
from smolvla_gym.errors import CheckpointError
from smolvla_gym.tasks import TASKS
from smolvla_gym.training.provenance import Provenance, describe_training, read_provenance, write_provenance
from smolvla_gym.training.tiny.checkpoint import build_tiny_checkpoint
from smolvla_gym.training.tiny.imitation import TrainOptions, train
from tests.training.test_imitation import demonstrations


def test_the_bundled_policy_has_a_provenance():
    provenance = read_provenance(bundled_checkpoint())
    assert (provenance.control_hz, provenance.gripper, provenance.lowercase) == (30, "ssg48", True)
    trained = [task for task in TASKS.values() if not task.has_belt]
    said = [template for task in trained for template in task.instruction_templates]
    assert set(extract_words(template.format(color="red", base="yellow") for template in said)) <= set(provenance.words)


@pytest.mark.parametrize(
    ("start", "instructions", "expected"),
    [
        (None, ["lift the cube"], Provenance(15, "ssg48", True, ("cube", "lift", "the"))),
        (None, ["Lift the cube"], Provenance(15, "ssg48", False, ("cube", "lift", "the"))),
        (Provenance(15, None, True, ("push",)), ["lift it"], Provenance(15, "ssg48", True, ("it", "lift", "push"))),
        (Provenance(15, None, True, ("push",)), ["Lift"], Provenance(15, "ssg48", False, ("lift", "push"))),
        # A large model reads the text as it is and knows a language.
        (Provenance(15), ["lift it"], Provenance(15, "ssg48")),
        ("silent", ["lift it"], Provenance(15, "ssg48")),
    ],
)
def test_training_describes_its_instructions(tmp_path, start, instructions, expected):
    if isinstance(start, Provenance):
        write_provenance(tmp_path, start)
        assert read_provenance(tmp_path) == start
    assert describe_training(15, "ssg48", instructions, None if start is None else tmp_path) == expected


def test_training_copies_the_provenance(tmp_path):
    frames = demonstrations(8, 64)
    stats = compute_stats(frames.states, frames.actions)
    build_tiny_checkpoint(tmp_path / "start", cameras=("wrist",), stats=stats, chunk_size=4, n_action_steps=2)
    options = TrainOptions(steps=1, batch_size=2, threads=1)
    train(tmp_path / "start", frames, tmp_path / "unknown", options)
    assert read_provenance(tmp_path / "unknown") is None
    write_provenance(tmp_path / "start", Provenance(15))
    train(tmp_path / "start", frames, tmp_path / "policy", options)
    assert read_provenance(tmp_path / "policy") == Provenance(15, None)
    assert SmolVLAAgent.from_pretrained(tmp_path / "policy", device="cpu").chunk_size == 4


BROKEN = [
    *(
        "{",
        "[]",
        "{}",
        '{"control_hz": 0}',
        '{"control_hz": NaN}',
        '{"control_hz": 1' + "0" * 400 + "}",
        '{"control_hz": 30, "gripper": 1}',
    ),
    *(
        '{"control_hz": 30, "lowercase": 1}',
        '{"control_hz": 30, "words": "red"}',
        '{"control_hz": 30, "words": ["a b"]}',
    ),
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_refused(tmp_path, text):
    (tmp_path / "parol6.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"parol6\.json is broken .* Take another copy"):
        read_provenance(tmp_path)
