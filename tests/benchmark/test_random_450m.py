"""The policy of the usual size, without allocating it."""

import numpy as np
import pytest

pytest.importorskip("lerobot")

import torch
from lerobot.policies.factory import make_pre_post_processors

from smolvla_gym.agent.checkpoint.new_policy import make_policy
from smolvla_gym.agent.checkpoint.safetensors_file import SavedTensor
from smolvla_gym.agent.checkpoint.saving import save_small_files
from smolvla_gym.agent.checkpoint.spec import read_spec
from smolvla_gym.agent.checkpoint.validation import check_checkpoint
from smolvla_gym.agent.checkpoint.vlm_files import read_vlm
from smolvla_gym.agent.checkpoint.weights import check_network, check_weights
from smolvla_gym.benchmark.random_450m import SMOLVLA_450M, build_random_450m, camera_names, full_range_stats
from smolvla_gym.errors import CheckpointError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Its policy without numbers, and the folder of its small files."""
    folder = tmp_path_factory.mktemp("made")
    options = {
        "cameras": camera_names(3),
        "stats": full_range_stats(),
        "sentences": ["x"],
        "vocabulary": 384,
        "seed": 0,
    }
    with torch.device("meta"):
        policy, *_ = make_policy(folder, SMOLVLA_450M, **options)
    stats = {
        key: {name: torch.as_tensor(value) for name, value in of.items()} for key, of in full_range_stats().items()
    }
    save_small_files(folder, policy.config, *make_pre_post_processors(policy.config, dataset_stats=stats))
    return policy, folder


def test_the_policy_has_450_million_parameters(made):
    parameters = dict(made[0].named_parameters())
    assert sum(parameter.numel() for parameter in parameters.values()) == 450_046_176
    shapes = {key.split("vlm_with_expert.")[-1]: tuple(value.shape) for key, value in parameters.items()}
    # Those of lerobot/smolvla_base.
    assert shapes["vlm.model.text_model.embed_tokens.weight"] == (49280, 960)
    assert shapes["vlm.model.vision_model.embeddings.position_embedding.weight"] == (1024, 768)
    assert shapes["vlm.model.connector.modality_projection.proj.weight"] == (960, 12288)
    assert shapes["lm_expert.layers.15.mlp.up_proj.weight"] == (2048, 720)
    assert "lm_expert.layers.16.mlp.up_proj.weight" not in shapes
    assert shapes["model.action_in_proj.weight"] == (720, 32)


def test_the_policy_matches_the_arm(made):
    spec = read_spec(made[1])
    check_checkpoint(spec)
    assert (spec.action_dim, spec.chunk_size, spec.n_action_steps, spec.num_steps) == (7, 50, 50, 10)
    assert dict(spec.cameras) == {"wrist": (256, 256), "scene": (256, 256), "camera3": (256, 256)}
    assert spec.config["pad_language_to"] == "max_length"
    assert spec.config["tokenizer_max_length"] == 48


def test_the_weights_match_the_configuration(made):
    policy, folder = made
    spec, vlm = read_spec(folder), read_vlm(folder / "vlm")
    header = {key: SavedTensor("BF16", tuple(value.shape)) for key, value in policy.state_dict().items()}
    check_weights(spec, vlm, header)
    check_network(spec, policy.state_dict(), header)
    fewer = {key: value for key, value in header.items() if ".lm_expert.layers.15." not in key}
    with pytest.raises(CheckpointError, match="16 layers of the action expert"):
        check_weights(spec, vlm, fewer)


def test_a_small_policy_is_made_in_memory():
    """The same way at a size that a test can afford."""
    from dataclasses import replace

    small = replace(SMOLVLA_450M.vlm, layers=2, vision_layers=1, embeddings=400, image_size=64)
    geometry = replace(SMOLVLA_450M, vlm=small, layers=2, image_size=32)
    checkpoint, same, other = (build_random_450m(2, device="cpu", seed=seed, geometry=geometry) for seed in (0, 0, 1))
    assert list(checkpoint.spec.cameras) == ["wrist", "scene"]
    assert not checkpoint.policy.training
    name = "model.action_in_proj.weight"
    weights = [dict(c.policy.named_parameters())[name].detach().numpy() for c in (checkpoint, same, other)]
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])
    # Its actions are the arm's: a normalised 0 is the middle of each joint's range.
    middle = checkpoint.postprocessor(torch.zeros(1, 1, 7))[0, 0].numpy()
    assert middle[6] == pytest.approx(0.5, abs=1e-6)
    assert middle[3] == pytest.approx(0.0, abs=1e-6)
