"""``smolvla-gym eval``: how often a policy succeeds in the simulation, under several conditions with the same seeds."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli import agent as agent_options
from smolvla_gym.cli.arguments import at_least, output_folder
from smolvla_gym.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from smolvla_gym.evaluation.evaluate import Condition, Outcome

_EXAMPLES: Final = """examples:
  smolvla-gym eval                                          the bundled policy, 100 seeds
  smolvla-gym eval --latency-ms 0 200 466 --mode sync async rtc
                                                            nine conditions, the same seeds in each
  smolvla-gym eval --policy DIR --vs bundled                which is better, on the same seeds
  smolvla-gym eval --policy DIR --task lift --episodes 20 --json | jq '.conditions[].success_rate'
"""


def add_parser(commands: Any) -> None:
    """Adds the command and its arguments."""
    parser = commands.add_parser(
        "eval",
        help="Measure how often a policy succeeds, for several modes and latencies.",
        description="Runs a policy in the simulation with the same seeds under each combination of --mode and "
        "--latency-ms, and writes eval.json, eval.md and eval.png.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--task", default="lift", help="what to do; `smolvla-gym tasks` lists them (default: %(default)s)")
    add(
        "--policy",
        default="bundled",
        help="bundled, a checkpoint folder, or a Hub repository OWNER/NAME (default: %(default)s)",
    )
    add("--vs", metavar="P2", help="a second policy, compared with the first one seed by seed")
    add("--episodes", type=at_least(1), default=100, metavar="N", help="seeds a condition (default: %(default)s)")
    add("--seed", type=at_least(0), default=0, metavar="S", help="the first seed (default: %(default)s)")
    add("--workers", type=at_least(1), metavar="W", help="processes (default: one a core)")
    add("--randomization", type=at_least(0), default=1, metavar="R", help="level 0 to 2 (default: %(default)s)")
    add("--num-objects", type=at_least(2), default=2, metavar="N", help="objects on the table (default: %(default)s)")
    add("--out", type=Path, metavar="DIR", help="output folder (default: outputs/eval/<date>_<time>)")
    add("--json", action="store_true", help="print the result as JSON on stdout and nothing else there")
    agent_options.add_arguments(parser, several=True)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs all episodes and prints the table."""
    _check(arguments)
    import dataclasses

    from smolvla_gym.evaluation import comparison
    from smolvla_gym.evaluation.evaluate import Condition, EvaluationOptions, compare, evaluate

    options = EvaluationOptions(
        policy=arguments.policy,
        device=arguments.device,
        env={
            "task": arguments.task,
            "randomization": arguments.randomization,
            "num_objects": arguments.num_objects,
            "reward": "sparse",
        },
        agent={
            name: value
            for name in ("n_action_steps", "queue_threshold", "aggregate")
            if (value := getattr(arguments, name)) is not None
        },
    )
    conditions = [Condition(mode, latency) for mode in arguments.mode for latency in arguments.latency_ms]
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    workers = arguments.workers or os.cpu_count() or 1
    policies = [arguments.policy] if arguments.vs is None else [arguments.policy, arguments.vs]
    with output_folder(arguments.out, "eval") as out:
        began = time.monotonic()
        total = len(policies) * len(conditions) * len(seeds)
        with _progress(total) as progress, contextlib.redirect_stdout(sys.stderr):
            results = [
                evaluate(dataclasses.replace(options, policy=p), conditions, seeds, workers=workers, progress=progress)
                for p in policies
            ]
        result = {
            "task": arguments.task,
            "randomization": arguments.randomization,
            "seeds": [seeds.start, seeds.stop - 1],
            "agent": options.agent,
            "seconds": round(time.monotonic() - began, 1),
            **_figures(policies[0], results[0]),
        }
        text = comparison.markdown(result["conditions"])
        title = f"{arguments.task}, {len(seeds)} seeds a point"
        comparison.plot(result["conditions"], out / "eval.png", f"{policies[0]}, {title}")
        if arguments.vs is not None:
            result["vs"] = _figures(policies[1], results[1])
            result["paired"] = [compare(c, results[0][c], results[1][c]) for c in conditions]
            comparison.plot(result["vs"]["conditions"], out / "eval_vs.png", f"{policies[1]}, {title}")
            lines = [comparison.paired(pair, policies[0], policies[1]) for pair in result["paired"]]
            text += "\n".join([f"\n## {policies[1]}\n", comparison.markdown(result["vs"]["conditions"]), *lines, ""])
        (out / "eval.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (out / "eval.md").write_text(text, encoding="utf-8")
        if arguments.json:
            print(json.dumps(result))
        else:
            _print(result, out)
    return 0


def _figures(policy: str, results: dict[Condition, list[Outcome]]) -> dict[str, Any]:
    from smolvla_gym.evaluation.evaluate import summarise

    return {
        "policy": policy,
        "conditions": [summarise(condition, episodes, 30.0) for condition, episodes in results.items()],
        "failed_seeds": [
            {"mode": c.mode, "latency_ms": c.latency_ms, "seeds": [e.seed for e in episodes if not e.success]}
            for c, episodes in results.items()
        ],
    }


def _check(arguments: argparse.Namespace) -> None:
    from smolvla_gym.envs.options import check_choice
    from smolvla_gym.sim.randomization import MAX_LEVEL
    from smolvla_gym.sim.scene import MAX_OBJECTS
    from smolvla_gym.tasks import get_task

    for name, policy in (("--policy", arguments.policy), ("--vs", arguments.vs)):
        if policy is None:
            continue
        if policy in agent_options.SCRIPTED or agent_options.is_address(policy):
            raise OptionError(name, policy, "a SmolVLA policy on this machine; `smolvla-gym rollout` runs the others")
        agent_options.check_policy(policy)
    get_task(arguments.task)
    check_choice("--randomization", arguments.randomization, range(MAX_LEVEL + 1))
    check_choice("--num-objects", arguments.num_objects, range(2, MAX_OBJECTS + 1))
    agent_options.check(arguments)


@contextlib.contextmanager
def _progress(episodes: int) -> Iterator[Callable[[Condition, Outcome], None]]:
    """Shows a progress bar on stderr, or where that is no terminal a line now and then."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("episode"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task("", total=episodes)
        done = solved = 0

        def update(condition: Condition, outcome: Outcome) -> None:
            nonlocal done, solved
            done, solved = done + 1, solved + outcome.success
            bar.update(line, advance=1, description=f"{condition.mode} {condition.latency_ms:g} ms  solved {solved}")
            if not console.is_terminal and done % 25 == 0:
                console.print(f"{done} of {episodes} episodes, solved {solved}")

        yield update


def _print(result: dict[str, Any], out: Path) -> None:
    from rich.console import Console

    from smolvla_gym.evaluation.comparison import LEGEND, paired

    console = Console(highlight=False)
    _print_table(console, result["conditions"], "")
    if "vs" in result:
        _print_table(console, result["vs"]["conditions"], result["vs"]["policy"])
    console.print(LEGEND, style="dim")
    for pair in result.get("paired", ()):
        print(paired(pair, result["policy"], result["vs"]["policy"]))
    # Plain print: a path must not be wrapped.
    print(f"Files: {out}{os.sep}")


def _print_table(console: Console, rows: list[dict[str, Any]], title: str) -> None:
    from rich import box
    from rich.table import Table

    from smolvla_gym.evaluation.comparison import COLUMNS, cells

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title=title or None, title_justify="left")
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
