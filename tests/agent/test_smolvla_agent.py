import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from smolvla_gym.errors import ActionError, ObservationError, OptionError, PolicyMismatchError

pytest.importorskip("lerobot")

from smolvla_gym.agent.agent_options import AgentNotResetError
from smolvla_gym.agent.policies.local import LocalPolicy
from smolvla_gym.agent.smolvla_agent import SmolVLAAgent

SENTENCE = "Pick up the red cube."


class Calls:
    """Counts inferences and keeps what the policy was given."""

    def __init__(self, monkeypatch, policy):
        self.batches = []
        true = policy.predict_action_chunk

        def spy(batch, **kwargs):
            self.batches.append(dict(batch))
            return true(batch, **kwargs)

        monkeypatch.setattr(policy, "predict_action_chunk", spy)


@pytest.fixture
def make(loaded):
    def agent(num_steps=None, camera_map=None, **options):
        return SmolVLAAgent(
            LocalPolicy(loaded, num_steps=num_steps, camera_map=camera_map, sampler="reference"), **options
        )

    steps = loaded.policy.config.num_steps
    yield agent
    loaded.policy.config.num_steps = steps


@pytest.fixture
def agent(make):
    return make(n_action_steps=4, seed=1)


def spaces(cameras=("wrist", "scene"), size=(256, 256), action=7, state=7):
    pixels = gym.spaces.Dict({name: gym.spaces.Box(0, 255, (*size, 3), np.uint8) for name in cameras})
    observation = gym.spaces.Dict({"pixels": pixels, "agent_pos": gym.spaces.Box(-4, 4, (state,), np.float32)})
    return observation, gym.spaces.Box(-4, 4, (action,), np.float32)


def rollout(agent, observation, count=10, **reset):
    agent.reset(SENTENCE, **reset)
    return np.array([agent.act(observation) for _ in range(count)])


def test_importing_costs_no_torch():
    code = "import sys, smolvla_gym.agent as a; a.ActionQueue; a.resize_area; sys.exit(any(m in sys.modules for m in "
    code += "('torch', 'lerobot', 'transformers', 'cv2')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_class_is_torch_free_too():
    code = "import sys, smolvla_gym.agent as a; a.SmolVLAAgent; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_from_pretrained(tiny, observation):
    agent = SmolVLAAgent.from_pretrained(tiny, device="cpu", n_action_steps=3, num_steps=2, seed=0)
    assert agent.cameras == ("wrist", "scene")
    assert agent.image_size == (64, 64)
    assert (agent.chunk_size, agent.n_action_steps, agent.num_steps) == (16, 3, 2)
    assert (agent.device, agent.name) == ("cpu", str(tiny))
    agent.check(*spaces())
    agent.reset(SENTENCE)
    action = agent.act(observation)
    assert action.shape == (7,)
    assert action.dtype == np.float32
    assert np.isfinite(action).all()


def test_the_queue_is_used_up_without_inference(agent, loaded, observation, monkeypatch):
    calls = Calls(monkeypatch, loaded.policy)
    agent.reset(SENTENCE)
    agent.act(observation)
    for _ in range(3):
        agent.act({})  # Not even looked at.
    assert len(calls.batches) == 1
    agent.act(observation)
    assert len(calls.batches) == 2


def test_reset_drops_the_plan(agent, loaded, observation, monkeypatch):
    calls = Calls(monkeypatch, loaded.policy)
    agent.reset(SENTENCE)
    agent.act(observation)
    agent.reset(SENTENCE)
    agent.act(observation)
    assert len(calls.batches) == 2


def test_the_first_actions_of_a_chunk_are_executed_in_order(make, observation):
    few, all_of_it = make(n_action_steps=4, seed=1), make(n_action_steps=16, seed=1)
    assert np.array_equal(rollout(few, observation, 4), rollout(all_of_it, observation, 16)[:4])


def test_inputs_of_the_policy(agent, loaded, observation, monkeypatch):
    import torch

    calls = Calls(monkeypatch, loaded.policy)
    observation["pixels"]["wrist"][:] = 255
    observation["pixels"]["scene"][:] = 51
    agent.reset(SENTENCE)
    agent.act(observation)
    (batch,) = calls.batches
    assert batch["observation.images.wrist"].shape == (1, 3, 64, 64)
    assert batch["observation.images.wrist"].unique().tolist() == [1.0]
    assert batch["observation.images.scene"].unique().tolist() == pytest.approx([0.2])
    assert batch["observation.language.attention_mask"].dtype == torch.bool
    stats = loaded.spec.preprocessor[-1].stats
    expected = (0.3 - stats["observation.state.mean"]) / stats["observation.state.std"]
    assert batch["observation.state"][0].numpy() == pytest.approx(expected, rel=1e-4)


def test_tokens_are_those_of_the_present_instruction(agent, loaded, observation, monkeypatch):
    from lerobot.processor import TokenizerProcessorStep

    calls, tokenized, tokenize = Calls(monkeypatch, loaded.policy), [], TokenizerProcessorStep.observation
    monkeypatch.setattr(TokenizerProcessorStep, "observation", lambda *a: tokenized.append(a) or tokenize(*a))
    for words in ("lift the red cube", "lift the blue cube", "lift the red cube"):
        for _ in range(2):
            agent.reset(words, seed=0)
            agent.act(observation)
    keys = ("observation.language.tokens", "observation.language.attention_mask", "observation.state")
    red, again, blue, still, last, at_last = ([batch[key].tolist() for key in keys] for batch in calls.batches)
    assert red == again == last == at_last
    assert blue == still != red
    assert len(tokenized) == 3  # an instruction that stays is not read again


def test_a_seed_repeats_the_noise_bit_for_bit(make, observation):
    agent = make(n_action_steps=4)
    first = rollout(agent, observation, seed=7)
    assert np.array_equal(rollout(agent, observation, seed=7), first)
    assert not np.array_equal(rollout(agent, observation, seed=8), first)
    assert not np.array_equal(rollout(agent, observation), first)
    assert np.array_equal(rollout(make(n_action_steps=4, seed=7), observation), first)


def test_the_global_random_state_does_not_matter(make, observation):
    import torch

    agent = make(n_action_steps=4)
    first = rollout(agent, observation, seed=7)
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    assert np.array_equal(rollout(agent, observation, seed=7), first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_instruction_matters(agent, observation):
    agent.reset(SENTENCE, seed=1)
    first = agent.act(observation)
    agent.reset("Pick up the blue cube.", seed=1)
    assert not np.array_equal(agent.act(observation), first)


def test_a_camera_map_swaps_pictures(make, observation):
    swapped = {"wrist": observation["pixels"]["scene"], "scene": observation["pixels"]["wrist"]}
    plain = rollout(make(seed=1), observation, 1)
    mapped = make(seed=1, camera_map={"wrist": "scene", "scene": "wrist"})
    assert mapped.cameras == ("scene", "wrist")
    assert np.array_equal(rollout(mapped, {**observation, "pixels": swapped}, 1), plain)


# Refusals.


def test_acting_before_reset_is_refused(make, observation):
    with pytest.raises(AgentNotResetError, match=r"agent\.reset"):
        make().act(observation)


@pytest.mark.parametrize("instruction", ["", "  ", None, 3, b"x"])
def test_instructions_are_text(agent, instruction):
    with pytest.raises(OptionError, match="instruction="):
        agent.reset(instruction)


def test_a_refused_instruction_leaves_no_plan(agent, observation):
    agent.reset(SENTENCE)
    agent.act(observation)
    with pytest.raises(OptionError, match="tokens"):
        agent.reset("please " * 40)
    assert agent.queue_length == 0
    with pytest.raises(AgentNotResetError):
        agent.act(observation)


@pytest.mark.parametrize("options", [{"n_action_steps": 0}, {"n_action_steps": 17}, {"num_steps": 0}])
def test_options_are_checked(make, options):
    with pytest.raises(OptionError):
        make(**options)


def test_a_camera_map_is_checked_at_once(make):
    with pytest.raises(PolicyMismatchError, match="camera_map"):
        make(camera_map={"camera1": "wrist"})


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (spaces(action=6), r"\(6,\)"),
        (spaces(state=9), r"'agent_pos' has shape \(9,\)"),
        (spaces(cameras=("wrist",)), r"cameras=\('wrist', 'scene'\)"),
        (spaces(size=(480, 640)), r"image_size=\(64, 64\)"),
    ],
)
def test_envs_that_do_not_fit_are_refused(agent, env, message):
    with pytest.raises(PolicyMismatchError, match=message):
        agent.check(*env)


def test_other_spaces_are_refused(agent):
    with pytest.raises(PolicyMismatchError):
        agent.check(gym.spaces.Box(-1, 1, (7,)), spaces()[1])


def test_the_first_observation_is_checked(agent, loaded, observation, monkeypatch):
    calls = Calls(monkeypatch, loaded.policy)
    agent.reset(SENTENCE)
    del observation["pixels"]["scene"]
    with pytest.raises(PolicyMismatchError, match="'scene'"):
        agent.act(observation)
    assert not calls.batches


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_states_that_are_not_finite_reach_no_arm(agent, observation, bad):
    agent.reset(SENTENCE)
    observation["agent_pos"][2] = bad
    with pytest.raises(ObservationError, match="joint_3"):  # refused before a chunk is made of it
        agent.act(observation)


def test_weights_that_are_not_finite_reach_no_arm(tiny, observation):
    import torch

    agent = SmolVLAAgent.from_pretrained(tiny, device="cpu")
    with torch.no_grad():
        agent.policy.checkpoint.policy.model.action_out_proj.weight[0, 0] = float("nan")
    agent.reset(SENTENCE)
    with pytest.raises(ActionError, match="not finite"):
        agent.act(observation)
    with pytest.raises(ActionError, match="not finite"):
        agent.act(observation)  # Nothing of the bad chunk was kept.
