"""Fast sampler of SmolVLA's action chunks: the same network without redundant computation."""

from smolvla_gym.agent.sampler.fast_sampler import FastSampler
from smolvla_gym.agent.sampler.layers import UnsupportedPolicyError

__all__ = ["FastSampler", "UnsupportedPolicyError"]
