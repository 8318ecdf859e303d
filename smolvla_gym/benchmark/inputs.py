"""Requests that policies are measured with: equal cameras give equal requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Final

import numpy as np

from smolvla_gym.agent.policies.base import ChunkRequest, PolicyCard
from smolvla_gym.parol6 import STANDBY

_STEPS_APART: Final = 10
"""Control steps by which each request from the simulation is later in its episode than the one before."""


def noise_requests(card: PolicyCard, count: int, seed: int = 0) -> list[ChunkRequest]:
    """Return requests with random images and poses near standby. They need neither OpenGL nor a known camera.

    Args:
        card: The policy's card.
        count: Number of requests.
        seed: Seed of images, poses and the flow's noise.
    """
    requests = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        pose = np.append(STANDBY + rng.uniform(-0.3, 0.3, len(STANDBY)), rng.uniform())
        pixels = {
            env_camera: rng.integers(0, 256, (*card.cameras[policy_camera], 3), dtype=np.uint8)
            for policy_camera, env_camera in card.camera_map.items()
        }
        observation = {"pixels": pixels, "agent_pos": pose.astype(np.float32)}
        requests.append(_request(card, observation, "pick up the red cube", rng))
    return requests


def sim_requests(card: PolicyCard, count: int, seed: int = 0) -> list[ChunkRequest]:
    """Return requests from episodes of the simulation in which the scripted expert lifts a cube.

    Args:
        card: The policy's card; its cameras have to be the simulation's.
        count: Number of requests, each from an episode of its own and from a later step.
        seed: Seed of the first episode and of the flow's noise.

    Raises:
        PolicyMismatchError: The simulation has no such camera.
        RenderingError: No OpenGL context could be made.
    """
    import gymnasium as gym

    from smolvla_gym import SIM_ID
    from smolvla_gym.agent.cameras import required_env_cameras
    from smolvla_gym.agent.images import env_image_size
    from smolvla_gym.sim.scene import CAMERAS

    size, cameras = env_image_size(next(iter(card.cameras.values()))), required_env_cameras(card, CAMERAS)
    requests = []
    with gym.make(SIM_ID, task="lift", cameras=cameras, image_size=size) as env:
        parol6: Any = env.unwrapped
        for number in range(count):
            observation, info = env.reset(seed=seed + number)
            for _ in range(_STEPS_APART * number):
                observation, _, terminated, truncated, _ = env.step(parol6.expert_action())
                if terminated or truncated:
                    break
            rng = np.random.default_rng([seed, number])
            requests.append(_request(card, deepcopy(observation), info["instruction"], rng))
    return requests


INPUTS: Final[Mapping[str, Callable[[PolicyCard, int], list[ChunkRequest]]]] = {
    "noise": noise_requests,
    "sim": sim_requests,
}
"""Kinds of requests by name."""


def _request(card: PolicyCard, observation: Mapping[str, Any], text: str, rng: np.random.Generator) -> ChunkRequest:
    noise = rng.standard_normal((card.chunk_size, card.noise_width), dtype=np.float32)
    return ChunkRequest(observation, text, noise)
