"""``smolvla-gym train``: train a policy on recorded demonstrations."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from smolvla_gym.cli.commands.train_checks import (
    STATE,
    check_delay,
    check_start,
    check_steps,
    check_trainer,
    choose_trainer,
    tiny_chunk,
)
from smolvla_gym.cli.commands.train_dataset import training_dataset
from smolvla_gym.cli.options.parser import AddParser, command
from smolvla_gym.cli.options.training import BATCH, FEWEST_STEPS, STEPS, TINY, WORKERS, TrainOptions
from smolvla_gym.cli.output import output_folder, say
from smolvla_gym.cli.progress import progress_bar, steady_lines
from smolvla_gym.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from smolvla_gym.data.reader import Recording
    from smolvla_gym.training.training_log import TrainingLog

_EXAMPLES: Final = """examples:
  smolvla-gym train --dataset data/lift                     the tiny policy from nothing, on a CPU
  smolvla-gym train --dataset data/mine --from bundled      fine-tune the bundled policy
  smolvla-gym train --dataset data/mine --from lerobot/smolvla_base --steps 20000 --gpus 2
                                                            the large one, on two GPUs
  smolvla-gym train --dataset data/other --units degrees --rename front=wrist
                                                            names and units of another recorder
  smolvla-gym train --dataset data/mine --out outputs/train/mine --resume --steps 6000
                                                            go on with a run
"""


def run(options: TrainOptions) -> int:
    """Check everything, train, and print where the policy is."""
    options.check_out()
    with output_folder(options.out, "train") as options.out:
        options.check_out()  # another program may have begun there, and ended, meanwhile
        options.recall()
        with contextlib.ExitStack() as undo:
            training = _prepare(options, options.out, undo)
            _remember(options, options.out)
            undo.pop_all()
        _train(training)
    return 0


add_parser: AddParser = command(
    "train", TrainOptions, run, examples=_EXAMPLES,
    help="Train a policy on recorded demonstrations.",
    description="Trains a SmolVLA on a dataset of `smolvla-gym record`: the tiny one from nothing with its frames "
    "in memory, or any other through LeRobot's own training. Writes the policy, training.jsonl and training.png.",
)  # fmt: skip


@dataclass(frozen=True)
class _Training:
    """A run whose options were checked.

    Attributes:
        options: The options.
        recording: The dataset.
        start: The checkpoint to begin with; None: a new tiny one.
        device: Where it computes.
        out: Its folder.
        log: Takes losses.
        trial: Called with the step and the policy after each saving.
    """

    options: TrainOptions
    recording: Recording
    start: Path | None
    device: str
    out: Path
    log: TrainingLog
    trial: Callable[[int, Path], None]


def _prepare(options: TrainOptions, out: Path, undo: contextlib.ExitStack) -> _Training:
    """Check everything before the first step.

    Args:
        options: The options; the trainer and the steps are set.
        out: Folder of the run.
        undo: Removes a converted copy of the dataset.
    """
    from smolvla_gym.cli.commands.train_trials import announce, check_drawing, make_trial, plan_trials
    from smolvla_gym.training.preflight import check_run
    from smolvla_gym.training.training_log import TrainingLog

    with steady_lines(lambda: f"checking the dataset {options.dataset} and the start {options.start}"):
        from smolvla_gym.agent.checkpoint.load import resolve_device

        device = resolve_device(options.device)
        root = training_dataset(options, out, undo)
        recording, start = _open(options, root, device)
        trials = plan_trials(options, recording, device)
        say(
            f"{recording.episodes} episodes, {len(recording)} frames at {recording.fps} Hz, cameras "
            f"{', '.join(recording.cameras)}, {len(recording.instructions)} sentences"
        )
        announce(trials, options.steps, options.save_steps)
    with steady_lines(lambda: "checking that this machine renders the images of the trials"):
        check_drawing(trials)
    check_run(out, start, str(options.trainer))
    log = TrainingLog(out)
    return _Training(options, recording, start, device, out, log, make_trial(trials, recording, out, log))


def _train(run: _Training) -> None:
    """Train, and print where the policy and its curve are."""
    try:
        policy = _in_memory(run) if run.options.trainer == "memory" else _by_lerobot(run)
    except BaseException as error:
        if (run.out / "policy").exists():
            error.add_note(f"the last saving is in {run.out / 'policy'}; --resume goes on from it")
        raise
    finally:
        if run.log.rows:
            run.log.plot()
    print(f"Policy: {policy}{os.sep}")
    if run.log.rows:
        print(f"Curve:  {run.out / 'training.png'}")


def _open(options: TrainOptions, root: Path, device: str) -> tuple[Recording, Path | None]:
    """Return the dataset and the checkpoint to begin with, None for a new one, if they fit the options."""
    from smolvla_gym.data.reader import open_recording
    from smolvla_gym.data.transaction import repair

    recording = open_recording(root)
    if recording.lost:
        say(f"{root} lost {recording.lost}")
    for camera in options.cameras or ():
        if camera not in recording.cameras:
            raise OptionError("--cameras", camera, f"cameras of the dataset: {', '.join(recording.cameras)}")
    start = _start(options)
    options.trainer = choose_trainer(options, start)
    check_trainer(options, device)
    if options.trainer == "lerobot" and (repaired := repair(root)):  # LeRobot reads the folder as it is
        say(f"{root} was repaired: it lost {repaired}")
        recording = open_recording(root)
    if options.trainer == "lerobot" and recording.missing:
        allowed = f"a whole dataset for LeRobot's own training; of this one are lost {recording.lost}"
        options.expect("dataset", allowed)
    check_start(options, start, recording)
    check_delay(options, start, recording)
    options.steps = options.steps or STEPS[options.trainer]
    options.save_steps = options.save_steps or max(FEWEST_STEPS, options.steps // 10)
    if options.resume:
        check_steps(options)
    return recording, start


def _start(options: TrainOptions) -> Path | None:
    """Return the checkpoint to begin with, None for a new tiny one."""
    from smolvla_gym.agent.checkpoint.load import fetch_checkpoint

    if options.start in (None, TINY):
        return None
    if options.resume and options.out is not None and (options.out / "start").is_dir():
        return options.out / "start"
    return fetch_checkpoint(str(options.start))


def _remember(options: TrainOptions, out: Path) -> None:
    """Store the options of the run, and how far it goes."""
    from smolvla_gym.training.run_folder import RUN
    from smolvla_gym.utils.json_file import save_text

    save_text(out / RUN, json.dumps(options.run_values(), indent=1) + "\n", "options of the run")


def _in_memory(run: _Training) -> Path:
    """Train every weight, with all images in memory."""
    from smolvla_gym.agent.checkpoint.spec import read_spec
    from smolvla_gym.data.decoding import decode_images
    from smolvla_gym.training.tiny.frames import Frames
    from smolvla_gym.training.tiny.imitation import train
    from smolvla_gym.training.tiny.options import TrainOptions as TinyOptions
    from smolvla_gym.training.tiny.options import TrainProgress

    options, policy = run.options, run.out / "policy"
    start = _make_start(run)
    spec = read_spec(start)
    with progress_bar("frame", len(spec.cameras) * len(run.recording)) as decoded:
        sizes = set(spec.cameras.values())
        images = decode_images(
            run.recording, tuple(spec.cameras), sizes.pop(), run.out / "frames", lambda n: decoded(n, "decoding")
        )
    frames = Frames.of(run.recording, images)
    tiny = TinyOptions(
        steps=options.steps, batch_size=options.batch_size or BATCH["memory"], device=run.device,
        learning_rate=options.learning_rate or 1e-3, freeze_vision=bool(options.freeze_vision),
        seed=options.seed or 0, save_steps=options.save_steps,
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )  # fmt: skip
    with progress_bar("step", options.steps, text="preparing") as show:

        def report(progress: TrainProgress) -> None:
            run.log.loss(progress.step, progress.loss)
            show(progress.step, f"loss {progress.loss:.4f}  {progress.rate:.2f} steps/s")

        with contextlib.redirect_stdout(sys.stderr):
            train(
                start, frames, policy, tiny, report=report, saved=lambda step: run.trial(step, policy),
                state=run.out / STATE,
            )  # fmt: skip
    return policy


def _make_start(run: _Training) -> Path:
    """Return the checkpoint to begin with, in the folder of the run: a copy, or a new tiny one."""
    from smolvla_gym.agent.checkpoint.saving import copy_checkpoint
    from smolvla_gym.data.statistics import compute_stats
    from smolvla_gym.training.provenance import describe_training, write_provenance
    from smolvla_gym.training.tiny.checkpoint import build_tiny_checkpoint

    recording, start, part = run.recording, run.out / "start", run.out / "start.part"
    if start.exists():
        return start
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed while it copied
    if run.start is not None:
        copy_checkpoint(run.start, part)  # a run that resumes does not depend on the original
    else:
        stats = compute_stats(recording.states, recording.actions)
        build_tiny_checkpoint(
            part, cameras=tuple(run.options.cameras or recording.cameras), stats=stats,
            chunk_size=tiny_chunk(recording.fps), n_action_steps=max(1, round(12 * recording.fps / 30)),
            sentences=recording.instructions, seed=run.options.seed or 0,
        )  # fmt: skip
    trained = describe_training(
        recording.fps, recording.gripper, recording.instructions, run.start, run.options.rtc_delay
    )
    write_provenance(part, trained)
    part.rename(start)
    return start


def _by_lerobot(run: _Training) -> Path:
    """Train with ``lerobot-train``."""
    from smolvla_gym.training.lerobot.finetune import START, FinetuneOptions, finetune, prepare

    options = run.options
    assert run.start is not None  # noqa: S101 - the tiny one is not for LeRobot
    if not options.resume:
        cameras = tuple(options.cameras or run.recording.cameras)
        prepare(run.start, run.recording, cameras, run.out / START, options.rtc_delay)
    finetuning = FinetuneOptions(
        steps=options.steps, batch_size=options.batch_size or BATCH["lerobot"], save_steps=options.save_steps,
        log_steps=max(1, min(50, options.steps // 20)), device=run.device, gpus=options.gpus,
        workers=WORKERS if options.workers is None else options.workers,
        learning_rate=options.learning_rate, seed=options.seed or 0,
    )  # fmt: skip
    with progress_bar("step", options.steps, text="starting lerobot-train") as show:

        def report(step: int, loss: float, seconds: float) -> None:
            run.log.loss(step, loss)
            show(step, f"loss {loss:.3f}  {1 / max(seconds, 1e-6):.2f} steps/s")

        return finetune(run.out, run.recording, finetuning, report=report, saved=run.trial, resume=options.resume)
