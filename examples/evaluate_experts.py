"""How often the scripted experts succeed: a Markdown table, one row a task.

python examples/evaluate_experts.py [--episodes 100] [--gripper ssg48] [--randomization 1] [--task lift ...]
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np

import smolvla_gym
from smolvla_gym.parol6 import GRIPPERS
from smolvla_gym.tasks import TASKS


def run(env: gym.Env, seed: int) -> int | None:
    """Returns the control steps that the expert needs for an episode, or None where it does not succeed."""
    env.reset(seed=seed)
    steps = 0
    while True:
        _, _, terminated, truncated, info = env.step(env.unwrapped.expert_action())  # type: ignore[attr-defined]
        steps += 1
        if terminated or truncated:
            return steps if info["is_success"] else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Success of the scripted experts.")
    parser.add_argument("--episodes", type=int, default=100, help="seeds 0 .. N-1 of each task")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--gripper", choices=GRIPPERS, default="ssg48")
    parser.add_argument("--randomization", type=int, choices=(0, 1, 2), default=1)
    parser.add_argument("--num-objects", type=int, choices=(2, 3), default=2)
    options = parser.parse_args()

    print("| task | success | steps, mean | steps, max | failed seeds |")
    print("|---|---|---|---|---|")
    for task in options.task:
        env = gym.make(
            smolvla_gym.SIM_ID,
            task=task,
            cameras=(),
            gripper=options.gripper,
            randomization=options.randomization,
            num_objects=options.num_objects,
        )
        steps = {seed: run(env, seed) for seed in range(options.episodes)}
        env.close()
        won = [count for count in steps.values() if count is not None]
        lost = [str(seed) for seed, count in steps.items() if count is None]
        figures = f"{np.mean(won):.0f} | {max(won)}" if won else "- | -"
        print(f"| {task} | {len(won)}/{options.episodes} | {figures} | {', '.join(lost) or '-'} |", flush=True)


if __name__ == "__main__":
    main()
