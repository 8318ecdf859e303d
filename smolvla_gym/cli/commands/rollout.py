"""``smolvla-gym rollout``: runs a policy in the simulation or on the arm, films it and prints how it did."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.options import agent as agent_options
from smolvla_gym.cli.options import real, watching
from smolvla_gym.cli.options.arguments import at_least, output_folder, positive
from smolvla_gym.cli.progress import steady_lines
from smolvla_gym.errors import OptionError

if TYPE_CHECKING:
    import gymnasium as gym

    from smolvla_gym.agent.protocol import Agent
    from smolvla_gym.episodes.callback import Callback
    from smolvla_gym.episodes.record import EpisodeRecord
    from smolvla_gym.episodes.summary import RolloutSummary

_EXAMPLES: Final = """examples:
  smolvla-gym rollout                                    the bundled policy, an episode of each task
  smolvla-gym rollout --policy expert --episodes 10      the scripted expert, ten videos
  smolvla-gym rollout --policy you/smolvla_parol6        a policy from the Hugging Face Hub
  smolvla-gym rollout --task push stack --max-steps 300  two tasks; give up after 300 steps
  smolvla-gym rollout --no-video --json | jq .success_rate
  smolvla-gym rollout --mode async --latency-ms 466      as if a chunk took 466 ms
  smolvla-gym rollout --env real --port twin --camera twin
                                                         the real arm's drivers on a virtual arm and virtual cameras
  smolvla-gym rollout --env real --home --camera wrist=SERIAL --camera scene=SERIAL
                                                         the real arm
"""


def add_parser(commands: Any) -> None:
    """Adds the command and its arguments."""
    parser = commands.add_parser(
        "rollout",
        help="Run a policy in the simulation or on the arm and film it.",
        description="Runs a policy on the simulated or the real arm, films it and prints how it did.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--env", choices=("sim", "real"), default="sim", help="which arm (default: %(default)s)")
    add(
        "--task",
        nargs="+",
        metavar="T",
        help="what to do, one after the other; `smolvla-gym tasks` lists them (default: each of them with the bundled "
        "policy in the simulation, lift otherwise)",
    )
    add(
        "--policy",
        default="bundled",
        help="bundled, expert (scripted), random, a checkpoint folder, a Hub repository OWNER/NAME, or HOST:PORT of "
        "`smolvla-gym serve` (default: %(default)s)",
    )
    add("--episodes", type=at_least(1), default=1, metavar="N", help="how many episodes a task (default: %(default)s)")
    add(
        "--seed",
        type=at_least(0),
        default=2,
        metavar="S",
        help="seed of the first episode; the following ones count up (default: %(default)s)",
    )
    add(
        "--randomization",
        type=at_least(0),
        metavar="R",
        help="how much layout and looks vary, from 0, not at all, to 2 (default: 1)",
    )
    add("--gripper", default="ssg48", help="the gripper that is mounted (default: %(default)s)")
    add("--control-hz", type=positive, default=30, metavar="HZ", help="control rate (default: %(default)s)")
    add(
        "--max-steps",
        type=at_least(1),
        metavar="N",
        help="give an episode up after N steps (default: the env's own limit)",
    )
    add("--ask", action="store_true", help="ask after each episode whether it was solved: a real arm cannot tell")
    add("--out", type=Path, metavar="DIR", help="output folder (default: outputs/rollout/<date>_<time>)")
    add("--no-video", dest="video", action="store_false", help="do not film, which is faster")
    add("--json", action="store_true", help="print the summary as JSON on stdout and nothing else there")
    agent_options.add_arguments(parser)
    real.add_arguments(parser)
    watching.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the rollout and prints its result."""
    # What is wrong with the arguments shows before the seconds that a policy takes to load.
    _check(arguments)
    if arguments.env == "real":
        real.find_devices(arguments)
    with output_folder(arguments.out, "rollout") as out:
        # Libraries that print have to stay out of the JSON.
        with contextlib.redirect_stdout(sys.stderr):
            summary = _roll_out(arguments, out)
        if arguments.json:
            print(json.dumps(summary.to_dict(), ensure_ascii=False))
        else:
            _print_table(summary, out)
            if arguments.env == "real" and arguments.port != real.TWIN and not arguments.ask:
                print("Nothing on a real arm tells whether a task was solved. With --ask you do, after each episode.")
    return 0


def _roll_out(arguments: argparse.Namespace, out: Path) -> RolloutSummary:
    """Builds the agent and the env that it needs, and runs them."""
    from smolvla_gym.agent.protocol import attach
    from smolvla_gym.agent.scripted import ExpertAgent, RandomAgent
    from smolvla_gym.episodes.rollout import rollout
    from smolvla_gym.tasks import get_task

    smolvla = None
    options: dict[str, Any] = {}
    summary: RolloutSummary | None = None
    with contextlib.ExitStack() as stack:
        if arguments.policy not in agent_options.SCRIPTED:
            smolvla = agent_options.load(arguments, realtime=arguments.env == "real" and not arguments.lockstep)
            stack.callback(smolvla.close)
            from smolvla_gym.agent.images import env_image_size

            options = {"cameras": smolvla.cameras, "image_size": env_image_size(smolvla.image_size)}
        if arguments.env == "real":
            options |= real.env_options(arguments, None if smolvla is None else smolvla.cameras)
        progress, ask = stack.enter_context(_progress(arguments.episodes * len(arguments.task)))
        callbacks: list[Callback] | None = None
        stack.push(lambda kind, *_: _note_interruption(summary, out) if kind is not None else None)
        for task in arguments.task:
            env = stack.enter_context(_make_env(arguments, task, **options))
            agent: Agent = smolvla or (ExpertAgent() if arguments.policy == "expert" else RandomAgent())
            attach(agent, env)  # a policy that does not fit is refused before the arm homes
            if arguments.env == "real":
                real.announce_homing(env, arguments)
            if callbacks is None:  # only now: an arm that is not there must not cost the files of earlier rollouts
                opened = watching.callbacks(arguments, realtime=env.metadata["realtime"])
                callbacks = stack.enter_context(opened)
            summary = rollout(
                env,
                agent,
                episodes=arguments.episodes,
                seed=arguments.seed,
                out=out,
                video=arguments.video,
                policy=arguments.policy,
                name=get_task(task).name if len(arguments.task) > 1 else "rollout",
                summary=summary,
                judge=ask if arguments.ask else None,
                progress=progress,
                callbacks=callbacks,
            )
            if task != arguments.task[-1]:
                env.close()
    assert summary is not None  # noqa: S101 - there is at least one task
    return summary


def _note_interruption(summary: RolloutSummary | None, out: Path) -> None:
    """Has the summary say what happened between two tasks; within one it does already."""
    from smolvla_gym.episodes.summary import SUMMARY_NAME

    if summary is not None and not summary.interrupted:
        summary.interrupted = True
        summary.save(out / SUMMARY_NAME)


def _make_env(arguments: argparse.Namespace, task: str, **options: Any) -> gym.Env[Any, Any]:
    """Makes the arm with a task; ``options`` are those that the agent asks for and those of a real one."""
    import gymnasium as gym

    if arguments.max_steps is not None:
        options["max_episode_steps"] = arguments.max_steps
    if arguments.env == "sim" or arguments.port == real.TWIN:
        options["randomization"] = 1 if arguments.randomization is None else arguments.randomization
    return gym.make(
        "PAROL6Real-v0" if arguments.env == "real" else "PAROL6Sim-v0",
        task=task,
        gripper=arguments.gripper,
        control_hz=arguments.control_hz,
        render_mode="rgb_array" if arguments.video else None,
        **options,
    )


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what the env would refuse, and policies that cannot exist.

    Raises:
        UnknownNameError: There is no task, gripper or policy of this name.
        OptionError: Another argument has a value that is not allowed.
    """
    from smolvla_gym.envs.env_options import check_choice, check_control_hz
    from smolvla_gym.parol6 import get_gripper
    from smolvla_gym.sim.randomization import MAX_LEVEL
    from smolvla_gym.tasks import TASKS, get_task

    if arguments.task is None:
        knows_all = arguments.policy == "bundled" and arguments.env == "sim"
        arguments.task = [*TASKS] if knows_all else ["lift"]
    for task in arguments.task:
        get_task(task)
    if len(set(arguments.task)) < len(arguments.task):
        raise OptionError("--task", " ".join(arguments.task), "each task once; --episodes says how often")
    if len(arguments.task) > 1 and arguments.env == "real":
        raise OptionError("--task", " ".join(arguments.task), "one task with --env real, which a table is laid for")
    get_gripper(arguments.gripper)
    if arguments.randomization is not None:
        check_choice("--randomization", arguments.randomization, range(MAX_LEVEL + 1))
    check_control_hz(arguments.control_hz)
    agent_options.check(arguments)
    real.check(arguments)
    watching.check(arguments)


@contextlib.contextmanager
def _progress(
    episodes: int,
) -> Iterator[tuple[Callable[[EpisodeRecord], None], Callable[[EpisodeRecord], bool]]]:
    """Shows a progress line on stderr, or where that is no terminal prints one now and then.

    Yields:
        What to call after each step, and what asks whoever sits there whether an episode was solved.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("episode"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(Progress(*columns, console=console, transient=True, disable=not console.is_terminal))
        line = bar.add_task("", total=episodes)
        done = successes = 0
        text = ""
        if not console.is_terminal:
            stack.enter_context(steady_lines(lambda: f"episode {done} of {episodes}  {text}".rstrip()))

        def update(record: EpisodeRecord) -> None:
            nonlocal done, successes, text
            ended = record.end is not None
            done, successes = done + ended, successes + (ended and record.success)
            text = f"step {record.steps}  solved {successes}  {record.instruction}"
            bar.update(line, advance=int(ended), description=text)

        def ask(record: EpisodeRecord) -> bool:
            bar.stop()
            answer = ""
            while answer not in ("y", "yes", "n", "no"):
                try:
                    answer = input(f"{record.instruction!r} (seed {record.seed}): solved? [y/n] ").strip().lower()
                except EOFError:
                    raise OptionError("--ask", True, "where somebody can answer, in a terminal") from None
            bar.start()
            return answer.startswith("y")

        yield update, ask


def _print_table(summary: RolloutSummary, out: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from smolvla_gym.episodes.cadence import describe

    table = Table("task", "seed", "instruction", "success", "steps", "return", box=box.SIMPLE_HEAD)
    for column in table.columns:
        column.justify = "left" if column.header in ("task", "instruction") else "right"
    for episode in summary.episodes:
        failed = "no" if episode.failure is None else f"no: {episode.failure}"
        outcome = "yes" if episode.success else f"fault {episode.fault}" if episode.fault else failed
        style = "green" if episode.success else "red" if episode.fault else ""
        table.add_row(
            episode.task,
            str(episode.seed),
            Text(episode.instruction),
            Text(outcome, style),
            str(episode.steps),
            f"{episode.return_:.2f}",
        )
    solved = sum(episode.success for episode in summary.episodes)
    console = Console(highlight=False)
    console.print(table)
    if summary.link is not None:
        print(describe(summary.cadence.report(), summary.link, summary.control_hz))
    # Plain print: a path must not be wrapped.
    print(f"Success rate: {summary.success_rate:.0%} ({solved} of {len(summary.episodes)}), policy {summary.policy}")
    print(f"Files: {out}{os.sep}")
