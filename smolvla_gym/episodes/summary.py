"""Summary of a rollout: its episodes, its success rate and the timing of a real arm."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Final

import gymnasium as gym

from smolvla_gym.agent.protocol import Agent
from smolvla_gym.episodes.cadence import Cadence, Report
from smolvla_gym.episodes.callback import Callback, Step
from smolvla_gym.episodes.record import EpisodeRecord
from smolvla_gym.utils.json_file import save_json

SUMMARY_NAME: Final = "summary.json"


@dataclass
class RolloutSummary:
    """All episodes of a rollout.

    Attributes:
        env_id: Registered id of the env.
        policy: Name of the agent that drove the arm.
        control_hz: Control rate in Hz.
        episodes: In the order they ran; the last one is incomplete where ``interrupted``.
        interrupted: Whether an error or Ctrl-C cut the rollout short.
        cadence: Timing of all control steps of a real arm.
        link: Statistics of the exchanges with its board, in real time; None elsewhere. In JSON these two stand only
            where they are not empty.
    """

    env_id: str
    policy: str
    control_hz: float
    episodes: list[EpisodeRecord] = field(default_factory=list)
    interrupted: bool = False
    cadence: Cadence = field(default_factory=Cadence)
    link: Report | None = None

    @property
    def success_rate(self) -> float | None:
        """Fraction of the complete episodes that succeeded, without an interval; None where there is none."""
        complete = [episode.success for episode in self.episodes if episode.end != "interrupted"]
        return sum(complete) / len(complete) if complete else None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of :file:`summary.json`."""
        real = {"cadence": self.cadence.report(), "link": self.link}
        return {
            "env_id": self.env_id,
            "policy": self.policy,
            "control_hz": self.control_hz,
            "success_rate": self.success_rate,
            "interrupted": self.interrupted,
            **{name: report for name, report in real.items() if report},
            "episodes": [episode.to_dict() for episode in self.episodes],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the summary as JSON. A reader sees the old file or the whole new one, never a part.

        Raises:
            RecordingError: The file could not be written; an older one is unchanged.
        """
        save_json(path, self.to_dict(), "summary")


class SummaryCallback(Callback):
    """Callback that adds each episode to a summary from its first step on, so that an interrupted one is there, too."""

    def __init__(self, summary: RolloutSummary, agent: Agent) -> None:
        """Take the summary.

        Args:
            summary: Summary to add to.
            agent: Agent of the episodes, whose ``statistics`` are added where it has any.
        """
        self._summary, self._agent = summary, agent
        self._cadence = Cadence()

    def begin(self, env: gym.Env[Any, Any], record: EpisodeRecord) -> None:
        """Add the episode."""
        self._summary.episodes.append(record)
        self._cadence = Cadence()

    def step(self, record: EpisodeRecord, step: Step) -> None:
        """Add the timing of a step in real time."""
        timing = step.info.get("timing") or {}
        if "late" in timing and record.steps > 1:  # the first step sets the due time of the others
            self._cadence.add(timing)
            self._summary.cadence.add(timing)

    def end(self, record: EpisodeRecord) -> None:
        """Complete the episode's record."""
        record.cadence = self._cadence.report() or None
        statistics = getattr(self._agent, "statistics", None)
        record.agent = statistics.report() if statistics is not None else None
