"""Compute one chunk before the arm moves: the first chunk loads kernels, and may compile them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import gymnasium as gym
import numpy as np

from smolvla_gym.agent.cameras import match_cameras
from smolvla_gym.agent.chunk_scheduler import ChunkingOptions, ChunkScheduler
from smolvla_gym.agent.inference_runner import InferenceRunner
from smolvla_gym.agent.instructions import WARM_UP_INSTRUCTION
from smolvla_gym.agent.policies.base import ChunkRequest, PolicyCard
from smolvla_gym.parol6 import STANDBY

_TIMEOUT_S: Final = 120.0
"""Longest time in s for the first chunk."""


def warm_up(card: PolicyCard, runner: InferenceRunner, observation_space: gym.spaces.Dict) -> None:
    """Compute a chunk from a placeholder observation and drop it, in the thread that will compute the others.

    Args:
        card: The policy's card.
        runner: Computes the policy's chunks.
        observation_space: The env's, as :func:`~smolvla_gym.agent.input_validation.check_spaces` has accepted it.

    Raises:
        InferenceError: The policy failed.
        InferenceTimeoutError: The policy returned no chunk.
        PolicyConnectionError: The policy server cannot be reached.
    """
    pixels = observation_space["pixels"]
    assert isinstance(pixels, gym.spaces.Dict)  # noqa: S101 - narrows a type
    sizes = {name: (box.shape or (0, 0))[:2] for name, box in pixels.items()}
    observation = make_warm_up_observation(card, {name: (size[0], size[1]) for name, size in sizes.items()})
    scheduler = ChunkScheduler(card, runner, ChunkingOptions.choose(card, timeout_s=_TIMEOUT_S))
    scheduler.reset(WARM_UP_INSTRUCTION, np.random.default_rng(0))
    scheduler.step(observation)
    if scheduler.connection_error is not None:  # the scheduler would repeat the request in the next step
        raise scheduler.connection_error


def make_warm_up_request(card: PolicyCard) -> ChunkRequest:
    """Return a request with a placeholder observation whose images have the policy's own sizes."""
    sizes = {env_camera: card.cameras[policy_camera] for policy_camera, env_camera in card.camera_map.items()}
    return ChunkRequest(make_warm_up_observation(card, sizes), WARM_UP_INSTRUCTION, card.draw_noise())


def make_warm_up_observation(card: PolicyCard, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Return a placeholder observation: black images, and the arm in its standby pose.

    Args:
        card: The policy's card.
        sizes: Height and width in px of the images of each env camera.
    """
    images = {camera: np.zeros((*sizes[camera], 3), np.uint8) for camera in match_cameras(card, sizes).values()}
    return {"pixels": images, "agent_pos": np.append(STANDBY, 1.0).astype(np.float32)}
