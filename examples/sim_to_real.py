"""From the simulation to the arm: run one agent and one loop on three backends, and compare the joint angles.

    uv run python examples/sim_to_real.py                        # the simulation, then the virtual twin of the arm
    uv run python examples/sim_to_real.py --port /dev/ttyACM0 --camera wrist=SERIAL scene=SERIAL --home

The twin differs from the simulation by the drivers, the serial line, the firmware and the cameras. Expect at least that
difference of the real arm. Before you run this on the real arm: `smolvla-gym doctor` reports no defect; the arm was
homed, and its pose agrees with the 3D view (`smolvla-gym view --env real --camera wrist=SERIAL --camera scene=SERIAL`);
you have tried the emergency stop; the space that the arm can reach is empty.
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

from smolvla_gym import JOINT_NAMES, Agent, SmolVLAAgent


@dataclass
class Run:
    """Result of an episode.

    Attributes:
        joints: Joint angles before each step in rad, shape (steps, 6).
        actions: Actions of the agent, shape (steps, 7).
        interventions: Number of steps with an intervention of the safety functions, by rule.
        success: Whether the task succeeded.
        fault: The fault that stopped the arm, or None.
    """

    joints: NDArray[np.float32]
    actions: NDArray[np.float32]
    interventions: Counter[str]
    success: bool
    fault: str | None


class Replay:
    """Agent that replays recorded actions, and holds the arm after the last one."""

    def __init__(self, actions: NDArray[np.float32]) -> None:
        self._actions, self._next = actions, 0

    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Start again at the first action."""
        self._next = 0

    def act(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """Return the next action; the observation is ignored."""
        self._next += 1
        return np.asarray(self._actions[min(self._next, len(self._actions)) - 1])


def run(env: gym.Env[Any, Any], agent: Agent, seed: int, **options: Any) -> Run:
    """Run an episode; this code is the same for every backend."""
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
    outcome = f"fault {result.fault}" if result.fault else "success" if result.success else "no success"
    print(f"  {outcome} after {len(joints)} steps; interventions: {dict(interventions) or 'none'}", flush=True)
    return result


def compare(one: Run, other: Run) -> None:
    """Print the largest difference of each joint at the same step."""
    steps = min(len(one.joints), len(other.joints))
    apart = np.rad2deg(np.abs(one.joints[:steps] - other.joints[:steps]))
    each = ", ".join(f"{joint} {degrees:.2f}" for joint, degrees in zip(JOINT_NAMES, apart.max(axis=0), strict=True))
    print(f"  largest difference in deg: {each}; in the first second {apart[:30].max():.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="bundled", help="a folder or a repository (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=2, help="seed of the scene (default: %(default)s)")
    parser.add_argument("--latency-ms", type=float, default=100.0, help="inference latency in simulated time")
    parser.add_argument("--port", help="serial port of the real arm, which is driven last, after a question")
    parser.add_argument("--camera", nargs="*", default=[], metavar="NAME=SERIAL", help="serial numbers of its cameras")
    parser.add_argument(
        "--speed-scale", type=float, default=0.3, help="share of the speed limits (default: %(default)s)"
    )
    parser.add_argument("--instruction", help="instruction for the real arm (default: lift the red cube)")
    parser.add_argument("--home", action="store_true", help="home the arm first: it moves by itself for half a minute")
    args = parser.parse_args()

    # Real-time chunking: the arm moves on while the next chunk is computed, and that chunk continues the present one.
    agent = SmolVLAAgent.from_pretrained(args.policy, mode="rtc", latency_ms=args.latency_ms)
    common: dict[str, Any] = {"task": "lift", **agent.env_options}

    env = gym.make("PAROL6Sim-v0", **common)
    agent.attach(env)
    simulated = run(env, agent, args.seed)
    env.close()

    # realtime=False runs the twin in simulated time, which is repeatable. Without it the twin runs in real time, and
    # info["timing"] shows whether this computer keeps the control rate.
    env = gym.make("PAROL6Real-v0", port="twin", camera="twin", realtime=False, twin_options={"homed": True}, **common)
    agent.attach(env)
    print("The virtual twin, driven by the policy:")
    compare(simulated, run(env, agent, args.seed))
    # The policy reacts to small differences and enlarges them. With the same actions only the backends differ.
    print("The virtual twin, driven by the actions of the simulation:")
    compare(simulated, run(env, Replay(simulated.actions), args.seed))
    env.close()
    agent.close()

    if args.port is not None:
        drive_the_real_arm(args, common)


def drive_the_real_arm(args: argparse.Namespace, common: dict[str, Any]) -> None:
    """Open the real arm, ask for permission, and run an episode."""
    serials = dict(text.split("=", 1) for text in args.camera)
    # A process of its own computes the chunks, so that inference does not delay the control loop. Opening the arm moves
    # nothing: its motors stay disabled until reset. Closing brakes the arm and disables its motors.
    with (
        contextlib.closing(SmolVLAAgent.from_pretrained(args.policy, mode="rtc", process=True)) as agent,
        gym.make(
            "PAROL6Real-v0", port=args.port, camera=serials or None, speed_scale=args.speed_scale,
            instruction=args.instruction, **common,
        ) as env,
    ):  # fmt: skip
        agent.attach(env)
        moves = "homes for half a minute, then drives" if args.home else "drives"
        print(f"\nThe arm {moves} to its start pose and follows the policy, at {args.speed_scale:.0%} of its speed.")
        print("Put the cubes into the view of the cameras, keep the emergency stop at hand and clear the surroundings.")
        if input("Type yes to let it move: ").strip().lower() != "yes":
            print("The arm has not moved.")
            return
        run(env, agent, args.seed, **({"home": True} if args.home else {}))


if __name__ == "__main__":
    main()
