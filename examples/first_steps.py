"""First steps: an environment, an agent, an episode, and a rollout with a video.

uv run python examples/first_steps.py --out outputs/first_steps
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym

import smolvla_gym
from smolvla_gym import SmolVLAAgent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/first_steps"), help="folder of the video")
    parser.add_argument("--seed", type=int, default=2, help="seed of the scene (default: %(default)s)")
    args = parser.parse_args()

    agent = SmolVLAAgent.from_pretrained("bundled")
    env = gym.make("PAROL6Sim-v0", task="lift", render_mode="rgb_array", **agent.env_options)
    agent.attach(env)  # refuses an environment that does not fit the policy

    observation, info = env.reset(seed=args.seed)
    print(f"{info['instruction']!r}: joints {observation['agent_pos'][:6].round(2)} rad")
    for name, image in observation["pixels"].items():
        print(f"camera {name}: {image.shape} {image.dtype}")
    agent.reset(info["instruction"], seed=args.seed)
    steps, done = 0, False
    while not done:
        observation, reward, terminated, truncated, info = env.step(agent.act(observation))
        steps, done = steps + 1, terminated or truncated
    print(f"{'success' if info['is_success'] else 'no success'} after {steps / 30:.1f} s, last reward {reward:.2f}")

    # The same in one call, with a video and a summary.
    summary = smolvla_gym.rollout(env, agent, seed=args.seed, out=args.out)
    print(f"success rate {summary.success_rate:.0%}, video {args.out / 'rollout.mp4'}")
    env.close()


if __name__ == "__main__":
    main()
