"""From the simulation to the arm: the same agent and the same loop in three bodies, and how far they are apart.

    uv run python examples/sim_to_real.py                        # the simulation, then the virtual twin of the arm
    uv run python examples/sim_to_real.py --port /dev/ttyACM0 --camera wrist=SERIAL scene=SERIAL --home

What differs between the simulation and the twin is what the drivers, the wire, the firmware and the cameras add: expect
that of the real arm, and more. Before the real one: `smolvla-gym doctor` is content; the arm was homed and its pose
agrees with the drawing (`smolvla-gym view --env real`); the emergency stop was tried; nobody is within reach.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import smolvla_gym  # noqa: F401 - registers the envs
from smolvla_gym import SmolVLAAgent
from smolvla_gym.agent.scripted import Agent
from smolvla_gym.parol6 import JOINT_NAMES


@dataclass
class Run:
    """An episode.

    Attributes:
        joints: In rad before each step, shape (steps, 6).
        actions: What the agent wanted, shape (steps, 7).
        interventions: Number of steps with an intervention of the safety functions, by rule.
        success: Whether the task was solved.
        fault: What stopped the arm.
    """

    joints: NDArray[np.float32]
    actions: NDArray[np.float32]
    interventions: Counter[str]
    success: bool
    fault: str | None


class Replay:
    """An agent that does what another did, and holds the arm at the end."""

    def __init__(self, actions: NDArray[np.float32]) -> None:
        self._actions, self._next = actions, 0

    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Begins anew."""
        self._next = 0

    def act(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """Returns the next action, whatever there is to see."""
        self._next += 1
        return np.asarray(self._actions[min(self._next, len(self._actions)) - 1])


def run(env: gym.Env[Any, Any], agent: Agent, seed: int, **options: Any) -> Run:
    """Runs an episode; nothing in here knows which body it is."""
    observation, info = env.reset(seed=seed, options=options)
    print(f"{env.spec.id if env.spec else env}: {info['instruction']!r}", flush=True)
    agent.reset(info["instruction"], seed=seed)
    joints, actions, interventions, done = [], [], Counter[str](), False
    while not done:
        joints.append(observation["agent_pos"][:6])
        actions.append(agent.act(observation))
        observation, _, terminated, truncated, info = env.step(actions[-1])
        interventions.update({str(intervention["rule"]) for intervention in info["safety"]})
        done = terminated or truncated
    result = Run(np.array(joints), np.array(actions), interventions, bool(info["is_success"]), info["fault"])
    outcome = f"fault {result.fault}" if result.fault else "solved" if result.success else "not solved"
    print(f"  {outcome} after {len(joints)} steps; interventions: {dict(interventions) or 'none'}", flush=True)
    return result


def compare(one: Run, other: Run) -> None:
    """Prints the largest difference of each joint at the same moment."""
    steps = min(len(one.joints), len(other.joints))
    apart = np.rad2deg(np.abs(one.joints[:steps] - other.joints[:steps]))
    each = ", ".join(f"{joint} {degrees:.2f}" for joint, degrees in zip(JOINT_NAMES, apart.max(axis=0), strict=True))
    print(f"  apart by up to, in deg: {each}; in the first second {apart[:30].max():.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="bundled", help="a folder or a repository (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=2, help="of the scene (default: %(default)s)")
    parser.add_argument(
        "--latency-ms", type=float, default=100.0, help="how long a chunk takes where time is simulated"
    )
    parser.add_argument("--port", help="serial port of the real arm: it is driven at last, after a question")
    parser.add_argument("--camera", nargs="*", default=[], metavar="NAME=SERIAL", help="serial numbers of its cameras")
    parser.add_argument(
        "--speed-scale", type=float, default=0.3, help="share of its speed limits (default: %(default)s)"
    )
    parser.add_argument("--instruction", help="what the real arm is to do, in words (default: lift the red cube)")
    parser.add_argument("--home", action="store_true", help="home it first: it moves by itself for half a minute")
    args = parser.parse_args()

    # Real-time chunking, as the arm needs it: it moves on while the next chunk is computed, which continues this one.
    agent = SmolVLAAgent.from_pretrained(args.policy, mode="rtc", latency_ms=args.latency_ms)
    common: dict[str, Any] = {"task": "lift", **agent.env_options}

    env = gym.make("PAROL6Sim-v0", **common)
    agent.attach(env)
    simulated = run(env, agent, args.seed)
    env.close()

    # realtime=False runs the twin on simulated time, so that twice is twice the same. Leave it out to see it in real
    # time: info["timing"] then tells whether this computer keeps the pace.
    env = gym.make("PAROL6Real-v0", port="twin", camera="twin", realtime=False, twin_options={"homed": True}, **common)
    agent.attach(env)
    print("The virtual twin, which the policy drives by what it sees:")
    compare(simulated, run(env, agent, args.seed))
    # Small differences grow, as the policy answers what it sees. With the simulation's actions only the bodies differ.
    print("The same with the simulation's actions:")
    compare(simulated, run(env, Replay(simulated.actions), args.seed))
    env.close()
    agent.close()

    if args.port is not None:
        drive_the_real_arm(args, common)


def drive_the_real_arm(args: argparse.Namespace, common: dict[str, Any]) -> None:
    """Opens the real arm, asks, and runs an episode on it."""
    serials = dict(text.split("=", 1) for text in args.camera)
    # In real time a chunk takes as long as it takes; computed in a process of its own it does not hold up the loop.
    # Opening the arm moves nothing: its motors stay disabled until reset. Closing it brakes and disables them.
    with (
        contextlib.closing(SmolVLAAgent.from_pretrained(args.policy, mode="rtc", process=True)) as agent,
        gym.make(
            "PAROL6Real-v0", port=args.port, camera=serials or None, speed_scale=args.speed_scale,
            instruction=args.instruction, **common,
        ) as env,
    ):  # fmt: skip
        agent.attach(env)
        moves = "homes for half a minute, then drives" if args.home else "drives"
        print(f"\nThe arm {moves} to its start pose and obeys the policy, at {args.speed_scale:.0%} of its speed.")
        print("Lay the cubes where the camera sees them, keep the emergency stop at hand and clear the surroundings.")
        if input("Type yes to let it move: ").strip().lower() != "yes":
            print("nothing has moved")
            return
        run(env, agent, args.seed, **({"home": True} if args.home else {}))


if __name__ == "__main__":
    main()
