"""What policies are asked in a measurement: the same for all that have the same cameras, as often as it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from smolvla_gym.agent.policies.base import ChunkRequest, PolicyCard
from smolvla_gym.parol6 import STANDBY

_INSTRUCTION: Final = "pick up the red cube"
_APART: Final = 10
"""Steps of the expert between the moments of two requests from the simulation."""


def noise_requests(card: PolicyCard, count: int, seed: int = 0) -> list[ChunkRequest]:
    """Makes requests with random pictures, near the standby pose. They need neither OpenGL nor a known camera.

    Args:
        card: The policy.
        count: How many.
        seed: Seed of pictures, poses and the flow's noise.
    """
    requests = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        pose = np.append(STANDBY + rng.uniform(-0.3, 0.3, len(STANDBY)), rng.uniform())
        pixels: dict[str, Any] = {}
        for ours, theirs in card.camera_map.items():
            pixels.setdefault(theirs, rng.integers(0, 256, (*card.cameras[ours], 3), dtype=np.uint8))
        requests.append(_request(card, {"pixels": pixels, "agent_pos": pose.astype(np.float32)}, _INSTRUCTION, rng))
    return requests


def sim_requests(card: PolicyCard, count: int, seed: int = 0) -> list[ChunkRequest]:
    """Makes requests from the simulation, where the scripted expert lifts a cube: each from another episode, and later.

    Args:
        card: The policy; its cameras have to be the simulation's.
        count: How many.
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
        body: Any = env.unwrapped
        for number in range(count):
            observation, info = env.reset(seed=seed + number)
            for _ in range(_APART * number):
                observation, _, terminated, truncated, _ = env.step(body.expert_action())
                if terminated or truncated:
                    break
            copy = {
                "pixels": {name: np.array(pixels) for name, pixels in observation["pixels"].items()},
                "agent_pos": np.array(observation["agent_pos"]),
            }
            requests.append(_request(card, copy, info["instruction"], np.random.default_rng([seed, number])))
    return requests


INPUTS: Final[Mapping[str, Callable[[PolicyCard, int, int], list[ChunkRequest]]]] = {
    "noise": noise_requests,
    "sim": sim_requests,
}
"""The kinds of requests by name."""


def _request(
    card: PolicyCard, observation: Mapping[str, Any], instruction: str, rng: np.random.Generator
) -> ChunkRequest:
    noise = rng.standard_normal((card.chunk_size, card.noise_width), dtype=np.float32)
    return ChunkRequest(observation, instruction, noise)
