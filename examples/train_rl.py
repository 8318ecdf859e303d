"""Reinforcement learning from state: Stable-Baselines3's SAC learns `reach` from privileged observations.

    pip install 'stable-baselines3>=2.6'
    python examples/train_rl.py --steps 20000          # the same command goes on where an earlier one ended

The policy sees no images: `privileged=True` adds where the objects, the goal and the tool are, and `FlatObservation`
brings all of it into the one dictionary that `MultiInputPolicy` takes. An action says where the tool is to go, -1 to 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformAction, TransformReward
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import smolvla_gym  # noqa: F401  (registers the environments)
from smolvla_gym.envs import FlatObservation, ToolAction

EVALUATION_SEED = 0
TRAINING_SEED = 1_000_000


LOW, HIGH = np.array([0.10, -0.20, 0.015, 0.0]), np.array([0.34, 0.20, 0.20, 1.0])
"""Where the policy may send the tool, x, y, z in m, and the gripper's opening."""


def to_tool(action: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the action of `ToolAction` for one of the policy, x, y, z and opening from -1 to 1."""
    x, y, z, opening = LOW + (np.asarray(action, np.float64) + 1.0) / 2.0 * (HIGH - LOW)
    yaw = np.arctan2(y, x)  # the jaws travel across the line from the base: no turn of J6
    return np.array([x, y, z, yaw + np.pi / 2, opening], np.float32)


def make_env(task: str, seed: int) -> gym.Env[Any, Any]:
    """Return an env for an agent that learns from state."""
    # A slow control rate: what a single action changes has to show among random ones.
    env: gym.Env[Any, Any] = gym.make(
        "PAROL6Sim-v0", task=task, cameras=(), privileged=True, control_hz=10, max_episode_s=5.0
    )
    env = TransformAction(FlatObservation(ToolAction(env)), to_tool, spaces.Box(-1.0, 1.0, (4,), np.float32))
    # An episode ends with success: where each step until then were worth something, it would pay to put that off.
    env = TransformReward(env, lambda reward: float(reward) - 1.0)
    env.reset(seed=seed)
    watched: gym.Env[Any, Any] = Monitor(env, info_keywords=("is_success",))
    return watched


def maker(task: str, seed: int) -> Callable[[], gym.Env[Any, Any]]:
    """Return a function that makes an env."""
    return lambda: make_env(task, seed)


def evaluate(model: SAC, normalise: VecNormalize, task: str, episodes: int) -> int:
    """Return how many episodes on evaluation seeds the policy solves."""
    env, solved = make_env(task, EVALUATION_SEED), 0
    for episode in range(episodes):
        observation, info = env.reset(seed=EVALUATION_SEED + episode)
        done = False
        while not done:
            batch = normalise.normalize_obs({name: value[None] for name, value in observation.items()})
            action, _ = model.predict(batch, deterministic=True)
            observation, _, terminated, truncated, info = env.step(action[0])
            done = terminated or truncated
        solved += bool(info["is_success"])
    env.close()
    return solved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="reach", help="what is learned (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20_000, help="control steps in all (default: %(default)s)")
    parser.add_argument("--envs", type=int, default=4, help="environments side by side (default: %(default)s)")
    parser.add_argument("--save-every", type=int, default=2_500, help="steps between two checkpoints")
    parser.add_argument("--episodes", type=int, default=20, help="evaluation episodes (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("outputs/rl"), help="folder of it all (default: %(default)s)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    policy, statistics, buffer = args.out / "sac.zip", args.out / "normalise.pkl", args.out / "buffer.pkl"
    envs = DummyVecEnv([maker(args.task, TRAINING_SEED + i) for i in range(args.envs)])
    if policy.exists():
        normalise = VecNormalize.load(str(statistics), envs)
        model = SAC.load(policy, env=normalise, device="cpu")
        model.load_replay_buffer(buffer)
    else:
        normalise = VecNormalize(envs, norm_reward=False)
        model = SAC(
            "MultiInputPolicy", normalise, gamma=0.9, learning_rate=1e-3, batch_size=256, ent_coef="auto_0.05",
            gradient_steps=args.envs, learning_starts=500, buffer_size=200_000,
            policy_kwargs={"net_arch": [128, 128]}, seed=0, device="cpu",
        )  # fmt: skip
    while model.num_timesteps < args.steps:
        stretch = min(args.save_every, args.steps - model.num_timesteps)
        model.learn(stretch, reset_num_timesteps=False)
        model.save(policy)
        normalise.save(str(statistics))
        model.save_replay_buffer(buffer)
        solved = evaluate(model, normalise, args.task, args.episodes)
        print(f"{model.num_timesteps} steps: solves {solved} of {args.episodes} evaluation episodes", flush=True)
    envs.close()


if __name__ == "__main__":
    main()
