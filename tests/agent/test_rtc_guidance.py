"""Guidance of real-time chunking: equal to LeRobot's except for the documented differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("lerobot")

import torch

from smolvla_gym.agent.policies.base import ChunkRequest
from smolvla_gym.agent.policies.local import LocalPolicy
from smolvla_gym.agent.rtc_guidance import SCHEDULES, PrefixGuidance, prefix_weights

CHUNK, WIDTH = 16, 7


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.sampled_from(SCHEDULES))
def test_the_weights_decay_from_one_to_zero(delay, left, length, schedule):
    weights = prefix_weights(delay, left, length, schedule)
    assert weights.shape == (length,)
    assert (np.diff(weights) <= 0).all()
    assert ((weights >= 0) & (weights <= 1)).all()
    assert (weights[: min(delay, left)] == 1).all()
    assert not weights[left:].any()


def lerobots(max_weight, schedule="linear"):
    from lerobot.configs.types import RTCAttentionSchedule
    from lerobot.policies.rtc.configuration_rtc import RTCConfig
    from lerobot.policies.rtc.modeling_rtc import RTCProcessor

    return RTCProcessor(
        RTCConfig(
            enabled=True,
            max_guidance_weight=max_weight,
            prefix_attention_schedule=RTCAttentionSchedule[schedule.upper()],
        )
    )


def step(processor, x, left, delay, time, horizon=CHUNK, slope=0.7):
    return processor.denoise_step(x, left, delay, time, lambda x: slope * x + 0.1, execution_horizon=horizon)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("time", [1.0, 0.8, 0.5, 0.2])
@pytest.mark.parametrize("delay", [0, 3, 16])
def test_it_equals_lerobots_without_padding(schedule, time, delay):
    generator = torch.Generator().manual_seed(0)
    x, left = torch.randn(2, CHUNK, WIDTH, generator=generator)
    actual = step(PrefixGuidance(5.0, schedule), x[None], left, delay, time)
    expected = step(lerobots(5.0, schedule), x[None], left[None], delay, time)
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=1e-5)


def flow(guidance, left, delay, steps=5, target=3.0):
    """Integrates a flow that leads everything to ``target``, as LeRobot does."""
    x = torch.randn(1, CHUNK, 12, generator=torch.Generator().manual_seed(1))
    for i in range(steps):
        time = 1.0 - i / steps
        x = x - guidance.denoise_step(x, left, delay, time, lambda x, t=time: (x - target) / t) / steps
    return x[0]


def test_leftover_actions_are_continued_and_later_ones_are_free():
    left = torch.full((6, WIDTH), -1.0)
    result = flow(PrefixGuidance(5.0), left, delay=4)
    free = flow(PrefixGuidance(5.0), None, delay=4)
    torch.testing.assert_close(free, torch.full_like(free, 3.0))
    assert (result[:4, :WIDTH] + 1.0).abs().max() < 0.8  # four fifths of the way at least
    assert (result[4:6, :WIDTH] > result[:4, :WIDTH].max()).all()
    # LeRobot would draw the actions behind what is left, and the padding of the action's width, towards zero.
    torch.testing.assert_close(result[6:], free[6:])
    torch.testing.assert_close(result[:, WIDTH:], free[:, WIDTH:])


@pytest.fixture
def policy(loaded):
    return LocalPolicy(loaded)


def request_(policy, observation, left=None, delay=0):
    noise = (
        np.random.default_rng(0).standard_normal((policy.card.chunk_size, policy.card.noise_width)).astype(np.float32)
    )
    return ChunkRequest(observation, "Pick up the red cube.", noise, left, delay)


def test_the_policy_continues_a_plan(policy, observation):
    free = policy.infer(request_(policy, observation))
    left = free.normalized[4:] + np.float32(0.5)
    guided = policy.infer(request_(policy, observation, left, delay=6))
    far, near = np.abs(free.normalized[:6] - left[:6]).mean(), np.abs(guided.normalized[:6] - left[:6]).mean()
    assert near < 0.35 * far
    # Without anything left it is the same as ever, and an empty rest is nothing left.
    empty = policy.infer(request_(policy, observation, left[:0]))
    np.testing.assert_array_equal(empty.normalized, free.normalized)


def test_no_gradient_is_recorded(policy, loaded, observation):
    assert any(parameter.requires_grad for parameter in loaded.policy.parameters())
    seen = []
    model = loaded.policy.model
    handle = model.action_out_proj.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        policy.infer(request_(policy, observation, np.zeros((5, 7), np.float32), delay=2))
    finally:
        handle.remove()
    assert seen
    assert not any(output.requires_grad for output in seen)


def test_lerobots_own_results_are_untouched(loaded, observation):
    """The chunk without guidance equals that of ``predict_action_chunk`` of an unwrapped policy."""
    policy = LocalPolicy(loaded, sampler="reference")
    asked = request_(policy, observation)
    actual = policy.infer(asked).normalized
    loaded.policy.config.rtc_config = None
    loaded.policy.model.rtc_processor = None
    with torch.no_grad():
        batch = loaded.preprocessor(policy._frame(asked, asked.instruction))
        expected = loaded.policy.predict_action_chunk(batch, noise=torch.from_numpy(asked.noise)[None])
    np.testing.assert_array_equal(actual, expected[0].numpy())
