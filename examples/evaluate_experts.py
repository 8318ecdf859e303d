"""Print the success rates of the scripted experts: a Markdown table with one row per task.

python examples/evaluate_experts.py [--episodes 100] [--gripper ssg48] [--randomization 1] [--task lift ...]
    [--belt-speed 0.02]
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np

import smolvla_gym
from smolvla_gym import GRIPPERS, TASKS


def run(env: gym.Env, seed: int) -> int | None:
    """Return the control steps of an episode of the expert, or None if it failed."""
    env.reset(seed=seed)
    steps = 0
    while True:
        _, _, terminated, truncated, info = env.step(env.unwrapped.expert_action())  # type: ignore[attr-defined]
        steps += 1
        if terminated or truncated:
            return steps if info["is_success"] else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Success rates of the scripted experts.")
    parser.add_argument("--episodes", type=int, default=100, help="seeds 0 .. N-1 of each task")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--gripper", choices=GRIPPERS, default="ssg48")
    parser.add_argument("--randomization", type=int, choices=(0, 1, 2), default=1)
    parser.add_argument("--belt-speed", type=float, default=0.02, help="of the task belt, in m/s")
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
            belt_speed=options.belt_speed,
        )
        steps = {seed: run(env, seed) for seed in range(options.episodes)}
        env.close()
        succeeded = [count for count in steps.values() if count is not None]
        failed = [str(seed) for seed, count in steps.items() if count is None]
        figures = f"{np.mean(succeeded):.0f} | {max(succeeded)}" if succeeded else "- | -"
        print(f"| {task} | {len(succeeded)}/{options.episodes} | {figures} | {', '.join(failed) or '-'} |", flush=True)


if __name__ == "__main__":
    main()
