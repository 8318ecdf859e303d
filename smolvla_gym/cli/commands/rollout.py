"""``smolvla-gym rollout``: run a policy in the simulation or on the arm, record a video and print the results."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from smolvla_gym.cli.options.agent import AgentOptions, is_smolvla, make_agent
from smolvla_gym.cli.options.arguments import at_least
from smolvla_gym.cli.options.environment import EnvironmentOptions, announce_homing, make_env
from smolvla_gym.cli.options.mount_guard import MountGuardOptions
from smolvla_gym.cli.options.parser import AddParser, UsageError, command, group, option
from smolvla_gym.cli.options.telemetry import TelemetryOptions
from smolvla_gym.cli.output import output_folder, print_table, say
from smolvla_gym.cli.progress import progress_with_pause

if TYPE_CHECKING:
    from smolvla_gym.episodes.callback import Callback
    from smolvla_gym.episodes.record import EpisodeRecord
    from smolvla_gym.episodes.summary import RolloutSummary

_BUNDLED_TASKS: Final = ("reach", "lift", "place", "stack", "push")
"""Tasks that the bundled policy was trained on."""

_EXAMPLES: Final = """examples:
  smolvla-gym rollout                                    the bundled policy, an episode of each task it knows
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


@dataclass(kw_only=True)
class RolloutOptions(EnvironmentOptions):
    """Options of ``smolvla-gym rollout``."""

    task: list[str] | None = option(
        "what to do, one after the other; `smolvla-gym tasks` lists them (default: each of them with the bundled "
        "policy in the simulation, lift otherwise)", None, metavar="T",
    )  # fmt: skip
    policy: str = option(
        "bundled, expert (scripted), random, a checkpoint folder, a Hub repository OWNER/NAME, or HOST:PORT of "
        "`smolvla-gym serve`", "bundled",
    )  # fmt: skip
    episodes: int = option("episodes a task", 1, parse=at_least(1), metavar="N")
    seed: int = option("seed of the first episode; the following ones count up", 5, parse=at_least(0), metavar="S")
    randomization: int | None = option(
        "domain randomization, from 0, none, to 2 (default: 1)", None, parse=at_least(0), metavar="R"
    )
    max_steps: int | None = option(
        "give an episode up after N steps (default: the env's own limit)", None, parse=at_least(1), metavar="N"
    )
    ask: bool = option("ask after each episode whether it succeeded: a real arm cannot measure it", False)
    out: Path | None = option("output folder (default: outputs/rollout/<date>_<time>)", None, metavar="DIR")
    video: bool = option("record no video, which is faster", True, flag="--no-video")
    json: bool = option("print the summary as JSON on stdout and nothing else there", False)
    agent: AgentOptions = group("SmolVLA agent", AgentOptions)
    telemetry: TelemetryOptions = group("telemetry", TelemetryOptions)
    mounts: MountGuardOptions = group("mount guard (--env real)", MountGuardOptions)

    @property
    def tasks(self) -> list[str]:
        """The tasks, in order."""
        if self.task is not None:
            return self.task
        return [*_BUNDLED_TASKS] if self.policy == "bundled" and self.env == "sim" else ["lift"]

    def check(self) -> None:
        """Refuse what would fail later, after the seconds that a policy takes to load.

        Raises:
            UnknownNameError: There is no task, gripper or policy of this name.
            OptionError: Another option has a value that is not allowed.
        """
        self.check_environment(self.tasks, self.policy)
        if len(set(self.tasks)) < len(self.tasks):
            self.expect("task", "each task once; --episodes sets how often it runs")
        if len(self.tasks) > 1 and self.env == "real":
            self.expect("task", "one task with --env real, for which the table is prepared")
        self.agent.check(self.policy)
        self.telemetry.check()
        self.mounts.check(self.env)


def run(options: RolloutOptions) -> int:
    """Run the rollout and print its result."""
    options.check()
    options.find_devices()
    with output_folder(options.out, "rollout") as out:
        # Libraries that print have to stay out of the JSON.
        with contextlib.redirect_stdout(sys.stderr):
            summary = _roll_out(options, out)
        if options.json:
            print(json.dumps(summary.to_dict()))
        else:
            _print_table(summary, out)
            if options.on_table and not options.ask:
                print(
                    "The success of a task is not measured on a real arm. With --ask you enter it after each episode."
                )
    return 0


add_parser: AddParser = command(
    "rollout", RolloutOptions, run, examples=_EXAMPLES,
    help="Run a policy in the simulation or on the arm and record a video.",
    description="Runs a policy on the simulated or the real arm, records a video and prints the results.",
)  # fmt: skip


def _roll_out(options: RolloutOptions, out: Path) -> RolloutSummary:
    """Load the agent, make the environments and run the episodes."""
    from smolvla_gym.episodes.rollout import rollout
    from smolvla_gym.tasks import get_task

    smolvla = None
    summary: RolloutSummary | None = None
    with contextlib.ExitStack() as stack:
        if is_smolvla(options.policy):
            smolvla = options.agent.load(options.policy, realtime=options.realtime)
            stack.callback(smolvla.close)
        progress, ask = stack.enter_context(_progress(options.episodes * len(options.tasks)))
        callbacks: list[Callback] | None = None
        stack.push(lambda kind, *_: _note_interruption(summary, out) if kind is not None else None)
        for task in options.tasks:
            render_mode = "rgb_array" if options.video else None
            env = stack.enter_context(make_env(options, task, smolvla, render_mode=render_mode))
            agent = make_agent(options.policy, env, smolvla)
            assert agent is not None  # noqa: S101 - narrows a type
            if smolvla is not None and task == options.tasks[0]:
                say(f"mode {smolvla.mode}")
            announce_homing(env, options)
            if callbacks is None:  # only now: a missing arm must not cost the files of earlier rollouts
                guard = options.mounts.callbacks(env)
                opened = options.telemetry.callbacks(realtime=env.metadata["realtime"])
                callbacks = [*guard, *stack.enter_context(opened)]
            summary = rollout(
                env,
                agent,
                episodes=options.episodes,
                seed=options.seed,
                out=out,
                video=options.video,
                policy=options.policy,
                name=get_task(task).name if len(options.tasks) > 1 else "rollout",
                summary=summary,
                judge=ask if options.ask else None,
                progress=progress,
                callbacks=callbacks,
            )
            if task != options.tasks[-1]:
                env.close()
    assert summary is not None  # noqa: S101 - there is at least one task
    return summary


def _note_interruption(summary: RolloutSummary | None, out: Path) -> None:
    """Note an interruption between two tasks in the summary; within a task it is noted already."""
    from smolvla_gym.episodes.summary import SUMMARY_NAME

    if summary is not None and not summary.interrupted:
        summary.interrupted = True
        summary.save(out / SUMMARY_NAME)


@contextlib.contextmanager
def _progress(
    episodes: int,
) -> Iterator[tuple[Callable[[EpisodeRecord], None], Callable[[EpisodeRecord], bool]]]:
    """Show the progress.

    Yields:
        The function to call after each step, and the one that asks the operator whether an episode succeeded.
    """
    with progress_with_pause("episode", episodes) as (show, pause):
        done = successes = 0

        def update(record: EpisodeRecord) -> None:
            nonlocal done, successes
            ended = record.end is not None
            done, successes = done + ended, successes + (ended and record.success)
            show(done, f"step {record.steps}  succeeded {successes}  {record.instruction}")

        def ask(record: EpisodeRecord) -> bool:
            answer = ""
            with pause():
                while answer not in ("y", "yes", "n", "no"):
                    try:
                        answer = input(f"{record.instruction!r} (seed {record.seed}): success? [y/n] ").strip().lower()
                    except EOFError:
                        raise UsageError("--ask", True, "only in a terminal, where a person can answer") from None
            return answer.startswith("y")

        yield update, ask


def _print_table(summary: RolloutSummary, out: Path) -> None:
    from rich.text import Text

    from smolvla_gym.episodes.cadence import describe

    rows: list[list[str | Text]] = []
    for episode in summary.episodes:
        failed = "no" if episode.failure is None else f"no: {episode.failure}"
        outcome = "yes" if episode.success else f"fault {episode.fault}" if episode.fault else failed
        style = "green" if episode.success else "red" if episode.fault else ""
        numbers = str(episode.steps), f"{episode.return_:.2f}"
        rows.append([episode.task, str(episode.seed), episode.instruction, Text(outcome, style), *numbers])
    heads = ["task", "seed", "instruction", "success", "steps", "return"]
    print_table(heads, rows, ("task", "instruction", "success"))
    successes = sum(episode.success for episode in summary.episodes)
    if summary.link is not None:
        print(describe(summary.cadence.report(), summary.link, summary.control_hz))
    # Plain print: a path must not be wrapped.
    print(f"Success rate: {summary.success_rate:.0%} ({successes} of {len(summary.episodes)}), policy {summary.policy}")
    print(f"Files: {out}{os.sep}")
