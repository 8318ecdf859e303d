"""Measure the control steps per second of PAROL6Sim-v0 and of two other MuJoCo arms.

    python examples/benchmark_sim.py                  # with the other arms, if they are installed
    python examples/benchmark_sim.py --install-peers  # installs them with uv into an environment of their own
    python examples/benchmark_sim.py --json

The other arms ("peers") are those of Gymnasium-Robotics and gym-aloha. FetchPickAndPlace-v4 needs a MuJoCo before 3.4,
so each peer runs in an interpreter of its own. The figures are medians of several runs with random actions in one
process; resets and warm-up do not count.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM_UP = 20
SIZES = ((64, 64), (128, 128), (256, 256), (480, 640))
UV_PACKAGES = ("gymnasium-robotics>=1.4.2", "gym-aloha>=0.1.3", "mujoco<3.4")
PEERS = {
    "fetch_state": ("FetchPickAndPlace-v4, state", "gymnasium_robotics", 300),
    "fetch_256": ("FetchPickAndPlace-v4, 256x256", "gymnasium_robotics", 50),
    "aloha_480": ("AlohaTransferCube-v0, 480x640", "gym_aloha", 20),
}
# Measured case, peer (None: the target is a rate per second), and the target factor or rate.
TARGETS = (("state", "fetch_state", 5.0), ("480x640", "aloha_480", 20.0), ("256x256", None, 250.0))


def measure(env: Any, steps: int, runs: int, render: Callable[[], Any] | None = None) -> list[float]:
    """Return the steps per second of each run.

    Args:
        env: The environment.
        steps: Steps of a run.
        runs: Number of runs.
        render: Called after every step; for an environment without images in its observation.
    """
    rates = []
    env.action_space.seed(0)
    env.reset(seed=0)
    for run in range(runs + 1):
        elapsed = 0.0
        count = steps if run else WARM_UP
        for _ in range(count):
            action = env.action_space.sample()
            began = time.perf_counter()
            _, _, terminated, truncated, _ = env.step(action)
            if render is not None:
                render()
            elapsed += time.perf_counter() - began
            if terminated or truncated:
                env.reset()
        if run:
            rates.append(count / elapsed)
    return rates


def measure_peer(name: str, steps: int, runs: int) -> list[float]:
    """Measure a peer in this interpreter."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    import gymnasium as gym

    if name == "aloha_480":
        importlib.import_module("gym_aloha")
        env = gym.make("gym_aloha/AlohaTransferCube-v0", obs_type="pixels")
    else:
        gym.register_envs(importlib.import_module("gymnasium_robotics"))
        options: dict[str, Any] = (
            {"render_mode": "rgb_array", "width": 256, "height": 256} if name == "fetch_256" else {}
        )
        env = gym.make("FetchPickAndPlace-v4", **options)
    try:
        return measure(env, steps, runs, env.render if name == "fetch_256" else None)
    finally:
        env.close()


def ask_peer(name: str, runs: int, install: bool) -> tuple[list[float], str]:
    """Measure a peer in an interpreter of its own.

    Returns:
        The steps per second of each run, and the reason why there are none.
    """
    _, package, steps = PEERS[name]
    command = [sys.executable]
    if install:
        uv = shutil.which("uv")
        if uv is None:
            return [], "uv is not installed: pip install uv"
        python = str(Path(sys.executable).resolve())
        command = [uv, "run", "--quiet", "--no-project", "--python", python]
        command += [part for requirement in UV_PACKAGES for part in ("--with", requirement)]
        command.append("python")
    command += [__file__, "--peer", name, str(steps), str(runs)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    if result.returncode == 0:
        return [float(rate) for rate in result.stdout.splitlines()[-1].split()], ""
    last = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
    if f"No module named '{package}'" in last:
        return [], f"{package} is not installed: run this with --install-peers"
    return [], f"does not run here ({last[:80]}): run this with --install-peers"


def measure_parol6(runs: int, quality: str) -> dict[str, list[float]]:
    """Return the steps per second of each run of PAROL6Sim-v0, without images and by size of the image."""
    import gymnasium as gym

    import smolvla_gym

    rates = {}
    cases: list[tuple[str, int, dict[str, Any]]] = [("state", 1000, {"cameras": ()})]
    cases += [(f"{h}x{w}", 150, {"image_size": (h, w), "render_quality": quality}) for h, w in SIZES]
    for name, steps, options in cases:
        env = gym.make(smolvla_gym.SIM_ID, **options)
        rates[name] = measure(env, steps, runs)
        env.close()
    return rates


def judge(medians: dict[str, float]) -> list[dict[str, Any]]:
    """Compare the measured medians with the targets."""
    verdicts = []
    for what, peer, factor in TARGETS:
        if peer is not None and peer not in medians:
            verdicts.append({"what": what, "beside": peer, "target": factor, "reached": None})
            continue
        value = medians[what] / (medians[peer] if peer else 1.0)
        verdicts.append(
            {"what": what, "beside": peer, "target": factor, "value": round(value, 1), "reached": value >= factor}
        )
    return verdicts


def show(rates: dict[str, list[float]], absent: dict[str, str], verdicts: list[dict[str, Any]]) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table

    table = Table("env", "steps/s, median", "lowest .. highest", title="Control steps per second")
    for name, values in rates.items():
        label = PEERS[name][0] if name in PEERS else f"PAROL6Sim-v0, {name}"
        table.add_row(label, f"{statistics.median(values):,.1f}", f"{min(values):,.1f} .. {max(values):,.1f}")
    for name, reason in absent.items():
        table.add_row(PEERS[name][0], "-", reason)
    targets = Table("target", "measured", "", title="Targets")
    for verdict in verdicts:
        peer = verdict["beside"]
        goal = f"{verdict['what']}: at least {verdict['target']:g} " + (f"x {PEERS[peer][0]}" if peer else "steps/s")
        outcome = {True: "[green]reached", False: "[red]missed", None: "[yellow]not measured"}[verdict["reached"]]
        targets.add_row(goal, f"{verdict.get('value', '-')}", outcome)
    console = Console()
    console.print(table)
    console.print(targets)


def main() -> None:
    parser = argparse.ArgumentParser(description="Control steps per second of PAROL6Sim-v0 and its peers.")
    parser.add_argument("--runs", type=int, default=5, help="number of runs, of which the median is shown")
    parser.add_argument("--quality", choices=("fast", "balanced", "high"), default="fast", help="of rendering")
    parser.add_argument("--install-peers", action="store_true", help="run the peers with uv run --with ...")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--peer", nargs=3, metavar=("NAME", "STEPS", "RUNS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs has to be at least 1")
    if options.peer:
        name, steps, runs = options.peer
        print(*measure_peer(name, int(steps), int(runs)))
        return

    rates = measure_parol6(options.runs, options.quality)
    absent = {}
    for name in PEERS:
        values, reason = ask_peer(name, min(options.runs, 3), options.install_peers)
        if values:
            rates[name] = values
        else:
            absent[name] = reason
    medians = {name: statistics.median(values) for name, values in rates.items()}
    verdicts = judge(medians)
    if options.json:
        print(json.dumps({"steps_per_second": medians, "runs": rates, "absent": absent, "targets": verdicts}, indent=2))
    else:
        show(rates, absent, verdicts)


if __name__ == "__main__":
    main()
