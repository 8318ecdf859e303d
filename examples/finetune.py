"""Fine-tunes SmolVLA on demonstrations of your own, and shows what it has learnt on scenes that it has not seen.

    uv run python examples/finetune.py --episodes 50 --steps 20000                              # on a GPU, hours
    uv run python examples/finetune.py --from bundled --episodes 10 --steps 100 --batch-size 8 # on a CPU, to see it run

Here the scripted expert demonstrates; a person does with `smolvla-gym record --source gamepad`, in the simulation or on
the arm, into the same kind of dataset. `examples/own_task.py` has a task of one's own. Whatever was recorded or trained
already is kept: the same command goes on where it ended. `smolvla-gym record`, `train` and `eval` do the same with more
options (several GPUs, trials while it trains, intervals).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym

import smolvla_gym
from smolvla_gym import SmolVLAAgent
from smolvla_gym.agent.checkpoint.load import fetch_checkpoint, resolve_device
from smolvla_gym.agent.scripted import ExpertAgent
from smolvla_gym.data.dataset import Dataset
from smolvla_gym.data.reader import open_recording
from smolvla_gym.data.record import record
from smolvla_gym.data.spec import DatasetSpec
from smolvla_gym.training.lerobot.finetune import RUN, START, FinetuneOptions, finetune, prepare

CAMERAS = ("wrist", "scene")


def demonstrate(root: Path, task: str, episodes: int, size: int) -> int:
    """Records until the dataset has so many episodes; returns the first seed that it does not know."""
    with gym.make("PAROL6Sim-v0", task=task, cameras=CAMERAS, image_size=(size, size)) as env:
        dataset = Dataset(root, DatasetSpec.of(env))
        first = dataset.next_seed or 0
        record(
            env, ExpertAgent(), dataset, range(first, first + 10 * episodes), episodes,
            lambda attempt: print(f"{attempt.instruction!r}: {attempt.frames} frames", flush=True),
        )  # fmt: skip
    return dataset.next_seed or 0


def train(root: Path, start: Path, out: Path, options: FinetuneOptions) -> Path:
    """Fine-tunes through lerobot-train; returns the policy."""
    recording = open_recording(root)  # refuses joint angles in degrees, NaN, another arm, ...
    resume = (out / RUN).exists()
    if not resume:
        # lerobot/smolvla_base is for another arm: the copy has this one's seven dimensions, cameras and statistics.
        prepare(start, recording, CAMERAS, out / START)

    def report(step: int, loss: float, seconds: float) -> None:
        print(f"step {step} of {options.steps}: loss {loss:.3f}, {seconds:.2f} s a step", flush=True)

    return finetune(out, recording, options, report=report, resume=resume)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="start", default="lerobot/smolvla_base", metavar="P",
                        help="a repository on the hub, a folder, or bundled (default: %(default)s)")  # fmt: skip
    parser.add_argument("--task", default="lift", help="what is demonstrated (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("outputs/finetune"), help="folder of it all")
    parser.add_argument("--episodes", type=int, default=50, help="demonstrations (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=256, help="of the pictures in px (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20_000, help="optimiser steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="frames a step (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="processes that decode videos (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=10, help="episodes it is tried in (default: %(default)s)")
    parser.add_argument("--max-steps", type=int, help="control steps of a trial (default: those of 15 s)")
    args = parser.parse_args()

    start = fetch_checkpoint(args.start)  # before anything that takes long
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
        trials = smolvla_gym.rollout(env, agent, episodes=args.trials, seed=unseen)
        print(f"{policy} solves {sum(trial.success for trial in trials.episodes)} of {args.trials} new scenes")
        smolvla_gym.rollout(env, agent, seed=unseen, out=args.out / "film")
    print(f"the first of them: {args.out / 'film' / 'rollout.mp4'}")


if __name__ == "__main__":
    main()
