"""A task of your own: objects, instruction templates, success, and a scripted expert.

    uv run python examples/own_task.py --root outputs/between

In this task the gripper goes between two discs. The script records demonstrations. Every command takes the task as
"module:task", as ``gym.make`` takes environments. In this folder:

    smolvla-gym record --task own_task:between --num-objects 3 --episodes 50 --root between
    smolvla-gym train --dataset between --task own_task:between --out trained
    smolvla-gym eval --policy trained/policy --task own_task:between --num-objects 3

With `smolvla-gym record --source keyboard` you demonstrate the task by hand; the task then needs no good expert.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import override

import gymnasium as gym
import numpy as np

from smolvla_gym import (
    DISC,
    Array,
    Dataset,
    DatasetSpec,
    ExpertSource,
    Layout,
    Task,
    World,
    move,
    record,
    register_task,
    square_yaw,
)

HEIGHT = 0.05
"""Height of the fingertips above the table in m."""


class Between(Task):
    """Task: hold the tool centre point 5 cm above the middle between two discs."""

    name = "between"
    phrasings = ("go between the {color} and the {base} disc", "point between the {color} disc and the {base} one")
    unseen_phrasings = ("hover halfway from the {color} to the {base} disc",)
    kind = DISC

    def _error(self, world: World, layout: Layout) -> float:
        return float(np.linalg.norm(world.tool_position - self._goal(layout)))

    @staticmethod
    def _goal(layout: Layout) -> Array:
        x, y = layout.positions[[layout.target, layout.base], :2].mean(axis=0)
        return np.array([x, y, HEIGHT])

    @override
    def achieved(self, world: World, layout: Layout) -> bool:
        return self._error(world, layout) < 0.015

    @override
    def progress(self, world: World, layout: Layout) -> float:
        return float(1.0 - np.tanh(5.0 * self._error(world, layout)))

    @override
    def shortfall(self, world: World, layout: Layout) -> str:
        return f"ended {100 * self._error(world, layout):.0f} cm away"

    @override
    def expert(self, world: World, layout: Layout) -> Array:
        goal = self._goal(layout)
        return move(world, goal, square_yaw(goal), 1.0)


register_task(Between())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("outputs/between"), help="folder of the dataset")
    parser.add_argument("--episodes", type=int, default=3, help="episodes in the dataset (default: %(default)s)")
    args = parser.parse_args()

    env = gym.make("PAROL6Sim-v0", task="between", num_objects=3, cameras=("wrist", "scene"), image_size=(64, 64))
    dataset = Dataset(args.root, DatasetSpec.of(env))
    first = dataset.next_seed or 0
    record(
        env, ExpertSource(env), dataset, range(first, first + 10 * args.episodes), args.episodes,
        lambda attempt: print(f"{attempt.instruction!r}: {attempt.frames} frames"),
    )  # fmt: skip
    print(f"{args.root} has {len(dataset)} episodes")
    env.close()


if __name__ == "__main__":
    main()
