"""Run the policy on another machine: measure the latency of its chunks, and replay it in the simulation.

    uv run python examples/remote_gpu.py                                    # server and client on this machine
    uv run python examples/remote_gpu.py --connect 127.0.0.1:8765           # a running server, through a tunnel

Start the server on the machine with the GPU: `smolvla-gym serve --policy you/smolvla_parol6 --device cuda`. Open the
tunnel on this machine: `ssh -N -L 8765:127.0.0.1:8765 gpu-machine`. The client needs neither torch nor lerobot. A
server that listens to other machines requires a token; server and client read it from SMOLVLA_GYM_TOKEN.
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
from smolvla_gym import connect


@contextlib.contextmanager
def serve(policy: str) -> Iterator[str]:
    """Run a server on this machine and yield its address."""
    os.environ["SMOLVLA_GYM_TOKEN"] = secrets.token_hex(16)  # the server inherits it
    command = [sys.executable, "-m", "smolvla_gym", "serve", "--policy", policy, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603 - this Python, no shell
        try:
            assert server.stdout is not None  # noqa: S101 - narrows a type
            line = server.stdout.readline()  # printed once the policy is loaded
            if not line:
                raise SystemExit("the server ended; its error is above")
            yield json.loads(line)["address"]
        finally:
            server.terminate()


def measure(address: str, seed: int, chunks: int) -> list[float]:
    """Return the latencies of the first chunks of an episode in ms, the transfer of images included."""
    latencies: list[float] = []
    with (
        # Each action comes from a chunk of its own. Images of the policy's size take the least time to send.
        contextlib.closing(connect(address, mode="sync", n_action_steps=1)) as agent,
        gym.make("PAROL6Sim-v0", cameras=agent.cameras, image_size=agent.image_size) as env,
    ):
        print(f"{address} computes {agent.name} on its {agent.device}; images {agent.image_size}")
        agent.attach(env)
        observation, info = env.reset(seed=seed)
        agent.reset(info["instruction"], seed=seed)
        while len(latencies) < chunks:
            began = time.perf_counter()
            action = agent.act(observation)
            latencies.append(1e3 * (time.perf_counter() - began))
            observation, *_ = env.step(action)
    return latencies[1:]  # the first chunk loads kernels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connect", metavar="HOST:PORT", help="a running server (default: start one here)")
    parser.add_argument("--policy", default="bundled", help="policy of the started server (default: %(default)s)")
    parser.add_argument("--chunks", type=int, default=31, help="chunks to measure (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=2, help="episodes to run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=2, help="seed of the first scene (default: %(default)s)")
    args = parser.parse_args()

    with serve(args.policy) if args.connect is None else contextlib.nullcontext(args.connect) as address:
        latencies = measure(address, args.seed, args.chunks)
        p50, p99 = np.percentile(latencies, (50, 99))
        print(f"a chunk takes {p50:.0f} ms (median), {p99:.0f} ms (99th percentile), {max(latencies):.0f} ms at most")

        # The simulation replays these latencies in simulated time, so that the result is repeatable. The real arm
        # (PAROL6Real-v0) needs no latency_ms: the latency of a chunk there is the measured one.
        with (
            contextlib.closing(connect(address, mode="rtc", latency_ms=latencies)) as agent,
            gym.make("PAROL6Sim-v0", cameras=agent.cameras, image_size=agent.image_size) as env,
        ):
            summary = smolvla_gym.rollout(env, agent, episodes=args.episodes, seed=args.seed)
        for episode in summary.episodes:
            chunks = episode.agent or {}
            print(
                f"seed {episode.seed}: {'success' if episode.success else 'no success'} in {episode.steps} steps; "
                f"{chunks['chunks']} chunks, at most {chunks['max_delay']} steps late, "
                f"the arm waited {chunks['waited_steps']} steps at the beginning and {chunks['stalled_steps']} later"
            )


if __name__ == "__main__":
    main()
