import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("lerobot")

import torch

from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.data.statistics import compute_stats
from smolvla_gym.errors import CheckpointError, OptionError, SmolVLAGymError
from smolvla_gym.training.tiny.checkpoint import build_tiny_checkpoint
from smolvla_gym.training.tiny.flow import FlowLoss, sample_times
from smolvla_gym.training.tiny.frames import Frames, join
from smolvla_gym.training.tiny.imitation import TrainOptions, train

DEVICES = (
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")),
)

SIDE = 32
"""Side of the images in px."""

SENTENCES = ("Pick up the red cube.", "Now gently push the blue one away.")


def demonstrations(count=120, side=SIDE):
    """Make demonstrations in which bright images have one action, and dark images another."""
    rng = np.random.default_rng(0)
    bright = rng.integers(0, 2, count)
    image = (bright[:, None, None, None] * 150 + rng.integers(0, 60, (count, side, side, 3))).astype(np.uint8)
    states = rng.uniform(-0.5, 0.5, (count, 7)).astype(np.float32)
    actions = np.where(bright[:, None], 0.8, 0.1).astype(np.float32).repeat(7, axis=1)
    ids = rng.integers(0, 2, count)
    targets = np.stack([bright, np.full(count, np.nan)], axis=1).astype(np.float32)
    targets[0, 1] = 0.0
    named = np.stack([ids, np.full(count, np.nan)], axis=1).astype(np.float32)
    return Frames(
        {"wrist": image}, states, actions, SENTENCES, ids, np.arange(count), targets=targets, referents=named
    )  # fmt: skip


@pytest.fixture(scope="module")
def policy_dir(tmp_path_factory):
    frames = demonstrations()
    stats = compute_stats(frames.states, frames.actions)
    return build_tiny_checkpoint(
        tmp_path_factory.mktemp("policy"), cameras=("wrist",), stats=stats, image_size=SIDE, chunk_size=4,
        n_action_steps=2,
    )  # fmt: skip


def batch_of(policy, count=3):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(10, 200, (count, 6), generator=generator)
    mask = torch.ones(count, 6, dtype=torch.bool)
    mask[1, 4:] = False  # A shorter sentence.
    is_pad = torch.zeros(count, 4, dtype=torch.bool)
    is_pad[2, 1:] = True
    return {
        "observation.images.wrist": torch.rand((count, 3, SIDE, SIDE), generator=generator),
        "observation.state": torch.randn((count, 7), generator=generator),
        "observation.language.tokens": tokens,
        "observation.language.attention_mask": mask,
        "action": torch.randn((count, 4, 7), generator=generator),
        "action_is_pad": is_pad,
    }


@pytest.mark.parametrize("absent", [0, 1])
def test_the_loss_is_lerobots_own(policy_dir, absent):
    policy = load_checkpoint(policy_dir, device="cpu").policy
    policy.config.empty_cameras = absent  # LeRobot computes a black image that nothing looks at
    policy.config.validate_features()
    batch = batch_of(policy)
    generator = torch.Generator().manual_seed(1)
    noise, times = torch.randn((3, 4, 7), generator=generator), sample_times(3, generator)
    ours = FlowLoss(policy)(batch, noise, times)
    theirs, _ = policy.forward(dict(batch), noise=noise, time=times)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    gradients = []
    for loss in (ours, theirs):
        policy.zero_grad()
        loss.backward()
        gradients.append({key: p.grad.clone() for key, p in policy.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][key], rtol=1e-3, atol=1e-5), key


def test_rows_without_an_image_of_a_camera(tmp_path):
    frames = demonstrations()
    build_tiny_checkpoint(
        tmp_path, cameras=("wrist", "scene"), stats=compute_stats(frames.states, frames.actions), image_size=SIDE,
        chunk_size=4, n_action_steps=2,
    )  # fmt: skip
    policy = load_checkpoint(tmp_path, device="cpu").policy
    batch = batch_of(policy)
    batch["observation.images.scene"] = torch.rand((3, 3, SIDE, SIDE))
    batch["observation.images.wrist_padding_mask"] = torch.tensor([True, True, False])
    batch["observation.images.scene_padding_mask"] = torch.tensor([True, False, True])
    generator = torch.Generator().manual_seed(1)
    noise, times = torch.randn((3, 4, 7), generator=generator), sample_times(3, generator)
    with torch.no_grad():
        ours = FlowLoss(policy)(batch, noise, times)
        theirs, _ = policy.forward(dict(batch), noise=noise, time=times)
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
        # What a masked camera shows does not matter, and a camera that a row has does.
        for row, same in ((1, True), (0, False)):
            other = {**batch, "observation.images.scene": batch["observation.images.scene"].clone()}
            other["observation.images.scene"][row] = 0
            assert (FlowLoss(policy)(other, noise, times).item() == pytest.approx(ours.item(), rel=1e-6)) is same


def test_draws_are_averaged(policy_dir):
    policy = load_checkpoint(policy_dir, device="cpu").policy
    batch = batch_of(policy)
    generator = torch.Generator().manual_seed(1)
    noise, times = torch.randn((3, 2, 4, 7), generator=generator), sample_times(6, generator).view(3, 2)
    with torch.no_grad():
        both = FlowLoss(policy)(batch, noise.flatten(0, 1), times.flatten())
        each = [FlowLoss(policy)(batch, noise[:, draw], times[:, draw]) for draw in range(2)]
    assert both.item() == pytest.approx(sum(each).item() / 2, rel=1e-5)


def test_times_follow_beta():
    times = sample_times(50_000, torch.Generator().manual_seed(0))
    assert times.min() >= 0.001
    assert times.max() <= 1
    assert times.mean().item() == pytest.approx(0.6 * 0.999 + 0.001, abs=5e-3)  # The mean of Beta(1.5, 1) is 0.6.


@pytest.mark.parametrize("device", DEVICES)
def test_training_learns_to_act_by_the_images(policy_dir, tmp_path, device):
    lines = []
    options = TrainOptions(
        steps=50, batch_size=8, ema=0.9, vision_share=0.1, warmup_steps=5, report_s=0.0, threads=1, device=device
    )
    report = train(policy_dir, demonstrations(), tmp_path / "out", options, report=lines.append)
    assert report.steps == 50
    assert [line.step for line in lines] == [*range(1, 51)]
    assert np.mean([line.loss for line in lines[-10:]]) < 0.8
    assert np.mean([line.vision_loss for line in lines[-10:]]) < 0.3
    assert np.mean([line.grounding_loss for line in lines[-10:]]) < 0.3
    assert "steps/s" in str(lines[0])
    assert str(tmp_path) not in (tmp_path / "out" / "config.json").read_text()
    json.loads((tmp_path / "out" / "policy_preprocessor.json").read_text())
    checkpoint = load_checkpoint(tmp_path / "out", device="cpu")
    guesses = []
    for value in (0.1, 0.7):
        frame = {
            "task": SENTENCES[0],
            "observation.state": torch.zeros(7),
            "observation.images.wrist": torch.full((3, SIDE, SIDE), value),
        }
        noise = torch.randn((1, 4, 7), generator=torch.Generator().manual_seed(0))
        chunk = checkpoint.policy.predict_action_chunk(checkpoint.preprocessor(frame), noise=noise)
        guesses.append(checkpoint.postprocessor(chunk)[0, 0].mean().item())
    assert guesses[1] - guesses[0] > 0.3


def test_every_weight_that_is_used_changes(policy_dir, tmp_path):
    from safetensors.torch import load_file

    train(policy_dir, demonstrations(), tmp_path, TrainOptions(steps=3, batch_size=4, ema=0.5, threads=1))
    before, after = load_file(policy_dir / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    same = {key for key in before if torch.equal(before[key], after[key])}
    # What the network computes and never uses: the head, and what comes after the last layer's keys and values.
    assert all("lm_head" in key or "text_model.norm" in key or ".text_model.layers.3." in key for key in same)
    assert not any("layers.3.self_attn.k_proj" in key or "layers.3.self_attn.v_proj" in key for key in same)


def test_a_run_by_steps_repeats(policy_dir, tmp_path):
    for name in ("a", "b"):
        train(policy_dir, demonstrations(), tmp_path / name, TrainOptions(steps=3, batch_size=4, threads=1))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


def test_an_interrupted_run_resumes_to_the_same_weights(policy_dir, tmp_path):
    options = TrainOptions(steps=6, batch_size=4, threads=1, save_steps=2)
    train(policy_dir, demonstrations(), tmp_path / "whole", options, state=tmp_path / "whole.pt")

    class CutError(Exception):
        pass

    def cut(step):
        if step == 4:
            raise CutError

    state = tmp_path / "state.pt"
    with pytest.raises(CutError):
        train(policy_dir, demonstrations(), tmp_path / "cut", options, state=state, saved=cut)
    steps = []
    report = train(policy_dir, demonstrations(), tmp_path / "cut", options, state=state, saved=steps.append)
    assert (steps, report.steps) == ([6], 6)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    state.write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="remove it"):
        train(policy_dir, demonstrations(), tmp_path / "cut", options, state=state)


def test_samples_start_at_frames_with_images_and_instructions_vary(policy_dir, tmp_path):
    every = demonstrations(30)
    some = Frames(
        {"wrist": every.images["wrist"][::3]}, every.states, every.actions, [*SENTENCES, "lift red"],
        np.zeros(30, dtype=np.int64), np.zeros(30, dtype=np.int64), image_frames=np.arange(0, 30, 3),
        paraphrases=[[0, 2], [1], [0, 2]],
    )  # fmt: skip
    report = train(policy_dir, some, tmp_path, TrainOptions(steps=2, batch_size=4, threads=1))
    assert report.loss > 0
    with pytest.raises(OptionError, match="image_frames"):
        replace(some, image_frames=np.arange(3, 33, 3))
    with pytest.raises(OptionError, match="paraphrases"):
        replace(some, paraphrases=[[0]])


def test_recordings_are_joined():
    one, other = demonstrations(6), demonstrations(9)
    bare = {"targets": None, "referents": None}
    other = replace(other, images={"wrist": other.images["wrist"][::2]}, image_frames=np.arange(0, 9, 2), **bare)
    both = join([replace(one, **bare), other])
    assert len(both) == 15
    assert both.with_images.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14]
    assert both.instruction_ids.max() >= len(SENTENCES)
    assert both.paraphrases == [[i] for i in range(2 * len(SENTENCES))]
    assert len(np.unique(both.segments)) == len(np.unique(one.segments)) + len(np.unique(other.segments))
    np.testing.assert_array_equal(both.images["wrist"][6:], other.images["wrist"])


def test_images_of_another_size_are_refused(policy_dir, tmp_path):
    frames = demonstrations(4)
    wrong = Frames(
        {"wrist": frames.images["wrist"][:, : SIDE // 2]},
        frames.states,
        frames.actions,
        SENTENCES,
        frames.instruction_ids,
        frames.segments,
    )
    with pytest.raises(OptionError, match=str(SIDE)):
        train(policy_dir, wrong, tmp_path, TrainOptions(steps=1))


@pytest.mark.parametrize("options", [{}, {"steps": 0}, {"minutes": -1}, {"steps": 1, "vision_share": 1.0}])
def test_options_are_checked(options):
    with pytest.raises(OptionError):
        TrainOptions(**options)


def test_an_unsupported_policy_is_refused(policy_dir, tmp_path):
    other = shutil.copytree(policy_dir, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "add_image_special_tokens": True}))
    with pytest.raises(CheckpointError, match=r"add_image_special_tokens.*lerobot-train"):
        train(other, demonstrations(), tmp_path / "out", TrainOptions(steps=1, threads=1))


def test_only_the_vision_tower_is_frozen(policy_dir, tmp_path):
    from safetensors.torch import load_file

    options = TrainOptions(steps=40, batch_size=8, ema=0.9, warmup_steps=5, threads=1, freeze_vision=True)
    report = train(policy_dir, demonstrations(), tmp_path, options)
    assert report.loss < 0.9  # the images tell the actions apart, also to a tower that learnt nothing
    before, after = load_file(policy_dir / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert any("lm_expert" in key for key in changed)
    assert any("text_model.layers.0" in key for key in changed)
    assert not any("vision_model" in key or "connector" in key for key in changed)
    with pytest.raises(OptionError, match=r"vision_share=0\.5"):
        TrainOptions(steps=1, freeze_vision=True, vision_share=0.5)


def test_a_diverged_run_names_the_last_checkpoint(policy_dir, tmp_path):
    options = TrainOptions(steps=40, batch_size=4, threads=1, save_steps=1, learning_rate=1e30, warmup_steps=1)
    with pytest.raises(SmolVLAGymError, match=r"gradient of step \d+ is (nan|inf); .* step \d+\. .* rate below 1e\+30"):
        train(policy_dir, demonstrations(), tmp_path / "out", options)


def test_a_short_run_reports_its_loss_and_restores_the_threads(policy_dir, tmp_path):
    told, before = [], torch.get_num_threads()
    options = TrainOptions(steps=2, batch_size=4, threads=before + 1, report_s=1000)
    report = train(policy_dir, demonstrations(), tmp_path, options, report=told.append)
    assert [(progress.step, progress.left) for progress in told] == [(2, 0.0)]
    assert told[0].loss == report.loss > 0
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("frozen", [False, True])
def test_a_cuda_graph_learns_the_same(policy_dir, tmp_path, monkeypatch, capsys, frozen):
    def losses(name):
        options = TrainOptions(
            steps=12,
            batch_size=8,
            vision_share=0.0 if frozen else 0.5,
            freeze_vision=frozen,
            report_s=0.0,
            device="cuda",
        )
        lines = []
        train(policy_dir, demonstrations(), tmp_path / name, options, report=lines.append)
        return [[line.loss, line.vision_loss, line.grounding_loss] for line in lines]

    def waits(self, batch, images):
        batch["observation.state"].sum().item()  # which no capture can do
        return read(self, batch, images)

    graphed = losses("graphed")
    assert "No CUDA graph" not in capsys.readouterr().err
    read = FlowLoss.read
    monkeypatch.setattr(FlowLoss, "read", waits)
    np.testing.assert_allclose(graphed, losses("single"), rtol=1e-2)
    assert "No CUDA graph" in capsys.readouterr().err
