"""``smolvla-gym eval``: measure the success rate of a policy in the simulation, under several conditions."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.commands.evaluate_journal import open_journal, resume, show_progress
from smolvla_gym.cli.options.agent import (
    SweepOptions,
    check_checkpoint_policy,
    policy_cameras,
    policy_max_delay,
    policy_rate,
)
from smolvla_gym.cli.options.arguments import at_least, path
from smolvla_gym.cli.options.environment import SceneOptions
from smolvla_gym.cli.options.parser import AddParser, command, group, option
from smolvla_gym.cli.options.telemetry import TelemetryOptions
from smolvla_gym.cli.output import output_folder, print_table, say

if TYPE_CHECKING:
    from smolvla_gym.episodes.callback import Callback
    from smolvla_gym.evaluation.conditions import Condition, EvaluationOptions, Outcome

_EXAMPLES: Final = """examples:
  smolvla-gym eval                                          the bundled policy, 100 seeds
  smolvla-gym eval --latency-ms 0 200 466 --mode sync async rtc
                                                            nine conditions, the same seeds in each
  smolvla-gym eval --policy DIR --vs bundled                which is better, on the same seeds
  smolvla-gym eval --task reach lift place push stack --num-objects 3
                                                            a row for each task
  smolvla-gym eval --matrix --episodes 200                  all tasks in good and in bad conditions
  smolvla-gym eval --num-steps 1 2 3 5 10                   how many flow steps it needs
  smolvla-gym eval --swap-instruction                       the same scenes with another colour named
  smolvla-gym eval --resume outputs/eval/2026-01-31_12-00-00
                                                            goes on with one that was stopped
  smolvla-gym eval --policy DIR --task lift --episodes 20 --json | jq '.conditions[].success_rate'
"""


_MATRIX_OBJECTS: Final = 3
"""Objects on the table in a matrix: with two, half of the mistakes of a policy that ignores the colour do not show."""

_MATRIX_LEGEND: Final = (
    "Success rate in % (95 % interval). Each line but the first changes one thing: latency of a chunk, appearance "
    "(level 2), an unseen phrasing, the named object, or the cameras. eval.md has mode, times and chunks of each cell."
)


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
    cameras: list[str] | None = option(
        "observed cameras, such as wrist alone for a policy that allows it (default: all that the policy uses)", None,
        metavar="NAME", kept=True,
    )  # fmt: skip
    matrix: bool = option(
        "all tasks, or those of --task, with latencies, level 2, unseen phrasings, another colour, and one camera",
        False, kept=True,
    )  # fmt: skip
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
        if self.cameras is not None:
            self._check_cameras()
        if self.matrix:
            self._check_matrix()

    def _check_cameras(self) -> None:
        from smolvla_gym.sim.scene import check_cameras

        assert self.cameras is not None  # noqa: S101 - narrows a type
        check_cameras(tuple(self.cameras))
        for policy in self.policies:
            used, absent = policy_cameras(policy, dict(self.agent.camera_map))
            kept = [name for name in used if name in self.cameras]
            if not kept or len(used) - len(kept) > absent:
                needed = f"at least {len(used) - absent} of " if absent else ""
                self.expect("cameras", f"{needed}{', '.join(used)}, the cameras of the policy {policy!r}")

    def _check_matrix(self) -> None:
        own = {"swap_instruction", "unseen_instructions", "randomization", "latency_ms", "cameras"}
        for options in (self, self.agent):
            for name in own & set(options.changed()):
                options.refuse(name, "not with --matrix, which has its own")
        for name in ("mode", "num_steps"):
            if len(getattr(self.agent, name)) > 1:
                self.agent.refuse(name, "expected one with --matrix")

    def settle_matrix(self) -> None:
        """Set the tasks and the number of objects of a matrix that were not given."""
        from smolvla_gym.tasks import TASKS

        if self.matrix:
            if "task" not in self.given:
                self.task = list(TASKS) if self.table is None else ["lift", "place"]
            if "num_objects" not in self.given and self.table is None:
                self.num_objects = _MATRIX_OBJECTS

    def evaluation(self, policy: str) -> EvaluationOptions:
        """Return the options of the evaluation of a policy."""
        from smolvla_gym.evaluation.conditions import EvaluationOptions

        env = {**self.scene_arguments(), "control_hz": self.control_hz, "gripper": self.gripper, "reward": "sparse"}
        return EvaluationOptions(
            policy=policy, device=self.agent.device, dtype=self.agent.dtype, compile_mode=self.agent.compile,
            camera_map=dict(self.agent.camera_map), env=env, agent=self.agent.agent_arguments(),
        )  # fmt: skip

    def matrix_lines(self) -> dict[Condition, str]:
        """Return the conditions of a matrix, each with the name of its line."""
        from smolvla_gym.evaluation.matrix import matrix_conditions

        (mode,), (num_steps,) = self.agent.mode, self.agent.num_steps
        known = [policy_cameras(policy, dict(self.agent.camera_map)) for policy in self.policies]
        absent = min(count for _, count in known)
        return matrix_conditions(list(dict.fromkeys(self.task)), mode, num_steps, known[0][0], absent)

    def conditions(self) -> list[Condition]:
        """Return those of a matrix, or every combination of task, instruction, flow steps, mode and latency."""
        from smolvla_gym.evaluation.conditions import Condition

        if self.matrix:
            return list(self.matrix_lines())
        cameras = None if self.cameras is None else tuple(self.cameras)
        words = ["given", *["swapped"] * self.swap_instruction, *["unseen"] * self.unseen_instructions]
        return [
            Condition(mode, latency, task, said, num_steps, cameras=cameras)
            for task in dict.fromkeys(self.task)
            for said in words
            for num_steps in dict.fromkeys(self.agent.num_steps)
            for mode in dict.fromkeys(self.agent.mode)
            for latency in dict.fromkeys(self.agent.latency_ms)
        ]


def run(options: EvalOptions) -> int:
    """Run all episodes and print the table."""
    if not options.resume:
        options.settle_matrix()
    resume(options)
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
    with open_journal(options, out, total) as journal:
        began = time.monotonic() - journal.seconds
        with show_progress(journal, began, total, options.policy) as progress:
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
    lines = list(options.matrix_lines().values()) if options.matrix else None
    title = f"{', '.join(dict.fromkeys(options.task))}, {len(seeds)} seeds each"
    text = _tabulate(result, lines, out / "eval.png", title)
    if options.vs is not None:
        result["vs"] = _figures(policies[1], results[1], options.control_hz, options.agent.agent_arguments())
        result["paired"] = [compare(c, results[0][c], results[1][c]) for c in options.conditions()]
        second = _tabulate(result["vs"], lines, out / "eval_vs.png", title)
        pairs = [comparison.paired(pair, policies[0], policies[1]) for pair in result["paired"]]
        text += "\n".join([f"\n## {policies[1]}\n", second, *pairs, ""])
    save_text(out / "eval.md", text, "table")
    save_json(out / "eval.json", result, "result")
    return result


def _tabulate(figures: dict[str, Any], lines: Sequence[str] | None, path: Path, title: str) -> str:
    """Plot the figures of a policy, and return them in Markdown; ``lines``: those of a matrix."""
    from smolvla_gym.evaluation import comparison, matrix

    rows, title = figures["conditions"], f"{figures['policy']}, {title}"
    if lines is None:
        comparison.plot(rows, path, title)
        return comparison.markdown(rows)
    for row, line in zip(rows, lines, strict=True):
        row["line"] = line
    matrix.plot(rows, lines, path, title)
    return f"{matrix.markdown(rows, lines)}\n{comparison.markdown(rows)}"


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


def _print(result: dict[str, Any], out: Path) -> None:
    from smolvla_gym.evaluation import matrix
    from smolvla_gym.evaluation.comparison import LEGEND, failures, paired, table

    for figures in (result, *([result["vs"]] if "vs" in result else ())):
        conditions = figures["conditions"]
        names = [row["line"] for row in conditions if "line" in row]
        heads, *rows = matrix.table(conditions, names) if names else table(conditions)
        print_table(heads, rows, ("task", "mode", "condition"), None if figures is result else figures["policy"])
        legend = _MATRIX_LEGEND if names else LEGEND
    # Plain print: a path must not be wrapped.
    lines = [legend, *failures(result["conditions"])]
    lines += [paired(pair, result["policy"], result["vs"]["policy"]) for pair in result.get("paired", ())]
    print("\n".join([*lines, f"Files: {out}{os.sep}"]))
