"""Train a policy for all tasks from random weights: expert demonstrations, imitation, and DAgger twice.

    OMP_NUM_THREADS=1 uv run python examples/train_bundled.py --out outputs/bundled --threads 1
    uv run python examples/train_bundled.py --out outputs/bundled --device cuda --workers 16

A run that was interrupted continues from where it was last saved. ``--from`` starts from a trained policy, whose
chunks may be shorter, with fewer steps. The policy learns to continue the actions that are executed until its chunk
arrives, up to ``--rtc-delay`` of them, and to act with one camera. In the second and third stage the policy of the
stage before interrupts the expert, with inference delays of 0 to 1,200 ms.

Evaluate the result with

    uv run smolvla-gym eval --matrix --policy outputs/bundled/policy --episodes 200

This recipe was not run to its end yet. An earlier one, of four stages without delays and with chunks of 32 actions,
made a policy that succeeded in 200 (reach), 198 (lift), 196 (place), 193 (push) and 182 (stack) of the seeds 0..199:
its first three stages took 9 minutes on an NVIDIA H100 with 16 cores, its fourth 40 minutes on 2 AMD cores. A quarter
of the steps is not enough: a policy then goes to another object than the named one, which is learned last. The model
card of the bundled policy, ``assets/policies/parol6_tiny/README.md``, describes its training, in more stages than
these.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import load_file, save_file

from smolvla_gym.agent.checkpoint.provenance import Provenance, extract_words
from smolvla_gym.data.statistics import compute_stats
from smolvla_gym.sim.scene import COLORS
from smolvla_gym.tasks import TASKS
from smolvla_gym.training.provenance import read_provenance, write_provenance
from smolvla_gym.training.tiny.augmentation import Augmentation
from smolvla_gym.training.tiny.checkpoint import build_tiny_checkpoint
from smolvla_gym.training.tiny.demonstrations import DemonstrationOptions, collect
from smolvla_gym.training.tiny.frames import Frames, join
from smolvla_gym.training.tiny.frames_file import load_frames, save_frames
from smolvla_gym.training.tiny.imitation import train
from smolvla_gym.training.tiny.options import TrainOptions
from smolvla_gym.training.tiny.paraphrases import paraphrases
from smolvla_gym.utils.worker_pool import process_pool

CHUNK = 64
"""Actions in a chunk: about two seconds, so that actions are left when the next chunk comes a second late."""

MAX_DELAY = 36
"""Largest number of given actions: 1.2 s."""

COMMITTED = 36
"""Largest number of steps of a late policy that are recorded as given actions of what the expert does after them."""

VOCABULARY = 484
"""Size of the tokenizer's vocabulary: an instruction takes about ten tokens."""


@dataclass(frozen=True)
class Stage:
    """Recording of demonstrations, and training on these and earlier ones.

    Attributes:
        name: Name of the folders of the stage.
        episodes: Episodes of each task to record, relative to ``--episodes``.
        shares: For each stage whose recordings are used, the share of each task in the training samples. With shares
            by length, tasks with long episodes would prevail.
        steps: Steps of training, at scale 1.
        vision_share: Share of them, at the start, in which only the vision tower learns.
        learning_rate: Peak of the schedule.
    """

    name: str
    episodes: Mapping[str, float]
    shares: Mapping[str, Mapping[str, float]]
    steps: int
    vision_share: float = 0.0
    learning_rate: float = 1e-3


LATENCIES_MS = (0.0, 0.0, 100.0, 300.0, 466.0, 466.0, 700.0, 1000.0)
"""Inference delays in ms, one of which is drawn for each episode in which a policy interrupts the expert."""

JITTER = 0.2
"""Relative jitter of these delays: 1,000 ms become 800 to 1,200 ms."""

ABSENT = {"scene": 0.2, "wrist": 0.06}
"""Share of the frames that lack a camera: the policy also acts with one. Owners of a single camera have the wrist's."""

FINE_TUNING_STEPS, FINE_TUNING_RATE = 4000, 7e-4
"""Largest number of steps of a stage, and largest learning rate, for a policy that is not new."""

STAGES = (
    Stage(
        "1-demonstrations",
        episodes={"reach": 0.4, "lift": 1.0, "place": 1.2, "push": 0.8, "stack": 1.0, "belt": 0.6},
        shares={
            "1-demonstrations": {"reach": 0.05, "lift": 0.15, "place": 0.20, "push": 0.23, "stack": 0.26, "belt": 0.11},
        },
        steps=10_400,
        vision_share=0.03,
    ),
    Stage(
        "2-dagger",
        episodes={"reach": 0.2, "lift": 0.5, "place": 0.6, "push": 1.0, "stack": 1.0, "belt": 0.5},
        shares={
            "1-demonstrations": {"reach": 0.02, "lift": 0.07, "place": 0.10, "push": 0.10, "stack": 0.12, "belt": 0.05},
            "2-dagger": {"reach": 0.02, "lift": 0.07, "place": 0.10, "push": 0.14, "stack": 0.15, "belt": 0.06},
        },
        steps=4000,
        learning_rate=5e-4,
    ),
    Stage(
        "3-dagger",
        episodes={"reach": 0.2, "lift": 0.5, "place": 0.6, "push": 1.0, "stack": 1.0, "belt": 0.5},
        shares={
            "1-demonstrations": {"reach": 0.02, "lift": 0.04, "place": 0.06, "push": 0.06, "stack": 0.07, "belt": 0.03},
            "2-dagger": {"reach": 0.01, "lift": 0.04, "place": 0.07, "push": 0.08, "stack": 0.09, "belt": 0.04},
            "3-dagger": {"reach": 0.01, "lift": 0.05, "place": 0.08, "push": 0.10, "stack": 0.11, "belt": 0.04},
        },
        steps=4000,
        learning_rate=5e-4,
    ),
)


def sentences() -> list[str]:
    """Return instructions of all tasks, from which the tokenizer is trained."""
    return [
        template.format(color=color, base=base)
        for name, task in TASKS.items()
        for template in (*task.instruction_templates, *paraphrases(name))
        for color, base in zip(COLORS, [*COLORS][1:] + [*COLORS][:1], strict=True)
    ]


def recording(data: Path, stage: str, task: str, options: DemonstrationOptions) -> tuple[Path, DemonstrationOptions]:
    """Return the file of a stage's demonstrations of a task, and the options of their recording."""
    number, chosen = next((i, s) for i, s in enumerate(STAGES, 1) if s.name == stage)
    wanted = replace(
        options, task=task, episodes=max(1, round(chosen.episodes[task] * options.episodes)),
        first_seed=1_000_000 * number + 100_000 * list(chosen.episodes).index(task),
    )  # fmt: skip
    return data / stage / f"{task}_{wanted.episodes}.npz", wanted


def record(data: Path, stage: Stage, options: DemonstrationOptions) -> None:
    """Record the demonstrations of a stage that do not exist yet."""
    # With one worker this process records. Several workers are started once for all tasks.
    with process_pool(options.workers) if options.workers > 1 else contextlib.nullcontext() as pool:
        for task in stage.episodes:
            path, wanted = recording(data, stage.name, task, options)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                _record(path, wanted, pool)


def read(data: Path, stage: Stage, options: DemonstrationOptions) -> Frames:
    """Return the demonstrations on which a stage is trained."""
    recordings = []
    for name, shares in stage.shares.items():
        for task, share in shares.items():
            frames = load_frames(recording(data, name, task, options)[0])
            assert frames.weights is not None  # noqa: S101 - narrows a type
            recordings.append(replace(frames, weights=share * frames.weights / frames.weights.sum()))
    return join(recordings)


def _record(path: Path, options: DemonstrationOptions, pool: ProcessPoolExecutor | None) -> None:
    began = time.monotonic()
    frames = collect(options, lambda done: print(f"{options.task}: {done}/{options.episodes}", flush=True), pool=pool)
    seconds = time.monotonic() - began
    print(
        f"{options.task}: {len(frames)} frames, {len(frames.with_images)} with images, in {seconds:.0f} s", flush=True
    )
    save_frames(path, frames)


def run_stage(
    stage: Stage, previous: Path | None, frames: Frames, folder: Path, steps: int, device: str, batch_size: int,
    chunk: int, max_delay: int, threads: int,
) -> Path:  # fmt: skip
    """Train one stage, or resume it, and return the folder of its policy."""
    part, state, policy = folder / f"{stage.name}.part", folder / f"{stage.name}.state.pt", folder / stage.name
    if not state.exists():
        shutil.rmtree(part, ignore_errors=True)
        if previous is None:
            stats = compute_stats(frames.states, frames.actions)
            build_tiny_checkpoint(
                part, cameras=("wrist", "scene"), stats=stats, chunk_size=chunk, n_action_steps=12,
                num_steps=5, sentences=sentences(), vocabulary=VOCABULARY,
            )  # fmt: skip
            write_provenance(part, Provenance(30, "ssg48", lowercase=True, words=extract_words(sentences())))
        else:
            shutil.copytree(previous, part)
            set_chunk(part, chunk)
            known = read_provenance(part)
            assert known is not None  # noqa: S101 - narrows a type
            write_provenance(part, replace(known, words=extract_words(sentences())))
    options = TrainOptions(
        steps=steps, device=device, batch_size=batch_size,
        vision_share=stage.vision_share, learning_rate=stage.learning_rate, max_delay=max_delay, threads=threads,
        absent=ABSENT, noise_draws=1,  # more frames in the same time than with two draws for each
        augmentation=Augmentation(brightness=0.1, contrast=0.1, colour=0.05),
    )  # fmt: skip
    report = train(part, frames, part, options, state=state)
    print(f"{stage.name}: {report.steps} steps in {report.seconds:.0f} s, loss {report.loss:.4f}", flush=True)
    part.replace(policy)
    state.unlink()
    return policy


def set_chunk(policy: Path, chunk: int) -> None:
    """Set the number of actions in a chunk of a policy; no weight depends on it."""
    path = policy / "config.json"
    config = json.loads(path.read_text())
    config["chunk_size"], config["n_action_steps"] = chunk, min(config["n_action_steps"], chunk)
    path.write_text(json.dumps(config, indent=4) + "\n")


def halve(weights: Path) -> None:
    """Round weights to bfloat16, which halves the file; evaluate the result."""
    rounded = {name: value.bfloat16() for name, value in load_file(weights).items()}
    save_file(rounded, weights, metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/bundled"), help="folder of data and policies")
    parser.add_argument("--from", type=Path, dest="start", help="a policy to start from (default: random weights)")
    parser.add_argument("--episodes", type=int, default=500, help="of a task and recording (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the steps of all stages (default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=CHUNK, help="actions in a chunk (default: %(default)s)")
    parser.add_argument(
        "--rtc-delay", type=int, default=MAX_DELAY, metavar="MAX",
        help="actions that are given at most, 0: none (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="where to train (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="frames a step (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of torch while it trains (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that record (default: %(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    previous: Path | None = args.start
    for stage in STAGES:
        if not (args.out / stage.name).exists():
            committed = min(COMMITTED, args.rtc_delay) if previous is not None else 0
            options = DemonstrationOptions(
                episodes=args.episodes,
                policy=previous,
                workers=args.workers,
                committed=committed,
                latencies_ms=LATENCIES_MS,
                jitter=JITTER,
            )
            record(args.out / "data", stage, options)
            frames = read(args.out / "data", stage, options)
            if previous is not None:
                stage = replace(
                    stage, steps=min(stage.steps, FINE_TUNING_STEPS), vision_share=0.0,
                    learning_rate=min(stage.learning_rate, FINE_TUNING_RATE),
                )  # fmt: skip
            steps = max(1, round(args.scale * stage.steps))
            run_stage(
                stage,
                previous,
                frames,
                args.out,
                steps,
                args.device,
                args.batch_size,
                args.chunk,
                args.rtc_delay,
                args.threads,
            )
            del frames  # frees the memory for the next ones
        previous = args.out / stage.name
    assert previous is not None  # noqa: S101 - narrows a type
    shutil.copytree(previous, args.out / "policy", dirs_exist_ok=True)
    halve(args.out / "policy" / "model.safetensors")
    print(f"The policy is in {args.out / 'policy'}")


if __name__ == "__main__":
    main()
