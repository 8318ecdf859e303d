"""The trials of ``smolvla-gym train``: each saved policy is evaluated in the simulation."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from smolvla_gym.errors import OptionError, SmolVLAGymError

if TYPE_CHECKING:
    from smolvla_gym.data.reader import Recording
    from smolvla_gym.training.training_log import TrainingLog
    from smolvla_gym.training.trials import TrialOptions

_PROBE_S: Final = 120.0
"""Time in s that the check of OpenGL may take."""


def plan_trials(arguments: argparse.Namespace, recording: Recording, device: str) -> TrialOptions:
    """Return what is evaluated after each saving.

    Args:
        arguments: Those of the command.
        recording: The dataset. Its sentences decide on the tasks unless the arguments name some.
        device: Where the policy computes.

    Raises:
        UnknownNameError: There is no such task.
        OptionError: The dataset has one of the evaluation seeds.
    """
    from smolvla_gym.sim.scene import COLORS
    from smolvla_gym.tasks import TASKS, get_task
    from smolvla_gym.training.trials import TrialOptions

    names: list[str] = []
    if arguments.eval_episodes and arguments.task is not None:
        names = list(arguments.task)
        for name in names:
            get_task(name)
    elif arguments.eval_episodes:
        sentences = set(recording.instructions)
        names = [
            name
            for name, task in TASKS.items()
            if any(p.format(color=c, base=b) in sentences for p in task.phrasings for c in COLORS for b in COLORS)
        ]
    tried = range(arguments.eval_seed, arguments.eval_seed + arguments.eval_episodes)
    if names and recording.seeds is None:
        _say(
            f"the seeds of {arguments.dataset} are not known: the trials may be in scenes that it shows, and their "
            "success rates too high"
        )
    if names and (both := (recording.seeds or frozenset()).intersection(tried)):
        allowed = f"seeds that are not in the dataset, which has {min(both)}"
        raise OptionError("--eval-seed", arguments.eval_seed, allowed)
    return TrialOptions(tuple(names), arguments.eval_episodes, arguments.eval_seed, device)


def announce(options: TrialOptions, steps: int, save_steps: int) -> None:
    """Print when and on what the policy will be evaluated: it takes a large part of a run's time."""
    if not options.episodes:
        return
    if not options.tasks:
        _say("no sentence of the dataset is one of a known task: without --task nothing is tried at each saving")
        return
    last = options.first_seed + options.episodes - 1
    count = math.ceil(steps / save_steps)
    when = f"every {save_steps} steps, {count} times" if count > 1 else "once, at the end"
    _say(
        f"the policy is tried in the simulation {when}: {', '.join(options.tasks)}, seeds {options.first_seed} to "
        f"{last} of each (--eval-episodes 0 leaves it out)"
    )


def check_drawing(options: TrialOptions) -> None:
    """Refuse trials that could not be drawn, before hours of training.

    Raises:
        OptionError: This machine draws no images.
    """
    if not options.tasks:
        return
    from smolvla_gym.doctor.finding import Status
    from smolvla_gym.doctor.probe import probe

    for finding in probe("OpenGL", _PROBE_S):
        if finding.status is Status.FAIL:
            allowed = f"0 on this machine, which draws no images ({finding.text}). {finding.remedy}"
            raise OptionError("--eval-episodes", options.episodes, allowed.rstrip(". "))


def make_trial(options: TrialOptions, recording: Recording, out: Path, log: TrainingLog) -> Callable[[int, Path], None]:
    """Return what evaluates a saved policy, in a process of its own.

    Args:
        options: What is evaluated.
        recording: The dataset, whose scenes are used.
        out: Folder of the run.
        log: Takes the results.
    """
    from smolvla_gym.evaluation.journal import JOURNAL_NAME
    from smolvla_gym.training.trials import run_trial, trial_command

    def trial(step: int, policy: Path) -> None:
        if not options.tasks:
            return
        folder = out / "eval" / f"step_{step}"
        (folder / JOURNAL_NAME).unlink(missing_ok=True)  # of a run that was stopped here: the policy is another one
        command = trial_command(policy, recording, options, folder)
        try:
            rows = run_trial(command, options.timeout_s)
        except SmolVLAGymError as error:
            _say(f"the trial after step {step} failed: {error}")
            return
        for row in rows:
            log.success(step, row["task"], row["successes"], row["episodes"])
            _say(f"step {step}: {row['task']} {row['successes']}/{row['episodes']}")
        log.plot()

    return trial


def _say(line: str) -> None:
    print(f"smolvla-gym: {line}", file=sys.stderr, flush=True)
