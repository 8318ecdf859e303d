"""Options of an agent that do not depend on where its policy runs, and the errors of a wrong order of calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from numpy.typing import NDArray

from smolvla_gym.errors import SmolVLAGymError


class AgentOptions(TypedDict, total=False):
    """Keywords of :class:`~smolvla_gym.agent.smolvla_agent.SmolVLAAgent`, which documents them."""

    mode: str
    n_action_steps: int | None
    queue_threshold: int | None
    aggregate: str | None
    latency_ms: float | Sequence[float] | NDArray[Any] | None
    timeout_s: float
    seed: int | None
    allow_mismatch: bool


class AgentNotResetError(SmolVLAGymError, RuntimeError):
    """The agent has to act and has no instruction."""

    def __init__(self) -> None:
        """Build the message."""
        super().__init__("The agent has no instruction yet. Call agent.reset(info['instruction']) after env.reset().")


class AgentNotAttachedError(SmolVLAGymError, RuntimeError):
    """The agent's options need the clock of an env, and the agent has none."""

    def __init__(self, option: str) -> None:
        """Build the message.

        Args:
            option: The option that needs the clock.
        """
        super().__init__(
            f"An agent with {option} needs the env's control rate and whether its time is real. "
            "Call agent.attach(env) once after gym.make()."
        )
