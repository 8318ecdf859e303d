"""``smolvla-gym eval``: how often a policy succeeds in the simulation, under several conditions with the same seeds."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.options import agent as agent_options
from smolvla_gym.cli.options import resuming, watching
from smolvla_gym.cli.options.arguments import at_least, output_folder, positive
from smolvla_gym.cli.progress import progress_bar
from smolvla_gym.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from smolvla_gym.episodes.callback import Callback
    from smolvla_gym.evaluation.conditions import Condition, EvaluationOptions, Outcome
    from smolvla_gym.evaluation.journal import EpisodeJournal

_KEPT: Final = (
    "policy", "vs", "task", "episodes", "seed", "randomization", "num_objects", "swap_instruction",
    "unseen_phrasings", "gripper", "control_hz", "mode", "latency_ms", "num_steps", "n_action_steps",
    "queue_threshold", "aggregate", "camera_map", "device", "dtype", "compile",
)  # fmt: skip
"""Options that decide about the results, and so cannot change while an evaluation goes on."""

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


def add_parser(commands: Any) -> None:
    """Adds the command and its arguments."""
    parser = commands.add_parser(
        "eval",
        help="Measure how often a policy succeeds, for several modes and latencies.",
        description="Runs a policy in the simulation with the same seeds under each combination of --mode and "
        "--latency-ms, and writes eval.json, eval.md and eval.png; each episode is in episodes.jsonl once it is over.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--task", nargs="+", default=["lift"], help="what to do; `smolvla-gym tasks` lists them (default: lift)")
    add(
        "--policy",
        default="bundled",
        help="bundled, a checkpoint folder, or a Hub repository OWNER/NAME (default: bundled)",
    )
    add("--vs", metavar="P2", help="a second policy, compared with the first one seed by seed")
    add("--episodes", type=at_least(1), default=100, metavar="N", help="seeds a condition (default: 100)")
    add("--seed", type=at_least(0), default=0, metavar="S", help="the first seed (default: 0)")
    add("--workers", type=at_least(1), metavar="W", help="processes (default: one a core)")
    add(
        "--ray",
        metavar="ADDRESS",
        help="run the episodes on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local for one of --workers cores",
    )
    add("--randomization", type=at_least(0), default=1, metavar="R", help="level 0 to 2 (default: 1)")
    add("--num-objects", type=at_least(2), default=2, metavar="N", help="objects on the table (default: 2)")
    add(
        "--swap-instruction",
        action="store_true",
        help="also the same scenes with another object named: who does not listen takes the wrong one",
    )
    add("--unseen-phrasings", action="store_true", help="also in sentences that no training data contains")
    add(
        "--failure-videos",
        type=at_least(0),
        default=0,
        metavar="N",
        help="film the first N episodes of each condition that failed",
    )
    add("--gripper", default="ssg48", help="the gripper that is mounted (default: ssg48)")
    add("--control-hz", type=positive, default=30.0, metavar="HZ", help="control rate (default: 30)")
    add("--out", type=Path, metavar="DIR", help="output folder (default: outputs/eval/<date>_<time>)")
    add(
        "--resume",
        nargs="?",
        type=Path,
        const=True,
        default=False,
        metavar="DIR",
        help="go on with the evaluation that was stopped in DIR, or in --out; options that are not given are as before",
    )
    add("--json", action="store_true", help="print the result as JSON on stdout and nothing else there")
    agent_options.add_arguments(parser, several=True)
    watching.add_arguments(parser)
    parser.set_defaults(run=run)
    resuming.keep_defaults(parser, _KEPT)


def run(arguments: argparse.Namespace) -> int:
    """Runs all episodes and prints the table."""
    _recall(arguments)
    _check(arguments)
    import dataclasses

    from smolvla_gym.evaluation import comparison
    from smolvla_gym.evaluation.conditions import Condition, EvaluationOptions
    from smolvla_gym.evaluation.evaluate import evaluate
    from smolvla_gym.evaluation.summary import compare
    from smolvla_gym.utils.json_file import save_json, save_text

    options = EvaluationOptions(
        policy=arguments.policy,
        device=arguments.device,
        dtype=arguments.dtype,
        compile_mode=arguments.compile,
        camera_map=dict(arguments.camera_map),
        env={
            "randomization": arguments.randomization,
            "num_objects": arguments.num_objects,
            "control_hz": arguments.control_hz,
            "gripper": arguments.gripper,
            "reward": "sparse",
        },
        agent={
            name: value
            for name in ("n_action_steps", "queue_threshold", "aggregate")
            if (value := getattr(arguments, name)) is not None
        }
        | {"allow_mismatch": arguments.allow_mismatch},
    )
    words = ["given", *(["swapped"] if arguments.swap_instruction else [])]
    words += ["unseen"] if arguments.unseen_phrasings else []
    conditions = [
        Condition(mode, latency, task, said, num_steps)
        for task in dict.fromkeys(arguments.task)
        for said in words
        for num_steps in dict.fromkeys(arguments.num_steps)
        for mode in dict.fromkeys(arguments.mode)
        for latency in dict.fromkeys(arguments.latency_ms)
    ]
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    workers = arguments.workers or os.cpu_count() or 1
    policies = [arguments.policy] if arguments.vs is None else [arguments.policy, arguments.vs]
    total = len(policies) * len(conditions) * len(seeds)
    with output_folder(arguments.out, "eval") as out:
        with contextlib.redirect_stdout(sys.stderr), _journal(arguments, out, total) as journal:
            began = time.monotonic() - journal.seconds
            with _progress(journal, began, total) as progress:
                results = [
                    evaluate(
                        dataclasses.replace(options, policy=policy),
                        conditions,
                        seeds,
                        workers=workers,
                        ray=arguments.ray,
                        progress=partial(progress, number),
                        done=journal.of(number),
                    )
                    for number, policy in enumerate(policies)
                ]
            seconds = time.monotonic() - began if len(journal.done) > journal.found else journal.seconds
        result = {
            "randomization": arguments.randomization,
            "num_objects": arguments.num_objects,
            "gripper": arguments.gripper,
            "dtype": arguments.dtype,
            "seeds": [seeds.start, seeds.stop - 1],
            "agent": options.agent,
            "seconds": round(seconds, 1),
            **_figures(policies[0], results[0], arguments.control_hz),
        }
        text = comparison.markdown(result["conditions"])
        title = f"{', '.join(dict.fromkeys(arguments.task))}, {len(seeds)} seeds each"
        comparison.plot(result["conditions"], out / "eval.png", f"{policies[0]}, {title}")
        if arguments.vs is not None:
            result["vs"] = _figures(policies[1], results[1], arguments.control_hz)
            result["paired"] = [compare(c, results[0][c], results[1][c]) for c in conditions]
            comparison.plot(result["vs"]["conditions"], out / "eval_vs.png", f"{policies[1]}, {title}")
            lines = [comparison.paired(pair, policies[0], policies[1]) for pair in result["paired"]]
            text += "\n".join([f"\n## {policies[1]}\n", comparison.markdown(result["vs"]["conditions"]), *lines, ""])
        save_text(out / "eval.md", text, "table")
        save_json(out / "eval.json", result, "result")
        with watching.callbacks(arguments, realtime=False) as callbacks:
            for policy, episodes, folder in zip(policies, results, (out, out / "vs"), strict=False):
                chosen = dataclasses.replace(options, policy=policy)
                _record_videos(chosen, episodes, folder, arguments.failure_videos, callbacks)
        if arguments.json:
            print(json.dumps(result))
        else:
            _print(result, out)
    return 0


def _record_videos(
    options: EvaluationOptions,
    results: dict[Condition, list[Outcome]],
    out: Path,
    count: int,
    callbacks: Sequence[Callback],
) -> None:
    """Runs the first failures of each condition once more, which goes as before, and films them.

    Where somebody watches, they see one episode of each condition at least, a failure if there was any.
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
            print(f"smolvla-gym: filming {name} ({episode.failure or 'solved'})", file=sys.stderr, flush=True)
            folder = "failures" if count and not episode.success else "watched"
            record_video(options, condition, episode.seed, out / folder / name, callbacks)


def _figures(policy: str, results: dict[Condition, list[Outcome]], control_hz: float) -> dict[str, Any]:
    from smolvla_gym.evaluation.summary import summarise

    return {
        "policy": policy,
        "conditions": [summarise(condition, episodes, control_hz) for condition, episodes in results.items()],
        "failed_seeds": [
            {**c.to_dict(), "seeds": {e.seed: e.failure for e in episodes if not e.success}}
            for c, episodes in results.items()
        ],
    }


def _check(arguments: argparse.Namespace) -> None:
    from smolvla_gym.envs.env_options import check_choice, check_control_hz
    from smolvla_gym.parol6 import get_gripper
    from smolvla_gym.sim.randomization import MAX_LEVEL
    from smolvla_gym.sim.scene import MAX_OBJECTS
    from smolvla_gym.tasks import get_task

    watching.check(arguments)
    for name, policy in (("--policy", arguments.policy), ("--vs", arguments.vs)):
        if policy is None:
            continue
        if policy in agent_options.SCRIPTED or agent_options.is_address(policy):
            raise OptionError(name, policy, "a SmolVLA policy on this machine; `smolvla-gym rollout` runs the others")
        agent_options.check_policy(policy)
    for task in arguments.task:
        get_task(task)
    get_gripper(arguments.gripper)
    check_choice("--randomization", arguments.randomization, range(MAX_LEVEL + 1))
    check_control_hz(arguments.control_hz)
    check_choice("--num-objects", arguments.num_objects, range(2, MAX_OBJECTS + 1))
    agent_options.check(arguments)


def _recall(arguments: argparse.Namespace) -> None:
    """Takes what an evaluation was begun with where it goes on, and refuses to begin anew over one that was stopped."""
    from smolvla_gym.evaluation.journal import JOURNAL_NAME, read_head

    if isinstance(arguments.resume, Path):
        if arguments.out not in (None, arguments.resume):
            raise OptionError("--out", str(arguments.out), f"{arguments.resume}, as with --resume, or nothing")
        arguments.out = arguments.resume
    out: Path | None = arguments.out
    if not arguments.resume:
        resuming.recall(arguments, None, out)
        if out is not None and (path := out / JOURNAL_NAME).is_file() and path.stat().st_size:
            _, there, total = read_head(path)
            if there < total:
                allowed = f"another folder, or --resume: it has {there} of {total} episodes of an evaluation"
                raise OptionError("--out", str(out), f"{allowed} that was stopped, or that another program still runs")
        return
    if out is None or not out.is_dir():
        raise OptionError("--resume", None if out is None else str(out), "with the folder of an evaluation")
    before, _, _ = read_head(out / JOURNAL_NAME)
    given = arguments.task
    resuming.recall(arguments, before, out / JOURNAL_NAME)
    if given is None and (modules := [task for task in arguments.task if ":" in task]):
        # A file does not decide what is imported.
        raise OptionError("--task", None, f"named again where it is of a module: --task {' '.join(modules)!a}")
    for name, value in _origin(arguments).items():
        if before.get(name) != value:
            what = "another version of smolvla-gym" if name == "version" else f"other weights of a policy ({name})"
            raise OptionError("--resume", str(out), f"not with {what} than it was begun with; begin anew elsewhere")


def _origin(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns what decides about the results beside the options."""
    from smolvla_gym import __version__
    from smolvla_gym.evaluation.journal import digest

    return {
        "version": __version__,
        "digest of --policy": digest(arguments.policy),
        "digest of --vs": None if arguments.vs is None else digest(arguments.vs),
    }


@contextlib.contextmanager
def _journal(arguments: argparse.Namespace, out: Path, total: int) -> Iterator[EpisodeJournal]:
    """Opens the record of the episodes; what cuts the evaluation short carries the note how it goes on."""
    from smolvla_gym.evaluation.journal import JOURNAL_NAME, EpisodeJournal

    path = out / JOURNAL_NAME
    options = resuming.options_of(arguments) | _origin(arguments)
    with EpisodeJournal.resume(path) if arguments.resume else EpisodeJournal(path, options, total) as journal:
        try:
            yield journal
        except BaseException as error:
            if journal.done:
                count = f"{len(journal.done)} of {total} episodes are kept"
                # A module of one's own is not imported because a file names it.
                own = ["--task", *arguments.task] if any(":" in task for task in arguments.task) else []
                command = shlex.join(["smolvla-gym", "eval", "--resume", str(out), *own])
                error.add_note(f"{count}; {command} goes on")
            raise


@contextlib.contextmanager
def _progress(
    journal: EpisodeJournal, began: float, episodes: int
) -> Iterator[Callable[[int, Condition, Outcome], None]]:
    with progress_bar("episode", episodes, len(journal.done)) as show:
        solved = sum(outcome.success for outcome in journal.done.values())

        def update(policy: int, condition: Condition, outcome: Outcome) -> None:
            nonlocal solved
            journal.add(policy, condition, outcome, time.monotonic() - began)
            solved += outcome.success
            show(len(journal.done), f"{condition.task} {condition.mode} {condition.latency_ms:g} ms  solved {solved}")

        yield update


def _print(result: dict[str, Any], out: Path) -> None:
    from rich.console import Console

    from smolvla_gym.evaluation.comparison import LEGEND, failures, paired

    console = Console(highlight=False)
    _print_table(console, result["conditions"], "")
    if "vs" in result:
        _print_table(console, result["vs"]["conditions"], result["vs"]["policy"])
    console.print(LEGEND, style="dim")
    for line in failures(result["conditions"]):
        console.print(line, markup=False)
    for pair in result.get("paired", ()):
        print(paired(pair, result["policy"], result["vs"]["policy"]))
    # Plain print: a path must not be wrapped.
    print(f"Files: {out}{os.sep}")


def _print_table(console: Console, rows: list[dict[str, Any]], title: str) -> None:
    from rich import box
    from rich.table import Table

    from smolvla_gym.evaluation.comparison import table

    heads, *cells = table(rows)
    printed = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title=title or None, title_justify="left"
    )
    for head in heads:
        printed.add_column(head, justify="left" if head in ("task", "mode") else "right", no_wrap=head != "task")
    for row in cells:
        printed.add_row(*row)
    console.print(printed)
