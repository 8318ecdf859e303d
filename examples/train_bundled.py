"""Makes the bundled policy from nothing: demonstrations of the scripted expert, imitation, and once more with DAgger.

    OMP_WAIT_POLICY=ACTIVE uv run python examples/train_bundled.py --out outputs/bundled

(PASSIVE where other programs share the cores.) Every stage is skipped whose result is there already, so a run that was
cut short goes on. Evaluate the result with

    uv run smolvla-gym rollout --policy outputs/bundled/policy --episodes 100 --seed 0 --no-video
"""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from smolvla_gym.sim.scene import COLORS
from smolvla_gym.tasks import TASKS
from smolvla_gym.training.augment import Augmentation
from smolvla_gym.training.demonstrations import DemonstrationOptions, collect
from smolvla_gym.training.frames import Frames
from smolvla_gym.training.imitation import train
from smolvla_gym.training.options import TrainOptions
from smolvla_gym.training.stats import compute_stats
from smolvla_gym.training.tiny import build_tiny_checkpoint

CHUNK = 32
"""Length of the chunks of the finished policy."""

SHORT_CHUNK = 16
"""Length while most of the learning is done. SmolVLA's action expert is causal and its positions are rotary, so the
same weights make longer chunks; what lies far ahead only has to be learnt at the end."""


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        name: Name of its folder.
        data: Name of its demonstrations.
        minutes: Time of training, at scale 1.
        chunk_size: Actions a chunk.
        vision_share: Share of the time at its beginning in which only the vision tower learns.
        learning_rate: Peak of the schedule.
    """

    name: str
    data: str
    minutes: float
    chunk_size: int
    vision_share: float = 0.0
    learning_rate: float = 1e-3


STAGES = (
    Stage("1-imitation", "demonstrations", 25.0, SHORT_CHUNK, vision_share=0.2),
    Stage("2-dagger", "dagger", 33.0, SHORT_CHUNK),
    Stage("3-long-chunks", "dagger", 8.0, CHUNK, learning_rate=3e-4),
)


def sentences() -> list[str]:
    """Returns every instruction that a task can give, for the tokenizer."""
    return [
        phrase.format(color=color, base=base)
        for task in TASKS.values()
        for phrase in task.phrasings
        for color in COLORS
        for base in COLORS
        if color != base
    ]


def demonstrations(path: Path, options: DemonstrationOptions) -> Frames:
    """Returns recorded demonstrations, or records them."""
    if path.exists():
        frames: Frames = pickle.loads(path.read_bytes())
        return frames
    began = time.monotonic()
    frames = collect(options, lambda done: print(f"{done}/{options.episodes} episodes", flush=True))
    print(f"{options.episodes} episodes, {len(frames)} frames in {time.monotonic() - began:.0f} s", flush=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        pickle.dump(frames, file, protocol=5)
    part.replace(path)
    return frames


def set_chunk_size(policy: Path, chunk_size: int) -> None:
    """Changes how many actions a policy plans ahead."""
    path = policy / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "chunk_size": chunk_size}, indent=4))


def run_stage(stage: Stage, previous: Path | None, frames: Frames, folder: Path, minutes: float) -> Path:
    """Trains one stage and returns its policy."""
    part, policy = folder / f"{stage.name}.part", folder / stage.name
    shutil.rmtree(part, ignore_errors=True)
    if previous is None:
        stats = compute_stats(frames.states, frames.actions)
        build_tiny_checkpoint(
            part, cameras=("wrist", "scene"), stats=stats, chunk_size=stage.chunk_size, n_action_steps=12,
            num_steps=5, sentences=sentences(),
        )  # fmt: skip
    else:
        shutil.copytree(previous, part)
        set_chunk_size(part, stage.chunk_size)
    options = TrainOptions(
        minutes=minutes, vision_share=stage.vision_share, learning_rate=stage.learning_rate,
        augmentation=Augmentation(brightness=0.1, contrast=0.1, colour=0.05),
    )  # fmt: skip
    report = train(part, frames, part, options)
    print(f"{stage.name}: {report.steps} steps in {report.seconds:.0f} s, loss {report.loss:.4f}", flush=True)
    part.replace(policy)
    return policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/bundled"), help="folder of data and policies")
    parser.add_argument("--episodes", type=int, default=1500, help="of either recording (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="of all training times (default: %(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    previous: Path | None = None
    loaded, frames = "", None
    for number, stage in enumerate(STAGES):
        if (args.out / stage.name).exists():
            previous = args.out / stage.name
            continue
        if frames is None or loaded != stage.data:
            frames = None  # before the next ones take its place in memory
            options = DemonstrationOptions(
                task="lift", episodes=args.episodes, first_seed=1_000_000 * (number + 1), policy=previous
            )
            frames, loaded = demonstrations(args.out / f"{stage.data}.pickle", options), stage.data
        previous = run_stage(stage, previous, frames, args.out, args.scale * stage.minutes)
    assert previous is not None
    shutil.copytree(previous, args.out / "policy", dirs_exist_ok=True)
    print(f"The policy is in {args.out / 'policy'}")


if __name__ == "__main__":
    main()
