"""``smolvla-gym train``: makes a policy of recorded demonstrations."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.arguments import at_least, new_folder, positive
from smolvla_gym.cli.progress import progress_bar
from smolvla_gym.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from smolvla_gym.training.log import TrainingLog
    from smolvla_gym.training.recordings import Recording

TINY: Final = "tiny"
"""The start that is made here, from nothing."""

_STEPS: Final = {"memory": 3000, "lerobot": 20_000}
_BATCH: Final = {"memory": 64, "lerobot": 8}
_SMALL: Final = 128
"""Edge in px of pictures up to which a whole dataset fits into memory."""

_RUN: Final = "run.json"
_KEPT: Final = ("dataset", "start", "trainer", "cameras", "batch_size", "learning_rate", "freeze_vision", "seed")
"""What cannot change while a run goes on."""

_EXAMPLES: Final = """examples:
  smolvla-gym train --dataset data/lift                     the tiny policy from nothing, on a CPU
  smolvla-gym train --dataset data/mine --from bundled      the bundled policy learns something more
  smolvla-gym train --dataset data/mine --from lerobot/smolvla_base --steps 20000 --gpus 2
                                                            the large one, on two GPUs
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
    add("--dataset", type=Path, required=True, metavar="DIR", help="what `smolvla-gym record` wrote")
    add(
        "--from",
        dest="start",
        metavar="P",
        help="tiny (from nothing), bundled, a checkpoint folder, or a Hub repository such as lerobot/smolvla_base "
        "(default: tiny)",
    )
    add("--out", type=Path, metavar="DIR", help="folder of the run (default: outputs/train/<date>_<time>)")
    add("--resume", action="store_true", help="go on with the run in --out from its last saving")
    add("--steps", type=at_least(1), metavar="N", help="optimiser steps in all (default: 3000; by LeRobot 20000)")
    add("--batch-size", type=at_least(1), metavar="N", help="frames a step and GPU (default: 64; by LeRobot 8)")
    add("--learning-rate", type=positive, metavar="LR", help="peak of the schedule (default: 0.001; or the policy's)")
    add(
        "--freeze-vision",
        action="store_const",
        const=True,
        help="in memory: leave the vision tower as it is, for about twice the steps a second",
    )
    add("--save-steps", type=at_least(1), metavar="N", help="steps between savings (default: a tenth of --steps)")
    add("--cameras", nargs="+", metavar="NAME", help="of the dataset, in the order of the policy's (default: all)")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, mps (default: %(default)s)")
    add("--gpus", type=at_least(1), default=1, metavar="N", help="GPUs that share the work (default: %(default)s)")
    add("--workers", type=at_least(0), default=4, metavar="N", help="processes that decode videos for LeRobot")
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
    _recall(arguments)
    from smolvla_gym.agent.checkpoint import resolve_device
    from smolvla_gym.training.log import TrainingLog
    from smolvla_gym.training.recordings import open_recording

    device = resolve_device(arguments.device)
    recording = open_recording(arguments.dataset)
    if recording.lost:
        _say(f"{arguments.dataset} lost {recording.lost}")
    for camera in arguments.cameras or ():
        if camera not in recording.cameras:
            raise OptionError("--cameras", camera, f"of those of the dataset: {', '.join(recording.cameras)}")
    start = _start(arguments)
    trainer = _trainer(arguments, start)
    if trainer == "memory" and start is not None:
        _check_start(arguments, start, recording)
    if arguments.freeze_vision and start is None:
        raise OptionError("--freeze-vision", True, f"only with --from: a frozen tower of {TINY} would see nothing")
    if arguments.freeze_vision and trainer == "lerobot":
        allowed = "only in memory: LeRobot does what the checkpoint's own freeze_vision_encoder says"
        raise OptionError("--freeze-vision", True, allowed)
    tasks = _tasks(arguments, recording)
    _say(
        f"{recording.episodes} episodes, {len(recording)} frames at {recording.fps} Hz, cameras "
        f"{', '.join(recording.cameras)}, {len(recording.instructions)} sentences"
    )
    steps = arguments.steps or _STEPS[trainer]
    save_steps = arguments.save_steps or max(1, steps // 10)
    out = arguments.out or new_folder("train")
    _remember(arguments, out, trainer)
    log = TrainingLog(out)
    doing = _in_memory if trainer == "memory" else _by_lerobot
    try:
        trial = _trial(arguments, recording, out, log, tasks)
        policy = doing(_Run(arguments, recording, start, device, out, steps, save_steps, log, trial))
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
        steps: Optimiser steps in all.
        save_steps: Steps between savings.
        log: Takes losses.
        trial: Is called with the step and the policy after each saving.
    """

    arguments: argparse.Namespace
    recording: Recording
    start: Path | None
    device: str
    out: Path
    steps: int
    save_steps: int
    log: TrainingLog
    trial: Callable[[int, Path], None]


def _in_memory(run: _Run) -> Path:
    """Trains every weight, with all pictures in memory."""
    from smolvla_gym.agent.spec import read_spec
    from smolvla_gym.training.imitation import train
    from smolvla_gym.training.options import TrainOptions, TrainProgress
    from smolvla_gym.training.recordings import decode
    from smolvla_gym.training.stats import compute_stats
    from smolvla_gym.training.tiny import build_tiny_checkpoint

    cameras = tuple(run.arguments.cameras or run.recording.cameras)
    start = run.out / "start"
    if not start.exists():
        if run.start is not None:
            shutil.copytree(run.start, start)  # the run goes on from it whatever becomes of the original
        else:
            stats = compute_stats(run.recording.states, run.recording.actions)
            build_tiny_checkpoint(
                start, cameras=cameras, stats=stats, chunk_size=max(2, round(32 * run.recording.fps / 30)),
                n_action_steps=max(1, round(12 * run.recording.fps / 30)), sentences=run.recording.instructions,
                seed=run.arguments.seed,
            )  # fmt: skip
    spec = read_spec(start)
    with progress_bar("frame", len(spec.cameras) * len(run.recording), every=100) as decoded:
        sizes = set(spec.cameras.values())
        frames = decode(
            run.recording, tuple(spec.cameras), sizes.pop(), run.out / "frames", lambda n: decoded(n, "decoding")
        )
    options = TrainOptions(
        steps=run.steps, batch_size=run.arguments.batch_size or _BATCH["memory"], device=run.device,
        learning_rate=run.arguments.learning_rate or 1e-3, freeze_vision=bool(run.arguments.freeze_vision),
        seed=run.arguments.seed, save_steps=run.save_steps,
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )  # fmt: skip
    with progress_bar("step", run.steps, every=6) as show:

        def report(progress: TrainProgress) -> None:
            run.log.loss(progress.step, progress.loss)
            left = progress.left / 60
            show(progress.step, f"loss {progress.loss:.4f}  {progress.rate:.2f} steps/s  {left:.1f} min left")

        def saved(step: int) -> None:
            run.trial(step, run.out / "policy")

        with contextlib.redirect_stdout(sys.stderr):
            train(start, frames, run.out / "policy", options, report=report, saved=saved, state=run.out / "state.pt")
    return run.out / "policy"


def _by_lerobot(run: _Run) -> Path:
    """Trains with ``lerobot-train``."""
    from smolvla_gym.training.finetune import START, FinetuneOptions, finetune, prepare

    assert run.start is not None  # the tiny one is not for LeRobot
    if not run.arguments.resume:
        prepare(run.start, run.recording, tuple(run.arguments.cameras or run.recording.cameras), run.out / START)
    options = FinetuneOptions(
        steps=run.steps, batch_size=run.arguments.batch_size or _BATCH["lerobot"], save_steps=run.save_steps,
        log_steps=max(1, min(50, run.steps // 20)), device=run.device, gpus=run.arguments.gpus,
        workers=run.arguments.workers, learning_rate=run.arguments.learning_rate, seed=run.arguments.seed,
    )  # fmt: skip
    with progress_bar("step", run.steps, every=1) as show:

        def report(step: int, loss: float, seconds: float) -> None:
            run.log.loss(step, loss)
            left = (run.steps - step) * seconds / 60
            show(step, f"loss {loss:.3f}  {1 / max(seconds, 1e-6):.2f} steps/s  {left:.1f} min left")

        return finetune(run.out, run.recording, options, report=report, saved=run.trial, resume=run.arguments.resume)


def _check_out(arguments: argparse.Namespace) -> None:
    """Makes sure that no policy is lost: the folder of a run is a new one."""
    out: Path | None = arguments.out
    if arguments.resume:
        if out is None or not out.is_dir():
            raise OptionError("--out", None if out is None else str(out), "the folder of a run, with --resume")
    elif out is not None and out.exists() and any(out.iterdir()):
        raise OptionError("--out", str(out), "a new folder, or --resume to go on with the run in it")


def _recall(arguments: argparse.Namespace) -> None:
    """Takes what a run was begun with where it is gone on with, and refuses to change it on the way."""
    arguments.dataset = arguments.dataset.absolute()
    kept: dict[str, Any] = {}
    if arguments.resume:
        try:
            kept = json.loads((arguments.out / _RUN).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OptionError("--out", str(arguments.out), f"the folder of a run, with {_RUN} ({error})") from error
        kept = dict.fromkeys(_KEPT) | kept  # a run of an earlier version lacks what there was not
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
    """Keeps what the run is begun with."""
    if arguments.resume:
        return
    out.mkdir(parents=True, exist_ok=True)
    arguments.trainer = trainer
    values = {name: getattr(arguments, name) for name in _KEPT}
    (out / _RUN).write_text(json.dumps(values, indent=1, default=str) + "\n", encoding="utf-8")


def _start(arguments: argparse.Namespace) -> Path | None:
    """Returns the checkpoint to begin with, None for a new tiny one."""
    from smolvla_gym.agent.checkpoint import fetch_checkpoint

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
    from smolvla_gym.agent.spec import read_spec

    return "memory" if all(max(size) <= _SMALL for size in read_spec(start).cameras.values()) else "lerobot"


def _check_start(arguments: argparse.Namespace, start: Path, recording: Recording) -> None:
    """Refuses a checkpoint that cannot learn from the dataset as it is."""
    from smolvla_gym.agent.compatibility import check_checkpoint
    from smolvla_gym.agent.spec import read_spec

    spec = read_spec(start)
    check_checkpoint(spec)
    missing = [camera for camera in spec.cameras if camera not in recording.cameras]
    if missing:
        raise OptionError("--from", arguments.start, f"a policy with cameras of the dataset, not {', '.join(missing)}")


def _tasks(arguments: argparse.Namespace, recording: Recording) -> list[str]:
    """Returns the tasks that are tried at each saving."""
    from smolvla_gym.sim.scene import COLORS
    from smolvla_gym.tasks import TASKS, get_task

    if not arguments.eval_episodes:
        return []
    if arguments.task is not None:
        names = [get_task(name).name for name in arguments.task]
    else:
        sentences = set(recording.instructions)
        names = [
            name
            for name, task in TASKS.items()
            if any(p.format(color=c, base=b) in sentences for p in task.phrasings for c in COLORS for b in COLORS)
        ]
    ours = recording.root / "meta" / "parol6.json"
    used = {e["seed"] for e in json.loads(ours.read_text(encoding="utf-8"))["episodes"]} if ours.is_file() else set()
    tried = range(arguments.eval_seed, arguments.eval_seed + arguments.eval_episodes)
    if names and (both := used.intersection(tried)):
        allowed = f"seeds that are not in the dataset, which has {min(both)}"
        raise OptionError("--eval-seed", arguments.eval_seed, allowed)
    return names


def _trial(
    arguments: argparse.Namespace, recording: Recording, out: Path, log: TrainingLog, tasks: list[str]
) -> Callable[[int, Path], None]:
    """Returns what tries a policy that was saved, in a process of its own."""

    def trial(step: int, policy: Path) -> None:
        if not tasks:
            return
        command = [
            sys.executable, "-m", "smolvla_gym", "eval", "--policy", str(policy.absolute()), "--task", *tasks,
            "--episodes", str(arguments.eval_episodes), "--seed", str(arguments.eval_seed), "--json",
            "--control-hz", str(recording.fps), "--out", str(out / "eval" / f"step_{step}"),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            _say(f"the trial after step {step} failed: {done.stderr.strip().splitlines()[-1:]}")
            return
        for row in json.loads(done.stdout)["conditions"]:
            log.success(step, row["task"], row["successes"], row["episodes"])
            _say(f"step {step}: {row['task']} {row['successes']}/{row['episodes']}")
        log.plot()

    return trial


def _say(line: str) -> None:
    print(f"smolvla-gym: {line}", file=sys.stderr, flush=True)
