"""``smolvla-gym train``: makes a policy of recorded demonstrations."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.commands.train_dataset import add_arguments, training_dataset
from smolvla_gym.cli.options.arguments import at_least, new_folder, positive
from smolvla_gym.cli.progress import progress_bar
from smolvla_gym.errors import OptionError
from smolvla_gym.utils.file_lock import lock_folder
from smolvla_gym.utils.json_file import save_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from smolvla_gym.data.reader import Recording
    from smolvla_gym.training.training_log import TrainingLog

TINY: Final = "tiny"
"""The start that is made here, from nothing."""

_STEPS: Final = {"memory": 3000, "lerobot": 20_000}
_BATCH: Final = {"memory": 64, "lerobot": 8}
_WORKERS: Final = 4
_SMALL: Final = 128
"""Edge in px of pictures up to which a whole dataset fits into memory."""

_STATE: Final = "state.pt"
_FEWEST_STEPS: Final = 100
"""Optimiser steps between savings unless ``--save-steps`` says otherwise: each saving is followed by a trial."""
_KEPT: Final = ("dataset", "start", "trainer", "cameras", "batch_size", "learning_rate", "freeze_vision", "seed",
                "rename", "units")  # fmt: skip
"""What cannot change while a run goes on."""

_GOAL: Final = ("steps", "save_steps")
"""What a run that goes on takes from before unless it is told otherwise."""

_EXAMPLES: Final = """examples:
  smolvla-gym train --dataset data/lift                     the tiny policy from nothing, on a CPU
  smolvla-gym train --dataset data/mine --from bundled      the bundled policy learns something more
  smolvla-gym train --dataset data/mine --from lerobot/smolvla_base --steps 20000 --gpus 2
                                                            the large one, on two GPUs
  smolvla-gym train --dataset data/theirs --units degrees --rename front=wrist
                                                            names and units of another recorder
  smolvla-gym train --dataset data/mine --out outputs/train/mine --resume --steps 6000
                                                            goes on with a run
"""


def add_parser(commands: Any) -> None:
    """Adds the command and its arguments."""
    parser = commands.add_parser(
        "train",
        help="Make a policy of recorded demonstrations.",
        description="Trains a SmolVLA on a dataset of `smolvla-gym record`: the tiny one from nothing with its frames "
        "in memory, or any other through LeRobot's own training. Writes the policy, training.jsonl and training.png.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--dataset", type=Path, required=True, metavar="DIR", help="what `smolvla-gym record` or lerobot-record wrote")
    add_arguments(parser)
    add(
        "--from",
        dest="start",
        metavar="P",
        help="tiny (from nothing), bundled, a checkpoint folder, or a Hub repository such as lerobot/smolvla_base "
        "(default: tiny)",
    )
    add("--out", type=Path, metavar="DIR", help="folder of the run (default: outputs/train/<date>_<time>)")
    add("--resume", action="store_true", help="go on with the run in --out from its last saving")
    add(
        "--steps",
        type=at_least(1),
        metavar="N",
        help="optimiser steps in all (default: 3000; by LeRobot 20000; with --resume those of before)",
    )
    add("--batch-size", type=at_least(1), metavar="N", help="frames a step and GPU (default: 64; by LeRobot 8)")
    add("--learning-rate", type=positive, metavar="LR", help="peak of the schedule (default: 0.001; or the policy's)")
    add(
        "--freeze-vision",
        action="store_const",
        const=True,
        help="in memory: leave the vision tower as it is, for about twice the steps a second",
    )
    add(
        "--save-steps",
        type=at_least(1),
        metavar="N",
        help=f"steps between savings (default: a tenth of --steps, at least {_FEWEST_STEPS})",
    )
    add("--cameras", nargs="+", metavar="NAME", help="of the dataset, in the order of the policy's (default: all)")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, mps (default: %(default)s)")
    add("--gpus", type=at_least(1), default=1, metavar="N", help="GPUs that share the work (default: %(default)s)")
    add("--workers", type=at_least(0), metavar="N", help=f"processes that decode for LeRobot (default: {_WORKERS})")
    add("--seed", type=at_least(0), metavar="S", help="seed of everything drawn (default: 0)")
    add(
        "--trainer",
        choices=("memory", "lerobot"),
        help="memory: ours, for small pictures; lerobot: lerobot-train (default: what the policy's pictures suggest)",
    )
    add("--task", nargs="+", metavar="T", help="to be tried at each saving (default: those of the dataset's sentences)")
    add(
        "--eval-episodes",
        type=at_least(0),
        default=20,
        metavar="N",
        help="episodes a task at each saving, on seeds that are not in the dataset; 0: none (default: %(default)s)",
    )
    add("--eval-seed", type=at_least(0), default=0, metavar="S", help="the first of their seeds (default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Checks everything, trains, and says where the policy is."""
    _check_out(arguments)
    with contextlib.ExitStack() as stack:
        if arguments.resume:  # before anything there is read or repaired
            stack.enter_context(lock_folder(arguments.out))
        return _run(arguments, stack)


def _run(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> int:
    _recall(arguments)
    from smolvla_gym.agent.checkpoint.load import resolve_device
    from smolvla_gym.cli.commands.train_trials import announce, check_drawing, make_trial, plan_trials
    from smolvla_gym.data.reader import open_recording
    from smolvla_gym.data.transaction import repair
    from smolvla_gym.training.preflight import check_run
    from smolvla_gym.training.training_log import TrainingLog

    device = resolve_device(arguments.device)
    root, begun = training_dataset(arguments, stack, _say)
    converted = root != arguments.dataset
    recording = open_recording(root)
    if recording.lost:
        _say(f"{root} lost {recording.lost}")
    for camera in arguments.cameras or ():
        if camera not in recording.cameras:
            raise OptionError("--cameras", camera, f"of those of the dataset: {', '.join(recording.cameras)}")
    start = _start(arguments)
    trainer = _trainer(arguments, start)
    _check_trainer(arguments, trainer, device)
    if trainer == "lerobot" and (repaired := repair(root)):  # LeRobot reads the folder as it is
        _say(f"{root} was repaired: it lost {repaired}")
        recording = open_recording(root)
    if trainer == "lerobot" and recording.missing:
        allowed = f"a whole dataset, as LeRobot's own training wants one; of this one are lost {recording.lost}"
        raise OptionError("--dataset", str(arguments.dataset), allowed)
    if start is not None:
        _check_rate(arguments, start, recording)
    if trainer == "memory" and start is not None:
        _check_start(arguments, start, recording)
    if arguments.freeze_vision and start is None:
        raise OptionError("--freeze-vision", True, f"only with --from: a frozen tower of {TINY} would see nothing")
    if arguments.freeze_vision and trainer == "lerobot":
        allowed = "only in memory: LeRobot does what the checkpoint's own freeze_vision_encoder says"
        raise OptionError("--freeze-vision", True, allowed)
    arguments.steps = arguments.steps or _STEPS[trainer]
    arguments.save_steps = arguments.save_steps or max(_FEWEST_STEPS, arguments.steps // 10)
    if arguments.resume:
        _check_steps(arguments, trainer)
    trials = plan_trials(arguments, recording, device)
    _say(
        f"{recording.episodes} episodes, {len(recording)} frames at {recording.fps} Hz, cameras "
        f"{', '.join(recording.cameras)}, {len(recording.instructions)} sentences"
    )
    announce(trials, arguments.steps, arguments.save_steps)
    check_drawing(trials)
    check_run(arguments.out or Path(), start, trainer)
    out = arguments.out or new_folder("train")
    if not arguments.resume and not converted:
        out.mkdir(parents=True, exist_ok=True)
        stack.enter_context(lock_folder(out))
        _check_out(arguments)  # another program may have begun there, and ended, meanwhile
    _remember(arguments, out, trainer)
    begun()
    log = TrainingLog(out)
    doing = _in_memory if trainer == "memory" else _by_lerobot
    try:
        trial = make_trial(trials, recording, out, log)
        policy = doing(_Run(arguments, recording, start, device, out, log, trial))
    except BaseException as error:
        if (out / "policy").exists():
            error.add_note(f"the last saving is in {out / 'policy'}; --resume goes on from it")
        raise
    finally:
        if log.rows:
            log.plot()
    print(f"Policy: {policy}{os.sep}")
    if log.rows:
        print(f"Curve:  {out / 'training.png'}")
    return 0


@dataclass(frozen=True)
class _Run:
    """A run whose arguments were checked.

    Attributes:
        arguments: What was asked for.
        recording: The dataset.
        start: The checkpoint to begin with; None: a new tiny one.
        device: Where it computes.
        out: Its folder.
        log: Takes losses.
        trial: Is called with the step and the policy after each saving.
    """

    arguments: argparse.Namespace
    recording: Recording
    start: Path | None
    device: str
    out: Path
    log: TrainingLog
    trial: Callable[[int, Path], None]


def _in_memory(run: _Run) -> Path:
    """Trains every weight, with all pictures in memory."""
    from smolvla_gym.agent.checkpoint.saving import copy_checkpoint
    from smolvla_gym.agent.checkpoint.spec import read_spec
    from smolvla_gym.data.decoding import decode_images
    from smolvla_gym.data.statistics import compute_stats
    from smolvla_gym.training.provenance import describe_training, write_provenance
    from smolvla_gym.training.tiny.checkpoint import build_tiny_checkpoint
    from smolvla_gym.training.tiny.frames import Frames
    from smolvla_gym.training.tiny.imitation import train
    from smolvla_gym.training.tiny.options import TrainOptions, TrainProgress

    cameras = tuple(run.arguments.cameras or run.recording.cameras)
    start, part = run.out / "start", run.out / "start.part"
    if not start.exists():
        shutil.rmtree(part, ignore_errors=True)  # half of one, of a run that was killed
        if run.start is not None:
            copy_checkpoint(run.start, part)  # the run goes on from it whatever becomes of the original
        else:
            stats = compute_stats(run.recording.states, run.recording.actions)
            build_tiny_checkpoint(
                part, cameras=cameras, stats=stats, chunk_size=max(2, round(32 * run.recording.fps / 30)),
                n_action_steps=max(1, round(12 * run.recording.fps / 30)), sentences=run.recording.instructions,
                seed=run.arguments.seed,
            )  # fmt: skip
        trained = describe_training(run.recording.fps, run.recording.gripper, run.recording.instructions, run.start)
        write_provenance(part, trained)
        part.rename(start)
    spec = read_spec(start)
    with progress_bar("frame", len(spec.cameras) * len(run.recording)) as decoded:
        sizes = set(spec.cameras.values())
        images = decode_images(
            run.recording, tuple(spec.cameras), sizes.pop(), run.out / "frames", lambda n: decoded(n, "decoding")
        )
    frames = Frames.of(run.recording, images)
    options = TrainOptions(
        steps=run.arguments.steps, batch_size=run.arguments.batch_size or _BATCH["memory"], device=run.device,
        learning_rate=run.arguments.learning_rate or 1e-3, freeze_vision=bool(run.arguments.freeze_vision),
        seed=run.arguments.seed, save_steps=run.arguments.save_steps,
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )  # fmt: skip
    with progress_bar("step", run.arguments.steps) as show:

        def report(progress: TrainProgress) -> None:
            run.log.loss(progress.step, progress.loss)
            left = progress.left / 60
            show(progress.step, f"loss {progress.loss:.4f}  {progress.rate:.2f} steps/s  {left:.1f} min left")

        def saved(step: int) -> None:
            run.trial(step, run.out / "policy")

        with contextlib.redirect_stdout(sys.stderr):
            train(start, frames, run.out / "policy", options, report=report, saved=saved, state=run.out / _STATE)
    return run.out / "policy"


def _by_lerobot(run: _Run) -> Path:
    """Trains with ``lerobot-train``."""
    from smolvla_gym.training.lerobot.finetune import START, FinetuneOptions, finetune, prepare

    assert run.start is not None  # noqa: S101 - the tiny one is not for LeRobot
    steps = run.arguments.steps
    if not run.arguments.resume:
        prepare(run.start, run.recording, tuple(run.arguments.cameras or run.recording.cameras), run.out / START)
    options = FinetuneOptions(
        steps=steps, batch_size=run.arguments.batch_size or _BATCH["lerobot"], save_steps=run.arguments.save_steps,
        log_steps=max(1, min(50, steps // 20)), device=run.device, gpus=run.arguments.gpus,
        workers=_WORKERS if run.arguments.workers is None else run.arguments.workers,
        learning_rate=run.arguments.learning_rate, seed=run.arguments.seed,
    )  # fmt: skip
    with progress_bar("step", steps) as show:

        def report(step: int, loss: float, seconds: float) -> None:
            run.log.loss(step, loss)
            left = (steps - step) * seconds / 60
            show(step, f"loss {loss:.3f}  {1 / max(seconds, 1e-6):.2f} steps/s  {left:.1f} min left")

        return finetune(run.out, run.recording, options, report=report, saved=run.trial, resume=run.arguments.resume)


def _check_out(arguments: argparse.Namespace) -> None:
    """Makes sure that no policy is lost: the folder of a run is a new one."""
    out: Path | None = arguments.out
    if arguments.resume:
        if out is None or not out.is_dir():
            raise OptionError("--out", None if out is None else str(out), "the folder of a run, with --resume")
    elif out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError("--out", str(out), "a new folder, or --resume to go on with the run in it")


def _recall(arguments: argparse.Namespace) -> None:
    """Takes what a run was begun with where it is gone on with, and refuses to change it on the way."""
    arguments.dataset = arguments.dataset.absolute()
    kept: dict[str, Any] = {}
    if arguments.resume:
        from smolvla_gym.training.run_folder import RUN, read_run

        try:
            kept = read_run(arguments.out)
        except (OSError, ValueError) as error:
            raise OptionError("--out", str(arguments.out), f"the folder of a run, with {RUN} ({error})") from error
        kept = dict.fromkeys(_KEPT) | kept  # a run of an earlier version lacks what there was not
        for name in _GOAL:
            setattr(arguments, name, getattr(arguments, name) or kept.get(name))
    for name in _KEPT:
        given = getattr(arguments, name)
        given = str(given) if isinstance(given, Path) else given
        if name in kept:
            if given is not None and given != kept[name]:
                option = "--from" if name == "start" else "--" + name.replace("_", "-")
                raise OptionError(option, given, f"{kept[name]!r}, as when the run was begun, or nothing")
            setattr(arguments, name, Path(kept[name]) if name == "dataset" else kept[name])
    arguments.start = arguments.start or TINY
    arguments.seed = arguments.seed or 0


def _remember(arguments: argparse.Namespace, out: Path, trainer: str) -> None:
    """Keeps what the run is begun with, and how far it is to go."""
    from smolvla_gym.training.run_folder import RUN

    out.mkdir(parents=True, exist_ok=True)
    arguments.trainer = trainer
    values = {name: getattr(arguments, name) for name in (*_KEPT, *_GOAL)}
    save_text(out / RUN, json.dumps(values, indent=1, default=str) + "\n", "options of the run")


def _start(arguments: argparse.Namespace) -> Path | None:
    """Returns the checkpoint to begin with, None for a new tiny one."""
    from smolvla_gym.agent.checkpoint.load import fetch_checkpoint

    if arguments.start == TINY:
        return None
    if arguments.resume and (arguments.out / "start").is_dir():
        return Path(arguments.out, "start")
    return fetch_checkpoint(arguments.start)


def _trainer(arguments: argparse.Namespace, start: Path | None) -> str:
    """Returns ``"memory"`` or ``"lerobot"``."""
    if start is None:
        if arguments.trainer == "lerobot":
            raise OptionError("--from", TINY, "a checkpoint, with --trainer lerobot")
        return "memory"
    if arguments.trainer is not None:
        return str(arguments.trainer)
    from smolvla_gym.agent.checkpoint.spec import read_spec

    return "memory" if all(max(size) <= _SMALL for size in read_spec(start).cameras.values()) else "lerobot"


def _check_trainer(arguments: argparse.Namespace, trainer: str, device: str) -> None:
    """Refuses what the trainer would ignore, and more GPUs than there are."""
    if trainer == "memory":
        allowed = "only with --trainer lerobot: in memory one device trains, and all is decoded before"
        if arguments.gpus > 1:
            raise OptionError("--gpus", arguments.gpus, allowed)
        if arguments.workers is not None:
            raise OptionError("--workers", arguments.workers, allowed)
    elif arguments.gpus > 1:
        import torch

        if not device.startswith("cuda"):
            raise OptionError("--gpus", arguments.gpus, f"1 with the device {device}")
        if arguments.gpus > (there := torch.cuda.device_count()):
            raise OptionError("--gpus", arguments.gpus, f"at most {there}, the GPUs of this machine")


def _check_steps(arguments: argparse.Namespace, trainer: str) -> None:
    """Refuses to go on with a run that is where it is to go."""
    if trainer == "memory":
        from smolvla_gym.training.tiny.state_file import step_of

        done = step_of(arguments.out / _STATE)
    else:
        from smolvla_gym.training.lerobot.finetune import recover

        done = recover(arguments.out)
    if arguments.steps <= done:
        raise OptionError("--steps", arguments.steps, f"above {done}, which {arguments.out / 'policy'} has already")


def _check_rate(arguments: argparse.Namespace, start: Path, recording: Recording) -> None:
    """Refuses a checkpoint whose actions follow each other at another rate than those of the dataset."""
    from smolvla_gym.training.provenance import read_provenance

    trained = read_provenance(start)
    if trained is not None and trained.control_hz != recording.fps:
        raise OptionError(
            "--from", arguments.start,
            f"a policy of the dataset's {recording.fps} Hz, and this one was trained at {trained.control_hz:g} Hz. "
            f"Record with --control-hz {trained.control_hz:g}, or begin with --from {TINY}",
        )  # fmt: skip


def _check_start(arguments: argparse.Namespace, start: Path, recording: Recording) -> None:
    """Refuses a checkpoint that cannot learn from the dataset as it is."""
    from smolvla_gym.agent.checkpoint.spec import read_spec
    from smolvla_gym.agent.checkpoint.validation import check_checkpoint

    spec = read_spec(start)
    check_checkpoint(spec)
    missing = [camera for camera in spec.cameras if camera not in recording.cameras]
    if missing:
        allowed = (
            f"a policy with cameras of the dataset ({', '.join(recording.cameras)}), not {', '.join(missing)}; or the "
            "dataset's are named as the policy's, with --rename OLD=NEW"
        )
        raise OptionError("--from", arguments.start, allowed)
    if not arguments.resume and arguments.cameras not in (None, list(spec.cameras)):
        allowed = f"{' '.join(spec.cameras)}, as in {arguments.start}; --from {TINY} or --trainer lerobot takes others"
        raise OptionError("--cameras", " ".join(arguments.cameras), allowed)


def _say(line: str) -> None:
    print(f"smolvla-gym: {line}", file=sys.stderr, flush=True)
