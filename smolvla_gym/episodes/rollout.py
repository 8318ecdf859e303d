"""Runs episodes of an agent in an env, films them and sums them up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import gymnasium as gym

from smolvla_gym.agent.scripted import Agent, attach
from smolvla_gym.episodes.cadence import Cadence, Report, watch_link
from smolvla_gym.episodes.observer import EpisodeObserver, Watch
from smolvla_gym.episodes.video import EpisodeVideo
from smolvla_gym.errors import OptionError, RecordingError
from smolvla_gym.safety import Shaping
from smolvla_gym.safety.report import add_shaping
from smolvla_gym.utils.json_file import save_json

SUMMARY_NAME: Final = "summary.json"


@dataclass
class EpisodeRecord:
    """One episode. It grows while the episode runs.

    Attributes:
        seed: Seed of the env and of the agent.
        task: Name of the task.
        instruction: What the agent was told.
        success: Whether the task was solved at any step.
        steps: Control steps taken.
        return_: Sum of the rewards; ``return`` in JSON.
        end: Why it ended: ``terminated``, ``truncated`` (out of time), ``fault`` or ``interrupted``; None: it runs.
        fault: Name of the fault that ended it.
        safety: Number of interventions of the safety functions, by rule; empty in a normal episode.
        shaping: Sum over the steps of the number of joints that each limit slowed down, by limit.
        video: Name of the video in the output folder.
        cadence: How well the steps of a real arm kept their beat; None, and not in JSON, in the simulation.
        agent: What became of the agent's chunks; None, and not in JSON, for an agent without any.
    """

    seed: int
    task: str
    instruction: str
    success: bool = False
    steps: int = 0
    return_: float = 0.0
    end: str | None = None
    fault: str | None = None
    safety: dict[str, int] = field(default_factory=dict)
    shaping: Shaping = field(default_factory=dict)
    video: str | None = None
    cadence: Report | None = None
    agent: Report | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns what :file:`summary.json` holds of it."""
        values = {name.rstrip("_"): value for name, value in asdict(self).items()}
        for name in ("cadence", "agent"):
            if values[name] is None:
                del values[name]
        return values


@dataclass
class RolloutSummary:
    """All episodes of a rollout.

    Attributes:
        env_id: The env's registered id.
        policy: What drove the arm, in words.
        control_hz: Control steps per second.
        episodes: In the order they ran; the last one is incomplete where ``interrupted``.
        interrupted: Whether an error or Ctrl-C cut the rollout short.
        cadence: How well all steps of a real arm kept their beat.
        link: What became of the exchanges with its board, in real time; None elsewhere. In JSON these two stand only
            where there is something in them.
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
        """Fraction of the complete episodes that succeeded; None where there is none."""
        complete = [episode.success for episode in self.episodes if episode.end != "interrupted"]
        return sum(complete) / len(complete) if complete else None

    def to_dict(self) -> dict[str, Any]:
        """Returns what :file:`summary.json` holds."""
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
        """Writes the summary as JSON. A reader sees the old file or the whole new one, never a part.

        Raises:
            RecordingError: It could not be written; what stood there before still does.
        """
        save_json(path, self.to_dict(), "summary")


def rollout(
    env: gym.Env[Any, Any],
    agent: Agent,
    *,
    episodes: int = 1,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    video: bool = True,
    policy: str | None = None,
    name: str = "rollout",
    summary: RolloutSummary | None = None,
    judge: Callable[[EpisodeRecord], bool] | None = None,
    progress: Callable[[EpisodeRecord], None] | None = None,
    observers: Sequence[EpisodeObserver] = (),
) -> RolloutSummary:
    """Runs an agent for some episodes.

    With ``out``, the folder receives ``summary.json`` and, with ``video``, ``rollout.mp4`` or, for several episodes,
    ``rollout_000.mp4`` and so on. Whatever cuts the rollout short, Ctrl-C included, is raised again after the video
    was finished and the summary of the episodes so far, if there are any, was saved with ``"interrupted": true``.

    The film shows ``env.render()`` with the wrist's view in a corner; in real time, where drawing would make steps
    late, it is made of the observed pictures after the episode.

    Args:
        env: The env, ``render_mode="rgb_array"`` for videos. It stays open.
        agent: What drives it.
        episodes: How many, each until the env ends it.
        seed: Seed of the first episode; the following ones count up.
        out: Output folder, made if absent; None writes no files.
        video: Whether to film, given ``out``.
        policy: What the summary calls the agent; None: its class.
        name: What the names of the videos begin with.
        summary: That of earlier episodes of this agent, in another env perhaps, which this one goes on with; its
            ``link`` becomes that of this env. None: a new one.
        judge: Says after each episode whether it was solved, as a person does beside a real arm, whose env cannot
            tell. None: the env says so.
        progress: Called with the record of the running episode after each step and at its end (``end`` is set then).
        observers: Who else watches, see :mod:`smolvla_gym.integrations`. They stay open.

    Returns:
        The summary.

    Raises:
        OptionError: ``episodes`` is below one, or the env cannot be filmed.
        RecordingError: A file could not be written.

    Example:
        >>> import gymnasium, smolvla_gym
        >>> from smolvla_gym.agent.scripted import ExpertAgent
        >>> env = gymnasium.make("PAROL6Sim-v0", task="lift")  # doctest: +SKIP
        >>> rollout(env, ExpertAgent(env), episodes=10).success_rate  # doctest: +SKIP
        1.0
    """
    folder = None if out is None else Path(out)
    if episodes < 1:
        raise OptionError("episodes", episodes, "at least one")
    if folder is not None and video and env.render_mode != "rgb_array":
        raise OptionError("video", video, f"the env has render_mode={env.render_mode!r}; make it with 'rgb_array'")
    fps = float(env.metadata["render_fps"])
    env_id = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    summary = RolloutSummary(env_id, policy or type(agent).__name__, fps) if summary is None else summary
    attach(agent, env)
    watch = watch_link(env)
    digits = max(3, len(str(episodes - 1)))
    try:
        for index in range(episodes):
            path = None
            if folder is not None and video:
                path = folder / (f"{name}.mp4" if episodes == 1 else f"{name}_{index:0{digits}d}.mp4")
            _run_episode(env, agent, seed + index, path, summary, watch is not None, judge, progress, observers)
            summary.link = watch.report() if watch is not None else None
    except BaseException as error:
        summary.interrupted = True
        summary.link = watch.report() if watch is not None else None
        if folder is not None and summary.episodes:
            try:
                summary.save(folder / SUMMARY_NAME)
            except RecordingError as failure:
                error.add_note(str(failure))
        raise
    if folder is not None:
        summary.save(folder / SUMMARY_NAME)
    return summary


def _run_episode(
    env: gym.Env[Any, Any],
    agent: Agent,
    seed: int,
    path: Path | None,
    summary: RolloutSummary,
    realtime: bool,
    judge: Callable[[EpisodeRecord], bool] | None,
    progress: Callable[[EpisodeRecord], None] | None,
    observers: Sequence[EpisodeObserver],
) -> None:
    """Runs one episode; its record is in the summary from the first step on, whatever happens later."""
    observation, info = env.reset(seed=seed)
    record = EpisodeRecord(seed=seed, task=_task_name(env), instruction=str(info["instruction"]))
    summary.episodes.append(record)
    fps, cadence = summary.control_hz, Cadence()
    film = EpisodeVideo(path, fps, realtime=realtime) if path is not None else None
    try:
        with film or contextlib.nullcontext():
            agent.reset(record.instruction, seed=seed)
            watch = Watch(observers, env, agent, seed, record.instruction)
            watch.note(observation, info, None)
            if film is not None:
                film.add(env, observation, _lines(record, fps, agent))
            end = None
            while end is None:
                action = agent.act(observation)
                observation, reward, terminated, truncated, info = env.step(action)
                watch.note(observation, info, action)
                record.steps += 1
                record.return_ += float(reward)
                record.success = record.success or bool(info.get("is_success", False))
                timing = info.get("timing") or {}
                if "late" in timing and record.steps > 1:  # the first one sets the beat
                    cadence.add(timing)
                    summary.cadence.add(timing)
                for intervention in info.get("safety", ()):
                    record.safety[intervention["rule"]] = record.safety.get(intervention["rule"], 0) + 1
                add_shaping(record.shaping, info.get("shaping", {}))
                if info.get("fault") is not None:
                    record.fault, end = str(info["fault"]), "fault"
                elif terminated or truncated:
                    end = "terminated" if terminated else "truncated"
                if film is not None:
                    film.add(env, observation, _lines(record, fps, agent), record.success)
                if end is None and progress is not None:
                    progress(record)
    except BaseException:
        record.end = "interrupted"
        raise
    finally:
        record.cadence = cadence.report() or None
        statistics = getattr(agent, "statistics", None)
        record.agent = statistics.report() if statistics is not None else None
        # Named only if it stands there: a file that could not be finished is gone.
        if path is not None and film is not None and film.saved:
            record.video = path.name
    record.end = end
    if judge is not None:
        record.success = judge(record)
    watch.end(record.success)
    if progress is not None:
        progress(record)


def _lines(record: EpisodeRecord, fps: float, agent: Agent) -> tuple[str, str]:
    clock = f"step {record.steps:4d}    {record.steps / fps:6.2f} s"
    holding = getattr(getattr(agent, "statistics", None), "holding", False)
    said = f"FAULT {record.fault}" if record.fault else "holds: no chunk yet" if holding else ""
    return record.instruction, f"{clock}    {said}".rstrip()


def _task_name(env: gym.Env[Any, Any]) -> str:
    task = getattr(env.unwrapped, "task", "")
    return str(getattr(task, "name", task))
