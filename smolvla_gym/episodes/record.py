"""Record of one episode."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from smolvla_gym.episodes.cadence import Report


@dataclass
class EpisodeRecord:
    """One episode. It grows while the episode runs.

    Attributes:
        seed: Seed of the env and of the agent.
        task: Name of the task.
        instruction: Instruction that the agent got.
        success: Whether the task succeeded at any step, or the verdict of the demonstrator or operator.
        steps: Control steps taken.
        return_: Sum of the rewards; ``return`` in JSON.
        end: Why it ended: ``terminated``, ``truncated`` (out of time), ``fault``, ``agent`` (the agent ended it) or
            ``interrupted`` (an exception); None: it runs.
        fault: Name of the fault that ended it.
        failure: Failure mode in a few words; None: it runs, is a success, or the env cannot detect it. Not in JSON.
        safety: How often each rule of the safety gate stepped in.
        video: Name of the video in the output folder.
        cadence: Timing of the control steps of a real arm; None, and not in JSON, in the simulation.
        agent: Statistics of the agent's action chunks; None, and not in JSON, for an agent without any.
    """

    seed: int
    task: str
    instruction: str
    success: bool = False
    steps: int = 0
    return_: float = 0.0
    end: str | None = None
    fault: str | None = None
    failure: str | None = None
    safety: dict[str, int] = field(default_factory=dict)
    video: str | None = None
    cadence: Report | None = None
    agent: Report | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the episode's entry in :file:`summary.json`."""
        values = {name.rstrip("_"): value for name, value in asdict(self).items() if name != "failure"}
        for name in ("cadence", "agent"):
            if values[name] is None:
                del values[name]
        return values
