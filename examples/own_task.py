"""A task of your own: what lies there, what is said, when it is done, and an expert that shows how.

    uv run python examples/own_task.py --root outputs/between

Here the gripper has to go between two discs. The script records demonstrations; every command does the same with
"module:task", as Gymnasium does with envs. In this folder:

    smolvla-gym record --task own_task:between --num-objects 3 --episodes 50 --root between
    smolvla-gym train --dataset between --task own_task:between --out trained
    smolvla-gym eval --policy trained/policy --task own_task:between --num-objects 3

A person can demonstrate in place of the expert (`smolvla-gym record --source keyboard`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import override

import gymnasium as gym
import numpy as np

import smolvla_gym  # noqa: F401 - registers the env
from smolvla_gym.data.dataset import Dataset
from smolvla_gym.data.record import record
from smolvla_gym.data.sources import ExpertSource
from smolvla_gym.data.spec import DatasetSpec
from smolvla_gym.parol6 import Array
from smolvla_gym.sim.scene import DISC
from smolvla_gym.sim.world import World
from smolvla_gym.tasks import Layout, Task, register_task
from smolvla_gym.tasks.expert import move, square_yaw

HEIGHT = 0.05
"""How high in m the fingertips have to be."""


class Between(Task):
    """The tool centre point has to stay 5 cm above the middle between two discs."""

    name = "between"
    instruction_templates = (
        "go between the {color} and the {base} disc",
        "point between the {color} disc and the {base} one",
    )
    unseen_instruction_templates = ("hover halfway from the {color} to the {base} disc",)
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
    parser.add_argument("--episodes", type=int, default=3, help="how many it is to have (default: %(default)s)")
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
