"""Trying a policy while it is trained: episodes in the simulation, in a process of its own."""

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
from smolvla_gym.training.lerobot.finetune import end_process

_START_S: Final = 600.0
_EPISODE_S: Final = 300.0
"""How long a trial may take in s: many times what it does, even for a large policy on a CPU."""


@dataclass(frozen=True)
class TrialOptions:
    """What is tried.

    Attributes:
        tasks: Names of the tasks; none: nothing is tried.
        episodes: Episodes of each.
        first_seed: The first of their seeds; the others follow.
        device: Where the policy computes.
    """

    tasks: tuple[str, ...]
    episodes: int
    first_seed: int = 0
    device: str = "auto"

    @property
    def timeout_s(self) -> float:
        """Time in s after which a trial is taken to hang."""
        return _START_S + _EPISODE_S * self.episodes * len(self.tasks)


def trial_command(policy: Path, recording: Recording, options: TrialOptions, out: Path) -> list[str]:
    """Returns the command line that tries a policy in scenes as they were recorded.

    Args:
        policy: The checkpoint's folder.
        recording: What it was trained on.
        options: What is tried.
        out: Folder of the result.
    """
    # Each process loads the policy. A GPU that trains meanwhile has room for one.
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
    """Tries a policy.

    Args:
        command: From :func:`trial_command`.
        timeout_s: Time in s after which it is ended.

    Returns:
        A row for each task, with ``task``, ``successes`` and ``episodes``.

    Raises:
        SmolVLAGymError: It failed, or took longer.
    """
    process = subprocess.Popen(  # noqa: S603 - no shell
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
    )
    try:
        printed, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise SmolVLAGymError(f"it did not end within {timeout_s:.0f} s and was stopped") from error
    finally:
        end_process(process)
    if process.returncode != 0:
        lines = said.strip().splitlines() or [f"it ended with status {process.returncode}"]
        told = [line for line in lines if line.startswith("smolvla-gym: error: ")]  # notes follow it
        raise SmolVLAGymError((told or lines)[-1])
    rows: list[dict[str, Any]] = json.loads(printed)["conditions"]
    return rows
