"""Fine-tune a SmolVLA with LeRobot's own training program on a dataset of this arm.

LeRobot trains the policy that a checkpoint's ``config.json`` describes. That of ``lerobot/smolvla_base`` has six
dimensions and other cameras, and loading it downloads the vision-language model only to replace its weights. The
checkpoint is therefore copied with another ``config.json`` first. A policy that learns to continue given actions is
trained as :mod:`smolvla_gym.training.lerobot.delayed`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from smolvla_gym.agent.checkpoint.configuration import check_configuration
from smolvla_gym.agent.checkpoint.load import check_checkpoint_files
from smolvla_gym.agent.checkpoint.provenance import MAX_DELAY, PROVENANCE, read_provenance
from smolvla_gym.agent.checkpoint.saving import copy_checkpoint, link_file, make_plain, make_portable
from smolvla_gym.agent.checkpoint.spec import VLM_FOLDER, WEIGHTS, read_spec
from smolvla_gym.data.reader import Recording
from smolvla_gym.data.spec import ROBOT_TYPE
from smolvla_gym.errors import CheckpointError, OptionError, SmolVLAGymError
from smolvla_gym.parol6 import ACTION_NAMES
from smolvla_gym.training.provenance import copy_provenance, describe_training, write_provenance
from smolvla_gym.utils import schema
from smolvla_gym.utils.json_file import save_json
from smolvla_gym.utils.subprocesses import end_process
from smolvla_gym.utils.untrusted import read_json_object, reading_as

START: Final = "start"
RUN: Final = "lerobot"
POLICY: Final = "policy"
"""Folders of a run: the checkpoint that it starts from, LeRobot's output, and the resulting policy."""

_DELAYED_START: Final = "start-delayed"
"""Folder of a run that learns to continue given actions: the start with the configuration of such a policy."""

_DELAYED: Final = "smolvla_delayed"
_DELAYED_PACKAGE: Final = "smolvla_gym.training.lerobot.delayed"
"""Type of such a policy, and the package in which LeRobot finds it."""

_LAST: Final = Path(RUN) / "checkpoints" / "last" / "pretrained_model"
_TRAIN_CONFIG: Final = "train_config.json"
_KEPT: Final = (
    "output_dir", "job_name", "resume", "seed", "cudnn_deterministic", "num_workers", "batch_size", "prefetch_factor",
    "persistent_workers", "dataloader_multiprocessing_context", "steps", "log_freq", "tolerance_s", "save_checkpoint",
    "save_freq", "use_policy_training_preset", "optimizer", "scheduler",
)  # fmt: skip
"""Entries of LeRobot's configuration file that a resumed run uses; all others are set here."""

_MAX_STEPS: Final = 10**9
_METRICS: Final = re.compile(r"\bloss:([\d.naif+-]+).*?\bupdt_s:([\d.]+)(?:.*?\bdata_s:([\d.]+))?")
_SAVED: Final = re.compile(r"Checkpoint policy after step (\d+)")


@dataclass(frozen=True)
class FinetuneOptions:
    """Options of a fine-tuning run.

    Attributes:
        steps: Optimiser steps in total, including those of earlier runs.
        batch_size: Frames a step and GPU.
        save_steps: Steps between checkpoints.
        log_steps: Steps between reports.
        device: ``"cuda"``, ``"cpu"`` or ``"mps"``.
        gpus: Number of GPUs, used through accelerate.
        workers: Processes that decode videos.
        learning_rate: Peak of the schedule; None: that of the policy.
        seed: Seed of all random numbers.
    """

    steps: int
    batch_size: int = 8
    save_steps: int = 1000
    log_steps: int = 50
    device: str = "cuda"
    gpus: int = 1
    workers: int = 4
    learning_rate: float | None = None
    seed: int = 0


def prepare(
    checkpoint: Path, recording: Recording, cameras: Sequence[str], start: Path, rtc_max_delay: int | None = None
) -> None:
    """Copy a checkpoint so that LeRobot can train it on a dataset of this arm.

    Args:
        checkpoint: Folder of a SmolVLA of any arm.
        recording: The dataset.
        cameras: Cameras of the dataset that the policy uses, in the order of the policy's own cameras.
        start: Folder of the copy.
        rtc_max_delay: Largest number of given actions that the policy learns to continue; None: that of the checkpoint.

    Raises:
        CheckpointError: The checkpoint is not a SmolVLA, lacks a file, has too few dimensions, or states a delay that
            is not shorter than its chunks.
        OptionError: The dataset has no such camera, or a chunk is not longer than ``rtc_max_delay``.
    """
    for camera in cameras:
        if camera not in recording.cameras:
            raise OptionError("cameras", camera, f"one of those of the dataset: {', '.join(recording.cameras)}")
    spec = read_spec(checkpoint)  # refuses policies of another type
    if rtc_max_delay is not None and not 0 <= rtc_max_delay < spec.chunk_size:
        raise OptionError("rtc_max_delay", rtc_max_delay, f"from 0 to {spec.chunk_size - 1}, below the chunk's length")
    trained = describe_training(recording.fps, recording.gripper, recording.instructions, checkpoint, rtc_max_delay)
    if trained.rtc_max_delay >= spec.chunk_size:
        raise CheckpointError(
            f"{checkpoint / PROVENANCE} states rtc_max_delay {trained.rtc_max_delay}, and a chunk of the checkpoint "
            f"has {spec.chunk_size} actions; expected fewer. Take another copy of the checkpoint."
        )
    config = _read(checkpoint / "config.json")
    width = len(ACTION_NAMES)
    for name in ("max_state_dim", "max_action_dim"):
        if int(config.get(name, 32)) < width:
            raise CheckpointError(f"{checkpoint} has {name} {config[name]}, and this arm has {width} dimensions.")
    image = {"type": "VISUAL", "shape": [3, *recording.image_size]}
    config |= {
        "input_features": {
            "observation.state": {"type": "STATE", "shape": [width]},
            **{f"observation.images.{camera}": image for camera in cameras},
        },
        "output_features": {"action": {"type": "ACTION", "shape": [width]}},
        "empty_cameras": 0,
        "adapt_to_pi_aloha": False,
        "load_vlm_weights": False,  # the checkpoint has them; True would download 2 GB and replace them
        "push_to_hub": False,
    }
    shutil.rmtree(start, ignore_errors=True)
    # Checks the files: LeRobot would run code that they name, and notices missing files late.
    copy_checkpoint(checkpoint, start, link_weights=True)
    save_json(start / "config.json", config, "configuration of the policy")
    make_plain(start, start)
    write_provenance(start, trained)


def finetune(
    folder: Path,
    recording: Recording,
    options: FinetuneOptions,
    *,
    report: Callable[[int, float, float], None],
    saved: Callable[[int, Path], None] = lambda step, policy: None,
    resume: bool = False,
) -> Path:
    """Run ``lerobot-train`` to its end.

    Args:
        folder: Folder of the run, with the checkpoint of :func:`prepare` in ``start``.
        recording: The dataset.
        options: Options of the run.
        report: Called with the step, the loss and the time of a step in s.
        saved: Called with the step and the folder of a policy each time one was saved; training continues meanwhile.
        resume: Whether to continue from the last checkpoint.

    Returns:
        Folder of the finished policy.

    Raises:
        CheckpointError: The run has no checkpoint to continue from.
        SmolVLAGymError: The program failed; its last output is in the message.
    """
    folder = folder.absolute()
    last = folder / _LAST
    first = _step_of(folder) if resume else 0
    if resume:
        check_resumed(last, recording)
    elif delay := _max_delay(folder):
        _make_delayed_start(folder, delay)
    command = train_command(folder, recording, options, resume=resume)
    tail, lines = deque[str](maxlen=30), 0
    temporary = tempfile.mkdtemp(prefix="smolvla_gym-")  # LeRobot leaves copies of its configuration there
    process = subprocess.Popen(  # noqa: S603 - no shell
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace",
        env={**os.environ, "TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": temporary},
    )  # fmt: skip
    pending: int | None = None
    try:
        assert process.stdout is not None  # noqa: S101 - narrows a type
        for line in process.stdout:
            tail.append(line.rstrip())
            if pending is not None:  # LeRobot prints the line before it saves, so that the next line follows the saving
                pending = _offer(folder, pending, saved)
            if found := _METRICS.search(line):
                lines += 1
                seconds = float(found[2]) + float(found[3] or 0.0)
                # LeRobot reports at multiples of log_freq, also in a resumed run.
                step = (first // options.log_steps + lines) * options.log_steps
                report(step, float(found[1]), seconds)
            elif found := _SAVED.search(line):
                pending = int(found[1])
        status = process.wait()
    finally:
        end_process(process)
        shutil.rmtree(temporary, ignore_errors=True)
    if status != 0:
        raise SmolVLAGymError(f"lerobot-train ended with status {status}. Its last output:\n" + "\n".join(tail))
    if pending is not None:
        _offer(folder, pending, saved)
    return export(folder, last)


def _max_delay(folder: Path) -> int:
    """Return the largest number of given actions that a run's policy learns to continue."""
    trained = read_provenance(folder / START)
    return 0 if trained is None else trained.rtc_max_delay


def _make_delayed_start(folder: Path, delay: int) -> None:
    """Make the checkpoint that LeRobot's training begins with, with the configuration of a delayed policy."""
    start, part = folder / START, folder / _DELAYED_START
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for file in start.iterdir():
        if file.is_file():
            link_file(file, part / file.name)
    config = _read(start / "config.json") | {"type": _DELAYED, "rtc_max_delay": delay, "compile_model": False}
    (part / "config.json").unlink()  # a link to that of the start
    save_json(part / "config.json", config, "configuration of the policy")


def _offer(folder: Path, step: int, saved: Callable[[int, Path], None]) -> int | None:
    """Export a checkpoint and call ``saved``; return its step if the checkpoint is not complete yet."""
    matches = [path for path in (folder / RUN / "checkpoints").glob("[0-9]*") if int(path.name) == step]
    if not matches or not (matches[0] / "training_state").is_dir():
        return step
    saved(step, export(folder, matches[0] / "pretrained_model"))
    return None


def export(folder: Path, pretrained: Path) -> Path:
    """Make a policy that can be loaded and moved from a checkpoint of LeRobot.

    Args:
        folder: Folder of the run.
        pretrained: LeRobot's folder ``pretrained_model``.

    Returns:
        Folder of the policy.
    """
    part, policy = folder / f"{POLICY}.part", folder / POLICY
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for file in pretrained.iterdir():
        if file.name == WEIGHTS:
            link_file(file, part / WEIGHTS)
        elif file.name != _TRAIN_CONFIG and file.is_file():
            shutil.copy2(file, part / file.name)
    vlm = folder / START / VLM_FOLDER
    if vlm.is_dir():
        shutil.copytree(vlm, part / VLM_FOLDER)
        make_portable(part)
    copy_provenance(folder / START, part)
    shutil.rmtree(policy, ignore_errors=True)
    part.rename(policy)
    return policy


def train_command(folder: Path, recording: Recording, options: FinetuneOptions, *, resume: bool) -> list[str]:
    """Return the command line of LeRobot's training program.

    Args:
        folder: Folder of the run, an absolute path.
        recording: The dataset.
        options: Options of the run.
        resume: Whether to continue from the last checkpoint.
    """
    launcher = [sys.executable, "-m"]
    if options.gpus > 1:
        launcher += ["accelerate.commands.launch", "--multi_gpu", f"--num_processes={options.gpus}", "-m"]
    command = [*launcher, "lerobot.scripts.lerobot_train"]
    delayed = _max_delay(folder) > 0
    if delayed:
        # The same argument for the policy would be taken for a field of its configuration.
        command.append(f"--env.discover_packages_path={_DELAYED_PACKAGE}")
    if resume:
        command += [
            "--resume=true", f"--config_path={folder / _LAST / _TRAIN_CONFIG}",
            f"--dataset.root={recording.root.absolute()}", f"--policy.device={options.device}",
            f"--output_dir={folder / RUN}",
        ]  # fmt: skip
    else:
        command += [
            f"--policy.path={folder / (_DELAYED_START if delayed else START)}",
            f"--policy.device={options.device}", "--policy.push_to_hub=false",
            f"--dataset.repo_id=local/{ROBOT_TYPE}", f"--dataset.root={recording.root.absolute()}",
            "--dataset.video_backend=pyav", f"--output_dir={folder / RUN}", "--wandb.enable=false",
            "--env_eval_freq=0", f"--seed={options.seed}",
        ]  # fmt: skip
        if options.learning_rate is not None:
            command.append(f"--policy.optimizer_lr={options.learning_rate}")
    return [
        *command, f"--steps={options.steps}", f"--batch_size={options.batch_size}",
        f"--save_freq={options.save_steps}", f"--log_freq={options.log_steps}", f"--num_workers={options.workers}",
    ]  # fmt: skip


def recover(folder: Path) -> int:
    """Export the policy of the last checkpoint, which a run that was killed may not have exported.

    Args:
        folder: Folder of the run.

    Returns:
        The step of the checkpoint.

    Raises:
        CheckpointError: There is no checkpoint, or its files are broken.
    """
    step = _step_of(folder)
    export(folder, folder / _LAST)
    return step


def _step_of(folder: Path) -> int:
    """Return the step of the last checkpoint of a run."""
    last = folder / _LAST
    if not last.exists():
        raise CheckpointError(f"{folder} has no checkpoint to resume from. Start a new run in another folder.")
    path = last.parent / "training_state" / "training_step.json"
    step = _read(path).get("step")
    if type(step) is not int or not 0 <= step <= _MAX_STEPS:
        raise CheckpointError(f"{path} has step {step!r:.60}, not a number of steps. Take another copy of the run.")
    return step


def check_resumed(saving: Path, recording: Recording) -> None:
    """Refuse a checkpoint that is not a SmolVLA's, and reduce LeRobot's configuration file to what a run needs.

    LeRobot would also run an environment that the file names, which may be the real arm, and upload the policy.

    Args:
        saving: Folder ``pretrained_model`` of the checkpoint.
        recording: The dataset.

    Raises:
        CheckpointError: The checkpoint is not a SmolVLA's, or its files are broken.
    """
    check_checkpoint_files(read_spec(saving))
    path = saving / _TRAIN_CONFIG
    content = _read(path)
    try:
        check_configuration(_as_plain(content.get("policy")))
    except ValueError as error:
        raise CheckpointError(f"{path} is not of a SmolVLA's training ({error}). Take another copy.") from error
    kept: dict[str, Any] = {name: content[name] for name in _KEPT if name in content}
    kept["policy"] = {**content["policy"], "push_to_hub": False}
    kept["dataset"] = {
        "repo_id": f"local/{ROBOT_TYPE}", "root": str(recording.root.absolute()), "video_backend": "pyav",
    }  # fmt: skip
    save_json(path, {**kept, "env_eval_freq": 0}, "configuration of LeRobot's training")


def _as_plain(policy: Any) -> Any:
    """Return the configuration of a delayed policy as that of a SmolVLA; any other one is returned as it is.

    Raises:
        ValueError: Its largest delay is not allowed.
    """
    if not isinstance(policy, dict) or policy.get("type") != _DELAYED:
        return policy
    plain = {name: value for name, value in policy.items() if name != "rtc_max_delay"}
    schema.check_field("rtc_max_delay", policy.get("rtc_max_delay"), MAX_DELAY)
    return {**plain, "type": "smolvla"}


def _read(path: Path) -> dict[str, Any]:
    advice = "Take another copy of the checkpoint."
    with reading_as(CheckpointError, path, advice, f"{path} is missing. {advice}"):
        return read_json_object(path)
