"""Interface of a policy: its card, requests and action chunks. Nothing here imports torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.instructions import check_instruction

Observation = Mapping[str, Any]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class PolicyCard:
    """Description of a policy.

    Attributes:
        name: Name under which it was loaded.
        cameras: Size (height, width) in px of the image of each policy camera.
        camera_map: Env camera by policy camera.
        chunk_size: Number of actions in a chunk.
        n_action_steps: Execution horizon in training: number of actions to execute before the next observation.
        num_steps: Flow steps of a chunk.
        noise_width: Width of the noise that a chunk is sampled from; its length is ``chunk_size``.
        device: Device in torch's spelling.
        empty_cameras: Number of cameras that may be missing, according to the checkpoint.
        absent_cameras: Policy cameras that are left out on purpose; ``cameras`` lacks them.
        control_hz: Control rate in Hz in training; None: unknown.
        gripper: Gripper in training; None: unknown.
        max_delay: Largest inference delay in actions that the policy was trained for: it continues that many given
            actions, the committed prefix. 0: it was not trained with a prefix, and RTC guides it.
    """

    name: str
    cameras: Mapping[str, tuple[int, int]]
    camera_map: Mapping[str, str]
    chunk_size: int
    n_action_steps: int
    num_steps: int
    noise_width: int
    device: str
    empty_cameras: int = 0
    absent_cameras: tuple[str, ...] = ()
    control_hz: float | None = None
    gripper: str | None = None
    max_delay: int = 0

    @property
    def env_cameras(self) -> tuple[str, ...]:
        """The env cameras that the policy uses, each once."""
        return tuple(dict.fromkeys(self.camera_map.values()))

    def draw_noise(self) -> Array:
        """Return fresh noise for a chunk, standard normal, shape (chunk_size, noise_width)."""
        return np.random.default_rng().standard_normal((self.chunk_size, self.noise_width), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class ChunkRequest:
    """Inputs of an action chunk.

    Attributes:
        observation: The env's observation.
        instruction: The instruction in words.
        noise: Start of the flow, standard normal, shape (chunk_size, noise_width).
        leftover: For real-time chunking: actions that are still planned at the moment of the observation, in the
            policy's normalized units, shape (n, 7), which the new chunk continues; None: nothing is planned.
        inference_delay: Number of leftover actions that will be executed before the chunk is used: the committed
            prefix. A policy with ``max_delay`` above 0 gets it as given, and the chunk begins with it: the leftover
            after it has no effect. Any other policy is guided to continue all of the leftover.
        absent: Policy cameras that are left out of this request, in addition to those that the card lacks.
    """

    observation: Observation
    instruction: str
    noise: Array
    leftover: Array | None = None
    inference_delay: int = 0
    absent: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Chunk:
    """Action chunk: actions for the control step of an observation and the steps after it.

    Attributes:
        actions: Joint targets in rad and gripper opening, shape (chunk_size, 7), finite.
        normalized: The same actions in the policy's normalized units.
    """

    actions: Array
    normalized: Array


class ChunkPolicy(ABC):
    """A policy that computes a chunk for each request. It has no state between requests."""

    @property
    @abstractmethod
    def card(self) -> PolicyCard:
        """Description of the policy."""

    def check_instruction(self, instruction: object) -> str:
        """Return an instruction as the policy gets it, without running inference.

        Raises:
            OptionError: The instruction is invalid, or longer than the policy reads.
        """
        return check_instruction(instruction)

    @abstractmethod
    def infer(self, request: ChunkRequest) -> Chunk:
        """Compute a chunk; this blocks until it is computed.

        Raises:
            ActionError: The chunk is not finite.
            OptionError: The instruction is invalid, or longer than the policy reads.
            PolicyMismatchError: The observation is not what the policy needs.
            PolicyConnectionError: The policy server cannot be reached at the moment; repeating the request may help.
        """

    def close(self) -> None:  # noqa: B027 - most policies hold no resources
        """Release resources. Calling it twice is harmless."""
