"""What a queue of action chunks needs of a policy, wherever that runs. Nothing here imports torch."""

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
    """What there is to know of a policy before it is asked.

    Attributes:
        name: What it was called when it was loaded.
        cameras: Size (height, width) in px of each picture it wants, by its own name for it.
        camera_map: The env's camera for each of them.
        chunk_size: Actions a chunk.
        n_action_steps: How many of them it was meant to execute before it looks again.
        num_steps: Flow steps a chunk.
        noise_width: Width of the noise that a chunk is made of; its length is ``chunk_size``.
        device: Where it computes, in torch's spelling.
        empty_cameras: How many of its cameras may be missing, as its checkpoint says.
        absent_cameras: Its own names of cameras that are left out on purpose; ``cameras`` lacks them.
        control_hz: Control rate in Hz that it was trained at; None: unknown.
        gripper: The gripper that it was trained with; None: unknown.
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

    @property
    def env_cameras(self) -> tuple[str, ...]:
        """The env's cameras that it looks through, each once."""
        return tuple(dict.fromkeys(self.camera_map.values()))


@dataclass(frozen=True, eq=False)
class ChunkRequest:
    """What a chunk is asked for with.

    Attributes:
        observation: The env's.
        instruction: What to do, in words.
        noise: What the flow starts from, standard normal, shape (chunk_size, noise_width).
        leftover: What is still planned at the moment of the observation, in the policy's own units, shape (n, 7), for
            the new chunk to continue (real-time chunking); None: nothing.
        inference_delay: How many of those will have been executed when the chunk arrives.
        absent: The policy's cameras that are left out of this request, besides those that its card lacks.
    """

    observation: Observation
    instruction: str
    noise: Array
    leftover: Array | None = None
    inference_delay: int = 0
    absent: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Chunk:
    """Actions for the step of an observation and those that follow it.

    Attributes:
        actions: Joint targets in rad and gripper opening, shape (chunk_size, 7), finite.
        normalized: The same in the policy's own (normalised) units.
    """

    actions: Array
    normalized: Array


class ChunkPolicy(ABC):
    """A policy that turns a request into a chunk. It has no state between two requests."""

    @property
    @abstractmethod
    def card(self) -> PolicyCard:
        """What there is to know of it."""

    def check_instruction(self, instruction: object) -> str:
        """Return an instruction as the policy is to get it, without computing anything.

        Raises:
            OptionError: It is no instruction, or the policy cannot read all of it.
        """
        return check_instruction(instruction)

    @abstractmethod
    def infer(self, request: ChunkRequest) -> Chunk:
        """Computes a chunk; it may take its time.

        Raises:
            ActionError: The chunk is not finite.
            OptionError: The instruction is none, or the policy cannot read all of it.
            PolicyMismatchError: The observation is not what the policy needs.
            PolicyConnectionError: It is elsewhere and cannot be reached at the moment; asking again may help.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to give back
        """Gives back what it holds; doing it twice does no harm."""
