"""Makes the bundled policy from nothing: demonstrations of the scripted expert, then imitation.

    uv run python examples/train_bundled.py --out outputs/bundled

Start it with OMP_WAIT_POLICY=PASSIVE where other programs share the cores. Evaluate the result with

    uv run smolvla-gym rollout --policy outputs/bundled/policy --episodes 100 --seed 0 --no-video
"""

from __future__ import annotations

import argparse
import pickle
import time
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


def demonstrations(cache: Path, options: DemonstrationOptions) -> Frames:
    """Returns recorded demonstrations, or records them."""
    if cache.exists():
        frames: Frames = pickle.loads(cache.read_bytes())
        return frames
    began = time.monotonic()
    frames = collect(options, lambda done: print(f"{done}/{options.episodes} episodes", flush=True))
    print(f"{options.episodes} episodes, {len(frames)} frames in {time.monotonic() - began:.0f} s", flush=True)
    with cache.open("wb") as file:
        pickle.dump(frames, file, protocol=5)
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/bundled"), help="folder of data and policy")
    parser.add_argument("--episodes", type=int, default=1500, help="demonstrations (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=40.0, help="of training (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=1_000_000, help="of the demonstrations")
    parser.add_argument("--dagger", type=Path, help="a policy that interrupts the expert and strays")
    parser.add_argument("--data", default="demonstrations", help="name of the recording (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the policy that is there")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    options = DemonstrationOptions(task="lift", episodes=args.episodes, first_seed=args.first_seed, policy=args.dagger)
    frames = demonstrations(args.out / f"{args.data}.pickle", options)
    policy = args.out / "policy"
    if not args.resume:
        build_tiny_checkpoint(
            policy, cameras=options.cameras, stats=compute_stats(frames.states, frames.actions),
            chunk_size=32, n_action_steps=12, num_steps=5, sentences=sentences(),
        )  # fmt: skip
    report = train(
        policy, frames, policy,
        TrainOptions(
            minutes=args.minutes, vision_share=0.0 if args.resume else 0.12, learning_rate=args.learning_rate,
            augmentation=Augmentation(brightness=0.1, contrast=0.1, colour=0.05, shift=1),
        ),
    )  # fmt: skip
    print(f"{report.steps} steps in {report.seconds:.0f} s, loss {report.loss:.4f}: {report.directory}")


if __name__ == "__main__":
    main()
