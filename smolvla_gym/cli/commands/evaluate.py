"""``smolvla-gym eval``: measure the success rate of a policy in the simulation, under several conditions."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.options.agent import SweepOptions, check_checkpoint_policy, policy_max_delay, policy_rate
from smolvla_gym.cli.options.arguments import at_least, path
from smolvla_gym.cli.options.environment import SceneOptions
from smolvla_gym.cli.options.parser import AddParser, UsageError, command, group, option
from smolvla_gym.cli.options.resuming import kept_values, restore
from smolvla_gym.cli.options.telemetry import TelemetryOptions
from smolvla_gym.cli.output import output_folder, print_table, say
from smolvla_gym.cli.progress import progress_bar

if TYPE_CHECKING:
    from smolvla_gym.episodes.callback import Callback
    from smolvla_gym.evaluation.conditions import Condition, EvaluationOptions, Outcome
    from smolvla_gym.evaluation.journal import EpisodeJournal

_EXAMPLES: Final = """examples:
  smolvla-gym eval                                          the bundled policy, 100 seeds
  smolvla-gym eval --latency-ms 0 200 466 --mode sync async rtc
                                                            nine conditions, the same seeds in each
  smolvla-gym eval --policy DIR --vs bundled                which is better, on the same seeds
  smolvla-gym eval --task reach lift place push stack --num-objects 3
                                                            a row for each task
  smolvla-gym eval --num-steps 1 2 3 5 10                   how many flow steps it needs
  smolvla-gym eval --swap-instruction                       the same scenes with another colour named
  smolvla-gym eval --resume outputs/eval/2026-01-31_12-00-00
                                                            goes on with one that was stopped
  smolvla-gym eval --policy DIR --task lift --episodes 20 --json | jq '.conditions[].success_rate'
"""


@dataclass(kw_only=True)
class EvalOptions(SceneOptions):
    """Options of ``smolvla-gym eval``. Those that decide about the results are kept when it resumes."""

    task: list[str] = option("what to do; `smolvla-gym tasks` lists them", ["lift"], kept=True)
    policy: str = option("bundled, a checkpoint folder, or a Hub repository OWNER/NAME", "bundled", kept=True)
    vs: str | None = option("a second policy, compared with the first one seed by seed", None, metavar="P2", kept=True)
    episodes: int = option("seeds a condition", 100, parse=at_least(1, 1_000_000), metavar="N", kept=True)
    seed: int = option("the first seed", 0, parse=at_least(0), metavar="S", kept=True)
    workers: int | None = option("processes (default: one a core)", None, parse=at_least(1), metavar="W")
    ray: str | None = option(
        "run the episodes on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local for one of --workers cores",
        None, metavar="ADDRESS",
    )  # fmt: skip
    randomization: int = option("level 0 to 2", 1, parse=at_least(0), metavar="R", kept=True)
    num_objects: int = option("objects on the table", 2, parse=at_least(2), metavar="N", kept=True)
    swap_instruction: bool = option(
        "also the same scenes with another object named: a policy that ignores the instruction takes the wrong one",
        False, kept=True,
    )  # fmt: skip
    unseen_instructions: bool = option(
        "also with unseen instructions, whose template no training data contains", False, kept=True
    )
    failure_videos: int = option(
        "record videos of the first N failed episodes of each condition", 0, parse=at_least(0), metavar="N"
    )
    out: Path | None = option("output folder (default: outputs/eval/<date>_<time>)", None, metavar="DIR")
    resume: Path | bool = option(
        "go on with the evaluation that was stopped in DIR, or in --out; options that are not given are as before",
        False, parse=path, const=True, metavar="DIR",
    )  # fmt: skip
    json: bool = option("print the result as JSON on stdout and nothing else there", False)
    agent: SweepOptions = group("SmolVLA agent", SweepOptions)
    telemetry: TelemetryOptions = group("telemetry", TelemetryOptions)

    @property
    def policies(self) -> list[str]:
        """The policies, in order."""
        return [self.policy] if self.vs is None else [self.policy, self.vs]

    @property
    def seeds(self) -> range:
        """The evaluation seeds."""
        return range(self.seed, self.seed + self.episodes)

    def check(self) -> None:
        """Refuse what would fail later, after the seconds that a policy takes to load.

        Raises:
            UnknownNameError: There is no task, gripper or policy of this name.
            OptionError: Another option has a value that is not allowed.
        """
        self.telemetry.check()
        check_checkpoint_policy(self.policy, "--policy")
        check_checkpoint_policy(self.vs, "--vs")
        self.check_scene(self.task)
        self.agent.check(self.policy)

    def evaluation(self, policy: str) -> EvaluationOptions:
        """Return the options of the evaluation of a policy."""
        from smolvla_gym.evaluation.conditions import EvaluationOptions

        env = {**self.scene_arguments(), "control_hz": self.control_hz, "gripper": self.gripper, "reward": "sparse"}
        return EvaluationOptions(
            policy=policy, device=self.agent.device, dtype=self.agent.dtype, compile_mode=self.agent.compile,
            camera_map=dict(self.agent.camera_map), env=env, agent=self.agent.agent_arguments(),
        )  # fmt: skip

    def conditions(self) -> list[Condition]:
        """Return every combination of task, instruction, flow steps, mode and latency."""
        from smolvla_gym.evaluation.conditions import Condition

        words = ["given", *["swapped"] * self.swap_instruction, *["unseen"] * self.unseen_instructions]
        return [
            Condition(mode, latency, task, said, num_steps)
            for task in dict.fromkeys(self.task)
            for said in words
            for num_steps in dict.fromkeys(self.agent.num_steps)
            for mode in dict.fromkeys(self.agent.mode)
            for latency in dict.fromkeys(self.agent.latency_ms)
        ]


def run(options: EvalOptions) -> int:
    """Run all episodes and print the table."""
    _resume(options)
    options.check()
    if options.control_hz is None:
        options.settle_control_hz(policy_rate(options.policy))
    with output_folder(options.out, "eval") as out:
        with contextlib.redirect_stdout(sys.stderr):
            results, seconds = _evaluate(options, out)
        result = _write(options, out, results, seconds)
        with options.telemetry.callbacks(realtime=False) as callbacks:
            for policy, episodes, folder in zip(options.policies, results, (out, out / "vs"), strict=False):
                _record_videos(options.evaluation(policy), episodes, folder, options.failure_videos, callbacks)
        if options.json:
            print(json.dumps(result))
        else:
            _print(result, out)
    return 0


add_parser: AddParser = command(
    "eval", EvalOptions, run, examples=_EXAMPLES,
    help="Measure how often a policy succeeds, for several modes and latencies.",
    description="Runs a policy in the simulation with the same seeds under each combination of --mode and "
    "--latency-ms, and writes eval.json, eval.md and eval.png; each finished episode is in episodes.jsonl at once.",
)  # fmt: skip


def _evaluate(options: EvalOptions, out: Path) -> tuple[list[dict[Condition, list[Outcome]]], float]:
    """Return the episodes of each policy by condition, and how long all of them took in s."""
    from smolvla_gym.evaluation.evaluate import evaluate

    conditions, seeds = options.conditions(), options.seeds
    total = len(options.policies) * len(conditions) * len(seeds)
    with _journal(options, out, total) as journal:
        began = time.monotonic() - journal.seconds
        with _progress(journal, began, total, options.policy) as progress:
            results = [
                evaluate(
                    options.evaluation(policy),
                    conditions,
                    seeds,
                    workers=options.workers or os.cpu_count() or 1,
                    ray=options.ray,
                    progress=partial(progress, number),
                    done=journal.of(number),
                )
                for number, policy in enumerate(options.policies)
            ]
        return results, time.monotonic() - began if len(journal.done) > journal.found else journal.seconds


def _write(
    options: EvalOptions, out: Path, results: list[dict[Condition, list[Outcome]]], seconds: float
) -> dict[str, Any]:
    """Write the tables and plots, and return what the JSON holds."""
    from smolvla_gym.evaluation import comparison
    from smolvla_gym.evaluation.summary import compare
    from smolvla_gym.utils.json_file import save_json, save_text

    policies, seeds = options.policies, options.seeds
    assert options.control_hz is not None  # noqa: S101 - narrows a type
    result = {
        "randomization": options.randomization,
        "num_objects": options.num_objects,
        "gripper": options.gripper,
        "dtype": options.agent.dtype,
        "seeds": [seeds.start, seeds.stop - 1],
        "agent": options.agent.agent_arguments(),
        "seconds": round(seconds, 1),
        **_figures(policies[0], results[0], options.control_hz, options.agent.agent_arguments()),
    }
    text = comparison.markdown(result["conditions"])
    title = f"{', '.join(dict.fromkeys(options.task))}, {len(seeds)} seeds each"
    comparison.plot(result["conditions"], out / "eval.png", f"{policies[0]}, {title}")
    if options.vs is not None:
        result["vs"] = _figures(policies[1], results[1], options.control_hz, options.agent.agent_arguments())
        result["paired"] = [compare(c, results[0][c], results[1][c]) for c in options.conditions()]
        comparison.plot(result["vs"]["conditions"], out / "eval_vs.png", f"{policies[1]}, {title}")
        lines = [comparison.paired(pair, policies[0], policies[1]) for pair in result["paired"]]
        text += "\n".join([f"\n## {policies[1]}\n", comparison.markdown(result["vs"]["conditions"]), *lines, ""])
    save_text(out / "eval.md", text, "table")
    save_json(out / "eval.json", result, "result")
    return result


def _record_videos(
    options: EvaluationOptions,
    results: dict[Condition, list[Outcome]],
    out: Path,
    count: int,
    callbacks: Sequence[Callback],
) -> None:
    """Run the first failed episodes of each condition again, which repeats them exactly, and record videos.

    With callbacks at least one episode of each condition is run, a failed one if there is any.
    """
    from smolvla_gym.evaluation.evaluate import record_video
    from smolvla_gym.tasks import get_task

    for condition, episodes in results.items():
        shown = [episode for episode in episodes if not episode.success][: max(count, bool(callbacks))]
        for episode in shown or (episodes[:1] if callbacks else []):
            words = "" if condition.instruction == "given" else f"_{condition.instruction}"
            words += "" if condition.num_steps is None else f"_{condition.num_steps}steps"
            scene = f"{condition.mode}_{condition.latency_ms:g}ms_seed{episode.seed}"
            name = f"{get_task(condition.task).name}{words}_{scene}.mp4"
            say(f"recording {name} ({episode.failure or 'success'})")
            folder = "failures" if count and not episode.success else "watched"
            record_video(options, condition, episode.seed, out / folder / name, callbacks)


def _figures(
    policy: str, results: dict[Condition, list[Outcome]], control_hz: float, agent: dict[str, Any]
) -> dict[str, Any]:
    from smolvla_gym.evaluation.summary import summarise

    return {
        "policy": policy,
        "conditions": [
            summarise(condition, episodes, control_hz) | _chosen_mode(policy, condition, agent)
            for condition, episodes in results.items()
        ],
        "failed_seeds": [
            {**c.to_dict(), "seeds": {e.seed: e.failure for e in episodes if not e.success}}
            for c, episodes in results.items()
        ],
    }


def _chosen_mode(policy: str, condition: Condition, agent: dict[str, Any]) -> dict[str, str]:
    """Return the mode that auto stands for with a policy."""
    from smolvla_gym.agent.mode_choice import AUTO, choose_mode

    if condition.mode != AUTO:
        return {}
    chosen = {name: agent.get(name) for name in ("aggregate", "queue_threshold")}
    latencies = (condition.latency_ms,)
    return {"chosen_mode": choose_mode(policy_max_delay(policy), realtime=False, latencies=latencies, **chosen)}


def _resume(options: EvalOptions) -> None:
    """Restore the options of an evaluation that resumes; refuse to overwrite one that was stopped."""
    from smolvla_gym.evaluation.journal import JOURNAL_NAME, read_head

    if isinstance(options.resume, Path):
        if options.out not in (None, options.resume):
            options.refuse("out", f"expected {options.resume}, as with --resume, or nothing")
        options.out = options.resume
    out = options.out
    if not options.resume:
        if out is not None and (path := out / JOURNAL_NAME).is_file() and path.stat().st_size:
            _, there, total = read_head(path)
            if there < total:
                allowed = f"another folder, or --resume: it has {there} of {total} episodes of an evaluation"
                options.expect("out", f"{allowed} that was stopped, or that another program still runs")
        return
    if out is None or not out.is_dir():
        raise UsageError("--resume", out, "expected the folder of an evaluation")
    before, _, _ = read_head(out / JOURNAL_NAME)
    restore(options, before, out / JOURNAL_NAME)
    for name, value in _origin(options).items():
        if before.get(name) != value:
            what = "the version of smolvla-gym" if name == "version" else f"the weights of a policy ({name})"
            raise UsageError("--resume", out, f"{what} differs from the beginning; begin anew in another folder")


def _origin(options: EvalOptions) -> dict[str, Any]:
    """Return what decides about the results beside the options."""
    from smolvla_gym import __version__
    from smolvla_gym.evaluation.journal import digest

    return {
        "version": __version__,
        "digest of --policy": digest(options.policy),
        "digest of --vs": None if options.vs is None else digest(options.vs),
    }


@contextlib.contextmanager
def _journal(options: EvalOptions, out: Path, total: int) -> Iterator[EpisodeJournal]:
    """Open the record of the episodes; an exception carries a note that says how the evaluation resumes."""
    from smolvla_gym.evaluation.journal import JOURNAL_NAME, EpisodeJournal

    path = out / JOURNAL_NAME
    head = kept_values(options) | _origin(options)
    with EpisodeJournal.resume(path) if options.resume else EpisodeJournal(path, head, total) as journal:
        try:
            yield journal
        except BaseException as error:
            if journal.done:
                count = f"{len(journal.done)} of {total} episodes are kept"
                # A module is not imported because a file names it.
                own = ["--task", *options.task] if any(":" in task for task in options.task) else []
                command = shlex.join(["smolvla-gym", "eval", "--resume", str(out), *own])
                error.add_note(f"{count}; {command} goes on")
            raise


@contextlib.contextmanager
def _progress(
    journal: EpisodeJournal, began: float, episodes: int, policy: str
) -> Iterator[Callable[[int, Condition, Outcome], None]]:
    with progress_bar("episode", episodes, len(journal.done), f"loading policy {policy}") as show:
        successes = sum(outcome.success for outcome in journal.done.values())

        def update(number: int, condition: Condition, outcome: Outcome) -> None:
            nonlocal successes
            journal.add(number, condition, outcome, time.monotonic() - began)
            successes += outcome.success
            text = f"{condition.task} {condition.mode} {condition.latency_ms:g} ms  succeeded {successes}"
            show(len(journal.done), text)

        yield update


def _print(result: dict[str, Any], out: Path) -> None:
    from smolvla_gym.evaluation.comparison import LEGEND, failures, paired, table

    for figures in (result, *([result["vs"]] if "vs" in result else ())):
        heads, *rows = table(figures["conditions"])
        print_table(heads, rows, ("task", "mode"), None if figures is result else figures["policy"])
    # Plain print: a path must not be wrapped.
    lines = [LEGEND, *failures(result["conditions"])]
    lines += [paired(pair, result["policy"], result["vs"]["policy"]) for pair in result.get("paired", ())]
    print("\n".join([*lines, f"Files: {out}{os.sep}"]))
