"""Chunks of SmolVLA's actions, sooner: the same network, with everything computed once that does not change."""

from smolvla_gym.agent.sampler.fast_sampler import FastSampler
from smolvla_gym.agent.sampler.layers import UnsupportedPolicyError

__all__ = ["FastSampler", "UnsupportedPolicyError"]
