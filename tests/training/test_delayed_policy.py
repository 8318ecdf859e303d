"""LeRobot's own training of a policy that learns to continue given actions."""

import json
import os
import shutil

import pytest

pytest.importorskip("lerobot.datasets")
pytest.importorskip("accelerate")

import torch

from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint
from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.agent.policies.local import LocalPolicy
from smolvla_gym.data.reader import open_recording
from smolvla_gym.errors import CheckpointError, OptionError
from smolvla_gym.training.lerobot.delayed.configuration_delayed import DELAYED, DelayedSmolVLAConfig
from smolvla_gym.training.lerobot.delayed.modeling_delayed import DelayedSmolVLAPolicy
from smolvla_gym.training.lerobot.finetune import FinetuneOptions, check_resumed, finetune, prepare, train_command
from smolvla_gym.training.provenance import read_provenance
from smolvla_gym.training.tiny.flow import FlowLoss, sample_delays, sample_times
from tests.training.datasets import make_dataset

MAX_DELAY, CHUNK = 12, 32


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return open_recording(make_dataset(tmp_path_factory.mktemp("recorded") / "data"))


@pytest.fixture
def pair():
    """The bundled policy, and the same modules as a policy that is trained with delays."""
    plain = load_checkpoint("bundled", device="cpu", dtype="float32", language_head=True).policy
    config = DelayedSmolVLAConfig(**vars(plain.config), rtc_max_delay=MAX_DELAY)
    config.compile_model = False
    delayed = DelayedSmolVLAPolicy(config)
    delayed.load_state_dict(plain.state_dict())
    return plain.float(), delayed.float()


def batch_of(policy, count=3):
    generator = torch.Generator().manual_seed(0)
    is_pad = torch.zeros(count, CHUNK, dtype=torch.bool)
    is_pad[2, 20:] = True
    return {
        **{
            name: torch.rand((count, 3, 64, 64), generator=generator)
            for name in ("observation.images.wrist", "observation.images.scene")
        },
        "observation.state": torch.randn((count, 7), generator=generator),
        "observation.language.tokens": torch.randint(10, 200, (count, 6), generator=generator),
        "observation.language.attention_mask": torch.ones(count, 6, dtype=torch.bool),
        "action": torch.randn((count, CHUNK, 7), generator=generator),
        "action_is_pad": is_pad,
    }


def test_the_loss_is_that_of_the_tiny_policys_training(pair):
    plain, delayed = pair
    batch = batch_of(plain)
    generator = torch.Generator().manual_seed(1)
    noise, times = torch.randn((3, CHUNK, 7), generator=generator), sample_times(3, generator)
    delayed.train()
    torch.manual_seed(2)
    delays = sample_delays(torch.zeros(3, dtype=torch.long), MAX_DELAY, None)
    assert delays.any()
    torch.manual_seed(2)
    loss, _ = delayed.forward(batch, noise, times)
    expected = FlowLoss(plain)(batch, noise, times, delays=delays)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert "action_is_pad" in batch
    assert not batch["action_is_pad"][0].any()
    torch.manual_seed(2)
    each, _ = delayed.forward(batch, noise, times, reduction="none")
    assert each.shape == (3,)
    assert not delayed.model.action_time_mlp_in._forward_pre_hooks
    # Outside training, and with a largest delay of 0, the loss is LeRobot's own.
    theirs, _ = plain.forward(dict(batch), noise, times)
    assert float(delayed.eval().forward(dict(batch), noise, times)[0]) == pytest.approx(float(theirs), rel=1e-6)


def test_the_weights_are_those_of_a_plain_policy(pair, tmp_path):
    plain, delayed = pair
    assert plain.state_dict().keys() == delayed.state_dict().keys()
    delayed.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["type"] == "smolvla"
    assert "rtc_max_delay" not in config


def test_the_start_states_the_delay(recording, tmp_path):
    prepare(bundled_checkpoint(), recording, ("wrist", "scene"), tmp_path / "start", MAX_DELAY)
    assert read_provenance(tmp_path / "start").rtc_max_delay == MAX_DELAY
    assert json.loads((tmp_path / "start" / "config.json").read_text())["type"] == "smolvla"
    for resume in (False, True):
        command = train_command(tmp_path, recording, FinetuneOptions(steps=9), resume=resume)
        assert "--env.discover_packages_path=smolvla_gym.training.lerobot.delayed" in command
    prepare(tmp_path / "start", recording, ("wrist", "scene"), tmp_path / "again")
    assert read_provenance(tmp_path / "again").rtc_max_delay == MAX_DELAY


@pytest.mark.parametrize("delay", [-1, CHUNK])
def test_a_delay_as_long_as_a_chunk_is_refused(recording, tmp_path, delay):
    with pytest.raises(OptionError, match="rtc_max_delay"):
        prepare(bundled_checkpoint(), recording, ("wrist", "scene"), tmp_path / "start", delay)


def test_a_start_that_states_a_delay_as_long_as_a_chunk_is_refused(recording, tmp_path):
    checkpoint = shutil.copytree(bundled_checkpoint(), tmp_path / "checkpoint")
    content = json.loads((checkpoint / "parol6.json").read_text())
    (checkpoint / "parol6.json").write_text(json.dumps({**content, "rtc_max_delay": CHUNK}))
    with pytest.raises(CheckpointError, match="rtc_max_delay 32"):
        prepare(checkpoint, recording, ("wrist", "scene"), tmp_path / "start")
    assert not (tmp_path / "start").exists()
    prepare(checkpoint, recording, ("wrist", "scene"), tmp_path / "start", MAX_DELAY)  # the option replaces it


@pytest.mark.slow
def test_lerobot_trains_and_resumes_it(recording, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    prepare(bundled_checkpoint(), recording, ("wrist", "scene"), tmp_path / "start", MAX_DELAY)
    losses = []
    options = FinetuneOptions(steps=2, batch_size=2, save_steps=2, log_steps=1, device="cpu", workers=0)

    def report(step, loss, seconds):
        losses.append((step, loss))

    policy = finetune(tmp_path, recording, options, report=report)
    assert read_provenance(policy).rtc_max_delay == MAX_DELAY
    last = tmp_path / "lerobot" / "checkpoints" / "last" / "pretrained_model"
    assert json.loads((last / "train_config.json").read_text())["policy"]["type"] == DELAYED
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    own = SmolVLAPolicy.from_pretrained(last)  # LeRobot's class, from LeRobot's own folder
    assert own.config.type == "smolvla"
    made = LocalPolicy(load_checkpoint(policy, device="cpu"))
    assert (made.card.max_delay, made.card.chunk_size) == (MAX_DELAY, CHUNK)
    longer = FinetuneOptions(steps=4, batch_size=2, save_steps=2, log_steps=1, device="cpu", workers=0)
    finetune(tmp_path, recording, longer, report=report, resume=True)
    assert [step for step, _ in losses] == [1, 2, 3, 4]
    config = last / "train_config.json"
    content = json.loads(config.read_text())
    for value in (-1, None, "12", 10**6):
        content["policy"]["rtc_max_delay"] = value
        config.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="rtc_max_delay"):
            check_resumed(last, recording)
