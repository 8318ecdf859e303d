"""Training with delays: the first actions of a chunk are given, and the others are learned as what continues them."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("lerobot")

import torch

from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint
from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.agent.policies.local import LocalPolicy
from smolvla_gym.data.statistics import compute_stats
from smolvla_gym.errors import OptionError
from smolvla_gym.training.provenance import Provenance, describe_training, read_provenance, write_provenance
from smolvla_gym.training.tiny.checkpoint import build_tiny_checkpoint
from smolvla_gym.training.tiny.demonstrations import DemonstrationOptions, collect
from smolvla_gym.training.tiny.flow import FlowLoss, sample_delays, sample_times
from smolvla_gym.training.tiny.frames import Frames, join
from smolvla_gym.training.tiny.frames_file import load_frames, save_frames
from smolvla_gym.training.tiny.imitation import train
from smolvla_gym.training.tiny.options import TrainOptions
from smolvla_gym.training.tiny.training_inputs import TrainingInputs

CHUNK, MAX_DELAY = 8, 5


def recording(committed=False, count=60):
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.5, 0.5, (count, 7)).astype(np.float32)
    frames = Frames(
        {"wrist": rng.integers(0, 255, (count, 64, 64, 3)).astype(np.uint8)},
        rng.uniform(-0.5, 0.5, (count, 7)).astype(np.float32), actions, ["lift the red cube"],
        np.zeros(count, np.int64), np.repeat(np.arange(2), count // 2),
    )  # fmt: skip
    if not committed:
        return frames
    left = np.zeros(count, np.int64)
    left[:7] = np.arange(7, 0, -1)
    commanded = np.where(left[:, None] > 0, actions + 1.0, actions).astype(np.float32)
    return replace(frames, commanded=commanded, committed=left)


@pytest.fixture(scope="module")
def policy_dir(tmp_path_factory):
    frames = recording()
    stats = compute_stats(frames.states, frames.actions)
    path = build_tiny_checkpoint(
        tmp_path_factory.mktemp("policy"), cameras=("wrist",), stats=stats, chunk_size=CHUNK, n_action_steps=2
    )
    write_provenance(path, Provenance(30.0, "ssg48"))
    return path


def batch_of(checkpoint, count=3):
    generator = torch.Generator().manual_seed(0)
    is_pad = torch.zeros(count, CHUNK, dtype=torch.bool)
    is_pad[2, 6:] = True
    return {
        "observation.images.wrist": torch.rand((count, 3, 64, 64), generator=generator),
        "observation.state": torch.randn((count, 7), generator=generator),
        "observation.language.tokens": torch.randint(10, 200, (count, 6), generator=generator),
        "observation.language.attention_mask": torch.ones(count, 6, dtype=torch.bool),
        "action": torch.randn((count, CHUNK, 7), generator=generator),
        "action_is_pad": is_pad,
    }


@pytest.fixture(scope="module")
def setting(policy_dir):
    checkpoint = load_checkpoint(policy_dir, device="cpu")
    generator = torch.Generator().manual_seed(1)
    noise, times = torch.randn((3, CHUNK, 7), generator=generator), sample_times(3, generator)
    return FlowLoss(checkpoint.policy), batch_of(checkpoint), noise, times


def test_small_delays_are_drawn_more_often():
    drawn = sample_delays(torch.zeros(20_000, dtype=torch.long), 36, torch.Generator().manual_seed(0))
    counts = np.bincount(drawn.numpy(), minlength=37)
    assert len(counts) == 37
    assert counts.min() > 100
    assert 0.3 < counts[0] / counts.sum() < 0.45
    assert counts[1:8].sum() > counts[8:15].sum() > counts[15:22].sum() > counts[29:36].sum()


def test_delays_are_no_shorter_than_what_is_committed():
    committed = torch.tensor([0, 5, 21] * 400)
    drawn = sample_delays(committed, 21, torch.Generator().manual_seed(0))
    assert bool((drawn >= committed).all())
    assert int(drawn.max()) == 21


def test_a_delay_of_0_is_the_usual_loss(setting):
    loss, batch, noise, times = setting
    with torch.no_grad():
        assert loss(batch, noise, times, delays=torch.zeros(3, dtype=torch.long)) == loss(batch, noise, times)


def test_given_actions_are_clean_and_have_no_loss(setting):
    loss, batch, noise, times = setting
    delays = torch.tensor([3, 0, 5])
    given = torch.arange(CHUNK) < delays[:, None]
    with torch.no_grad():
        expected = loss(batch, noise, times, delays=delays)
        other = torch.where(given[..., None], torch.randn_like(noise), noise)
        assert loss(batch, other, times, delays=delays) == expected  # their noise is not used
        changed = {**batch, "action": torch.where(given[..., None], batch["action"] + 1.0, batch["action"])}
        assert loss(changed, noise, times, delays=delays) != expected  # the others attend to them
        changed["commanded"] = batch["action"]
        assert loss(changed, noise, times, delays=delays) == expected  # what was commanded counts, not the label


def test_chunks_of_one_length_average_their_own_actions(setting):
    loss, batch, noise, times = setting
    one = {name: value[:1] for name, value in batch.items()}
    with torch.no_grad():
        losses = [float(loss(one, noise[:1], times[:1], delays=torch.tensor([n]))) for n in (CHUNK, CHUNK - 1)]
    assert losses[0] == 0.0  # nothing is left to learn
    assert losses[1] > 0.0


def test_batches_have_delays_and_what_was_commanded(policy_dir):
    frames, checkpoint = recording(committed=True), load_checkpoint(policy_dir, device="cpu")
    inputs = TrainingInputs(checkpoint, frames, TrainOptions(steps=1, max_delay=MAX_DELAY, batch_size=64))
    normal = TrainingInputs(checkpoint, frames, TrainOptions(steps=1, batch_size=64, max_delay=0))
    assert "delays" not in normal.draw({})
    drawn = inputs.draw({})
    assert drawn["delays"].shape == (128,)
    assert int(drawn["delays"].max()) <= MAX_DELAY
    batch = inputs.batch(np.array([3]))
    differs = (batch["commanded"] - batch["action"]).abs().amax(dim=-1)[0] > 1e-3
    assert differs.tolist() == [True] * 4 + [False] * 4
    chosen = inputs._sampler.draw(2000)
    assert set(chosen[chosen < 7]) == {2, 3, 4, 5, 6}  # the first two would need 7 and 6 given actions


def test_a_run_learns_and_states_its_delays(policy_dir, tmp_path):
    options = TrainOptions(steps=4, batch_size=8, threads=1, max_delay=MAX_DELAY, vision_share=0.0)
    report = train(policy_dir, recording(committed=True), tmp_path / "out", options, report=lambda progress: None)
    assert np.isfinite(report.loss)
    assert read_provenance(tmp_path / "out").rtc_max_delay == MAX_DELAY
    assert LocalPolicy(load_checkpoint(tmp_path / "out", device="cpu")).card.max_delay == MAX_DELAY
    inherits = replace(options, max_delay=None, steps=1)
    train(tmp_path / "out", recording(), tmp_path / "again", inherits, report=lambda progress: None)
    assert read_provenance(tmp_path / "again").rtc_max_delay == MAX_DELAY
    train(
        tmp_path / "out", recording(), tmp_path / "none", replace(inherits, max_delay=0), report=lambda progress: None
    )
    assert read_provenance(tmp_path / "none").rtc_max_delay == 0


def test_a_resumed_run_draws_the_same_delays(policy_dir):
    options, checkpoint = TrainOptions(steps=4, max_delay=MAX_DELAY), load_checkpoint(policy_dir, device="cpu")
    whole, resumed = (TrainingInputs(checkpoint, recording(), options) for _ in range(2))
    for _ in range(2):
        whole.draw({})
    resumed.state = whole.state
    for _ in range(2):
        assert torch.equal(whole.draw({})["delays"], resumed.draw({})["delays"])


@pytest.mark.parametrize("delay", [-1, True, CHUNK])
def test_other_delays_are_refused(policy_dir, tmp_path, delay):
    with pytest.raises(OptionError, match="max_delay"):
        train(policy_dir, recording(), tmp_path / "out", TrainOptions(steps=1, threads=1, max_delay=delay))


def test_a_checkpoint_that_cannot_state_it_is_refused(tmp_path):
    frames = recording()
    path = build_tiny_checkpoint(
        tmp_path / "bare", cameras=("wrist",), stats=compute_stats(frames.states, frames.actions), chunk_size=CHUNK
    )
    with pytest.raises(OptionError, match=r"max_delay=3 .*parol6\.json"):
        train(path, frames, tmp_path / "out", TrainOptions(steps=1, threads=1, max_delay=3))


def test_provenance_inherits_the_delay(tmp_path):
    write_provenance(tmp_path, Provenance(30.0, "ssg48", rtc_max_delay=9))
    assert describe_training(30.0, "ssg48", [], tmp_path).rtc_max_delay == 9
    assert describe_training(30.0, "ssg48", [], tmp_path, 0).rtc_max_delay == 0
    assert describe_training(30.0, "ssg48", [], None, 7).rtc_max_delay == 7


def test_what_was_commanded_is_joined_and_stored(tmp_path):
    late, plain = recording(committed=True), recording()
    both = join([plain, late])
    np.testing.assert_array_equal(both.commanded, np.concatenate([plain.actions, late.commanded]))
    np.testing.assert_array_equal(both.committed, np.concatenate([np.zeros(60), late.committed]))
    assert join([plain, plain]).committed is None
    save_frames(tmp_path / "frames.npz", both)
    loaded = load_frames(tmp_path / "frames.npz")
    np.testing.assert_array_equal(loaded.commanded, both.commanded)
    np.testing.assert_array_equal(loaded.committed, both.committed)


@pytest.mark.parametrize("changes", [{"commanded": np.zeros((60, 6))}, {"committed": np.full(60, -1)}])
def test_other_commitments_are_refused(changes):
    with pytest.raises(OptionError, match=next(iter(changes))):
        replace(recording(), **changes)


def test_the_end_of_an_interruption_is_recorded_as_commanded():
    options = DemonstrationOptions(
        task="place", episodes=3, first_seed=3_400_000, stride=4, workers=1, policy=bundled_checkpoint(),
        latencies_ms=(466.0,),
    )  # fmt: skip
    frames, without = collect(replace(options, committed=12)), collect(options)
    assert without.committed is None
    assert without.commanded is None
    assert frames.committed.max() == 12
    assert len(frames) > len(without)
    # The scenes, and what the expert does after an interruption, are the same.
    rows = [i for i, frame in enumerate(frames.with_images) if frames.committed[i] > 0]
    for row in rows:
        first, left = frames.with_images[row], frames.committed[row]
        assert (frames.segments[first : first + left + 1] == frames.segments[first]).all()
        np.testing.assert_array_equal(frames.commanded[first + left], frames.actions[first + left])
    lead = np.abs(frames.commanded - frames.actions).max(axis=1) > 1e-6
    assert lead.any()
    assert {tuple(action) for action in without.actions} <= {tuple(action) for action in frames.actions}
