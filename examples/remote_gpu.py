"""The policy on another machine: how long its chunks take to come, and what the arm would do with them.

    uv run python examples/remote_gpu.py                                    # both ends on this machine, to try it
    uv run python examples/remote_gpu.py --connect 127.0.0.1:8765           # a server that runs, here through a tunnel

On the machine with the GPU: `smolvla-gym serve --policy you/smolvla_parol6 --device cuda`, and from here
`ssh -N -L 8765:127.0.0.1:8765 gpu-machine`. This end needs neither torch nor lerobot. A server that others can reach
wants a token, as the one that is started here does: both ends find it in SMOLVLA_GYM_TOKEN.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator

import gymnasium as gym
import numpy as np

import smolvla_gym
from smolvla_gym import SmolVLAAgent


@contextlib.contextmanager
def serve(policy: str) -> Iterator[str]:
    """Runs a server on this machine and gives its address."""
    os.environ["SMOLVLA_GYM_TOKEN"] = secrets.token_hex(16)  # the server inherits it
    command = [sys.executable, "-m", "smolvla_gym", "serve", "--policy", policy, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603 - this Python, no shell
        try:
            assert server.stdout is not None  # noqa: S101 - narrows a type
            line = server.stdout.readline()  # comes once the policy is loaded
            if not line:
                raise SystemExit("the server ended; it said why above")
            yield json.loads(line)["address"]
        finally:
            server.terminate()


def measure(address: str, seed: int, chunks: int) -> list[float]:
    """Returns how long the first chunks of an episode took to come, in ms, pictures sent and all."""
    took: list[float] = []
    with (
        # Every action is the first of a chunk of its own. Pictures of the policy's size travel fast.
        contextlib.closing(SmolVLAAgent.connect(address, mode="sync", n_action_steps=1)) as agent,
        gym.make("PAROL6Sim-v0", cameras=agent.cameras, image_size=agent.image_size) as env,
    ):
        print(f"{address} computes {agent.name} on its {agent.device}; pictures {agent.image_size}")
        agent.attach(env)
        observation, info = env.reset(seed=seed)
        agent.reset(info["instruction"], seed=seed)
        while len(took) < chunks:
            began = time.perf_counter()
            action = agent.act(observation)
            took.append(1e3 * (time.perf_counter() - began))
            observation, *_ = env.step(action)
    return took[1:]  # the first one warms everything up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connect", metavar="HOST:PORT", help="a server that runs (default: starts one here)")
    parser.add_argument("--policy", default="bundled", help="of the server that is started (default: %(default)s)")
    parser.add_argument("--chunks", type=int, default=31, help="how many are measured (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=2, help="how many are driven (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=2, help="of the first scene (default: %(default)s)")
    args = parser.parse_args()

    with serve(args.policy) if args.connect is None else contextlib.nullcontext(args.connect) as address:
        took = measure(address, args.seed, args.chunks)
        p50, p99 = np.percentile(took, (50, 99))
        print(f"a chunk takes {p50:.0f} ms (median), {p99:.0f} ms (99th percentile), {max(took):.0f} ms at most")

        # The simulation plays these latencies back in its own time, so that what it shows is repeatable. On the arm
        # (PAROL6Real-v0) the same agent needs no latency_ms: there a chunk takes as long as it takes.
        with (
            contextlib.closing(SmolVLAAgent.connect(address, mode="rtc", latency_ms=took)) as agent,
            gym.make("PAROL6Sim-v0", cameras=agent.cameras, image_size=agent.image_size) as env,
        ):
            summary = smolvla_gym.rollout(env, agent, episodes=args.episodes, seed=args.seed)
        for episode in summary.episodes:
            chunks = episode.agent or {}
            print(
                f"seed {episode.seed}: {'solved' if episode.success else 'not solved'} in {episode.steps} steps; "
                f"{chunks['chunks']} chunks, at most {chunks['max_delay']} steps late, "
                f"the arm waited {chunks['waited_steps']} steps at the beginning and {chunks['stalled_steps']} later"
            )


if __name__ == "__main__":
    main()
