"""Measure whether the control loop of the real arm keeps its rate for long, on the virtual twin in real time.

    python examples/soak_twin.py --minutes 10
    python examples/soak_twin.py --minutes 10 --policy bundled --mode async --latency-ms 466 --out soak.json

Driver, policy, control loop, and the virtual board with its rendered cameras run on one machine, each in a process of
its own. A real arm and real cameras need less of the processor. The script needs psutil, which the development
environment (`uv sync`) contains.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import psutil

import smolvla_gym
from smolvla_gym import Agent, ExpertAgent, RandomAgent
from smolvla_gym.agent.protocol import attach
from smolvla_gym.episodes.cadence import Cadence, describe, watch_link

PROGRESS = 30.0
"""Time between two lines of progress in s."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--control-hz", type=float, default=30.0)
    parser.add_argument("--policy", choices=("expert", "random", "bundled"), default="expert")
    parser.add_argument("--mode", choices=("sync", "async", "rtc"), default="async", help="mode of the bundled policy")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="least inference latency")
    parser.add_argument("--task", default="lift")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--homed", action="store_true", help="skip the half minute of homing")
    parser.add_argument("--out", type=Path, help="JSON file of the result")
    arguments = parser.parse_args()

    smolvla = None
    options: dict[str, Any] = {"cameras": ("wrist", "scene")}
    if arguments.policy == "bundled":
        smolvla = smolvla_gym.SmolVLAAgent.from_pretrained(
            "bundled", process=True, mode=arguments.mode, latency_ms=arguments.latency_ms
        )
        options = {name: smolvla.env_options[name] for name in ("cameras", "image_size")}
    env = gym.make(
        smolvla_gym.REAL_ID,
        port="twin",
        camera="twin",
        task=arguments.task,
        control_hz=arguments.control_hz,
        log=None,
        twin_options={"homed": arguments.homed},
        **options,
    )
    agent: Agent
    if smolvla is not None:
        smolvla.attach(env)
        agent = smolvla
    else:
        agent = ExpertAgent() if arguments.policy == "expert" else RandomAgent()
        attach(agent, env)
    try:
        result = soak(env, agent, arguments.minutes * 60.0, arguments.control_hz, arguments.seed)
    finally:
        env.close()
    print(describe(result["cadence"], result["link"], arguments.control_hz))
    begin, end = result["begin"], result["end"]
    print(f"Memory:  {begin['memory_mb']:.0f} MB at the beginning, {end['memory_mb']:.0f} MB at the end")
    print(f"Threads: {begin['threads']} at the beginning, {end['threads']} at the end")
    print(f"Episodes: {result['episodes']}, succeeded {result['succeeded']}, faults {result['faults'] or 'none'}")
    if result["chunks"]:
        print("Chunks:   " + ", ".join(f"{name} {count}" for name, count in result["chunks"].items()))
    if arguments.out is not None:
        settings = {name: value for name, value in vars(arguments).items() if name != "out"}
        arguments.out.write_text(json.dumps({**settings, **result}, indent=2) + "\n", encoding="utf-8")
    return 1 if result["faults"] else 0


def soak(env: gym.Env[Any, Any], agent: Agent, seconds: float, control_hz: float, seed: int) -> dict[str, Any]:
    """Run episodes until their steps have taken this long, and return the measurements.

    Memory and threads are first measured after the first reset, when everything is loaded. Resets count only in the
    statistics of the serial line.
    """
    cadence, faults, chunks = Cadence(), dict[str, int](), dict[str, int]()
    episodes = succeeded = 0
    stepped, reported = 0.0, 0.0
    watch, begin = None, dict[str, float]()
    while stepped < seconds:
        observation, info = env.reset(seed=seed + episodes)
        agent.reset(info["instruction"], seed=seed + episodes)
        episodes += 1
        if watch is None:
            watch, begin = watch_link(env), resources()
        done, first = False, True
        while not done and stepped < seconds:
            observation, _, terminated, truncated, info = env.step(agent.act(observation))
            if not first:  # the first step starts the clock
                cadence.add(info["timing"])
                stepped += info["timing"]["step"]
            done, first = terminated or truncated, False
            succeeded += bool(info["is_success"])
            if stepped - reported >= PROGRESS:
                reported = stepped
                report = cadence.report()
                print(
                    f"{stepped:6.0f} s  {report['rate_hz']:.2f} Hz  {report['over_budget']} of {report['steps']} steps "
                    f"over budget  worst {1e3 * report['worst_step_s']:.1f} ms  episodes {episodes}  "
                    f"succeeded {succeeded}  memory {resources()['memory_mb']:.0f} MB",
                    file=sys.stderr,
                    flush=True,
                )
            if info["fault"] is not None:
                faults[info["fault"]] = faults.get(info["fault"], 0) + 1
                time.sleep(1.0)  # the arm comes to rest, and the cause ends
                env.unwrapped.clear_fault()  # type: ignore[attr-defined]
        add_counts(chunks, agent)
    assert watch is not None  # noqa: S101 - narrows a type
    return {
        "seconds": round(stepped, 3),
        "control_hz": control_hz,
        "cadence": cadence.report(),
        "link": watch.report(),
        "begin": begin,
        "end": resources(),
        "episodes": episodes,
        "succeeded": succeeded,
        "faults": faults,
        "chunks": chunks,
    }


def add_counts(total: dict[str, int], agent: Agent) -> None:
    """Add the chunk statistics of the agent's present episode; a scripted agent has none."""
    statistics = getattr(agent, "statistics", None)
    for name in ("chunks", "waited_steps", "stalled_steps", "expired_actions") if statistics is not None else ():
        total[name] = total.get(name, 0) + getattr(statistics, name)


def resources() -> dict[str, float]:
    """Return the resident memory in MB and the threads of this process and of those that it has started."""
    memory, threads = 0, 0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            memory, threads = memory + process.memory_info().rss, threads + process.num_threads()
    return {"memory_mb": round(memory / 1e6, 1), "threads": threads}


if __name__ == "__main__":
    sys.exit(main())
