"""Fine-tune SmolVLA on demonstrations of your own, and evaluate the result on held-out scenes.

    uv run python examples/finetune.py --episodes 50 --steps 20000                              # on a GPU, hours
    uv run python examples/finetune.py --from bundled --episodes 10 --steps 100 --batch-size 8 # on a CPU, to see it run

The scripted expert demonstrates here. `smolvla-gym record --source gamepad` records demonstrations by hand, in the
simulation or on the arm, into the same kind of dataset. `examples/own_task.py` shows a task of your own. The script
keeps recorded episodes and saved checkpoints: the same command continues an interrupted run. `smolvla-gym record`,
`train` and `eval` do the same with more options (several GPUs, trials during training, Wilson intervals).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym

from smolvla_gym import (
    Dataset,
    DatasetSpec,
    ExpertSource,
    FinetuneOptions,
    SmolVLAAgent,
    finetune,
    open_recording,
    record,
    rollout,
)
from smolvla_gym.agent.checkpoint.load import fetch_checkpoint, resolve_device
from smolvla_gym.training.lerobot.finetune import RUN, START, prepare

CAMERAS = ("wrist", "scene")


def demonstrate(root: Path, task: str, episodes: int, size: int) -> int:
    """Record until the dataset has this many episodes; return the first seed that is not in it."""
    with gym.make("PAROL6Sim-v0", task=task, cameras=CAMERAS, image_size=(size, size)) as env:
        dataset = Dataset(root, DatasetSpec.of(env))
        first = dataset.next_seed or 0
        record(
            env, ExpertSource(env), dataset, range(first, first + 10 * episodes), episodes,
            lambda attempt: print(f"{attempt.instruction!r}: {attempt.frames} frames", flush=True),
        )  # fmt: skip
    return dataset.next_seed or 0


def train(root: Path, start: Path, out: Path, options: FinetuneOptions) -> Path:
    """Fine-tune with lerobot-train; return the folder of the policy."""
    recording = open_recording(root)  # refuses joint angles in degrees, NaN, another arm, ...
    resume = (out / RUN).exists()
    if not resume:
        # lerobot/smolvla_base is for another arm: the copy gets the dimensions, cameras and statistics of this one.
        prepare(start, recording, CAMERAS, out / START)

    def report(step: int, loss: float, seconds: float) -> None:
        print(f"step {step} of {options.steps}: loss {loss:.3f}, {seconds:.2f} s a step", flush=True)

    return finetune(out, recording, options, report=report, resume=resume)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="start", default="lerobot/smolvla_base", metavar="P",
                        help="a repository on the hub, a folder, or bundled (default: %(default)s)")  # fmt: skip
    parser.add_argument("--task", default="lift", help="task to demonstrate (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("outputs/finetune"), help="folder of all results")
    parser.add_argument("--episodes", type=int, default=50, help="demonstrations (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=256, help="edge of the images in px (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20_000, help="optimiser steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="frames per step (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="processes that decode videos (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=10, help="evaluation episodes (default: %(default)s)")
    parser.add_argument("--max-steps", type=int, help="control steps of an evaluation episode (default: those of 15 s)")
    args = parser.parse_args()

    start = fetch_checkpoint(args.start)  # a download that fails should fail before the recording
    unseen = demonstrate(args.out / "dataset", args.task, args.episodes, args.image_size)
    options = FinetuneOptions(
        steps=args.steps, batch_size=args.batch_size, save_steps=max(1, args.steps // 10),
        log_steps=max(1, args.steps // 100), device=resolve_device("auto"), workers=args.workers,
    )  # fmt: skip
    policy = train(args.out / "dataset", start, args.out, options)

    agent = SmolVLAAgent.from_pretrained(policy)
    size = (args.image_size, args.image_size)
    with gym.make(
        "PAROL6Sim-v0", task=args.task, cameras=agent.cameras, image_size=size, max_episode_steps=args.max_steps,
        render_mode="rgb_array",
    ) as env:  # fmt: skip
        trials = rollout(env, agent, episodes=args.trials, seed=unseen)
        print(
            f"{policy} succeeds in {sum(trial.success for trial in trials.episodes)} of {args.trials} held-out scenes"
        )
        rollout(env, agent, seed=unseen, out=args.out / "video")
    print(f"video of the first one: {args.out / 'video' / 'rollout.mp4'}")


if __name__ == "__main__":
    main()
