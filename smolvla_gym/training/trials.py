"""Trials of a policy during its training: episodes in the simulation, in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from smolvla_gym.data.reader import Recording
from smolvla_gym.errors import SmolVLAGymError
from smolvla_gym.utils.subprocesses import end_process

_START_S: Final = 600.0
_EPISODE_S: Final = 300.0
"""Timeout of a trial in s, for its start and for each episode; many times what a large policy on a CPU needs."""


@dataclass(frozen=True)
class TrialOptions:
    """Options of a trial.

    Attributes:
        tasks: Names of the tasks; empty: there are no trials.
        episodes: Episodes of each task.
        first_seed: The first held-out seed; the others follow.
        device: Device of the policy.
    """

    tasks: tuple[str, ...]
    episodes: int
    first_seed: int = 0
    device: str = "auto"

    @property
    def timeout_s(self) -> float:
        """Timeout of a trial in s."""
        return _START_S + _EPISODE_S * self.episodes * len(self.tasks)


def trial_command(policy: Path, recording: Recording, options: TrialOptions, out: Path) -> list[str]:
    """Return the command line that evaluates a policy in scenes as they were recorded.

    Args:
        policy: Folder of the checkpoint.
        recording: The dataset of the training.
        options: Options of the trial.
        out: Folder of the result.
    """
    # Each worker loads the policy. A GPU that trains meanwhile has memory for one.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, options.episodes) if options.device == "cpu" else 1
    scene = {
        "--num-objects": recording.num_objects,
        "--randomization": recording.randomization,
        "--gripper": recording.gripper,
    }
    return [
        sys.executable, "-m", "smolvla_gym", "eval", "--policy", str(policy.absolute()), "--task", *options.tasks,
        "--episodes", str(options.episodes), "--seed", str(options.first_seed), "--device", options.device,
        "--workers", str(workers), "--control-hz", str(recording.fps), "--json", "--out", str(out),
        *(text for option, value in scene.items() if value is not None for text in (option, str(value))),
    ]  # fmt: skip


def run_trial(command: Sequence[str], timeout_s: float) -> list[dict[str, Any]]:
    """Evaluate a policy.

    Args:
        command: Command line of :func:`trial_command`.
        timeout_s: Time in s after which the evaluation is stopped.

    Returns:
        A row for each task, with ``task``, ``successes`` and ``episodes``.

    Raises:
        SmolVLAGymError: The evaluation failed, or took longer.
    """
    process = subprocess.Popen(  # noqa: S603 - no shell
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
    )
    try:
        printed, logged = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise SmolVLAGymError(f"the trial did not end within {timeout_s:.0f} s and was stopped") from error
    finally:
        end_process(process)
    if process.returncode != 0:
        lines = logged.strip().splitlines() or [f"the trial ended with status {process.returncode}"]
        errors = [line for line in lines if line.startswith("smolvla-gym: error: ")]  # notes may follow
        raise SmolVLAGymError((errors or lines)[-1])
    rows: list[dict[str, Any]] = json.loads(printed)["conditions"]
    return rows
