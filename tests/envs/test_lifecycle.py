"""Environments free everything that they open."""

import gc
import os
import subprocess
import sys
import threading
import time

import gymnasium as gym
import pytest

import smolvla_gym
from smolvla_gym.errors import OptionError

PROC = os.path.isdir("/proc/self/fd")


def held():
    """Open files, Python's threads and the process's threads."""
    tasks = []
    for _ in range(20):  # a thread that was joined is listed until the kernel has taken it away
        tasks.append(len(os.listdir("/proc/self/task")))
        time.sleep(0.005)
    return len(os.listdir("/proc/self/fd")), threading.active_count(), min(tasks)


def memory():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cycle(close=True, steps=2):
    env = gym.make(
        smolvla_gym.SIM_ID, image_size=(64, 64), cameras=("wrist", "scene"), depth=True, render_mode="rgb_array"
    )
    env.reset(seed=0)
    for _ in range(steps):
        env.step(env.action_space.sample())
    env.render()
    if close:
        env.close()


@pytest.mark.skipif(not PROC, reason="needs /proc")
@pytest.mark.parametrize(
    ("close", "times"),
    [pytest.param(True, 30, id="closed", marks=pytest.mark.slow), pytest.param(False, 6, id="dropped mid-episode")],
)
def test_envs_leave_nothing_behind(close, times):
    for _ in range(3):  # what is loaded once and kept: drivers, shaders, allocator
        cycle(close)
    gc.collect()
    before, used = held(), memory()
    for _ in range(times):
        cycle(close)
    gc.collect()
    assert held() == before
    # A model, its images and two contexts are more than 10 MB; a tenth of that a cycle would be a leak.
    assert memory() - used < 30e6


def test_many_envs_draw_side_by_side():
    envs = [gym.make(smolvla_gym.SIM_ID, task=task, image_size=(32, 32)) for task in ("lift", "push", "reach")]
    first = [env.reset(seed=i)[0]["pixels"]["wrist"] for i, env in enumerate(envs)]
    envs[1].close()  # the others go on
    again = [env.reset(seed=i)[0]["pixels"]["wrist"] for i, env in enumerate(envs) if i != 1]
    for a, b in zip(again, (first[0], first[2]), strict=True):
        assert (a == b).all()
    for env in envs:
        env.close()
        env.close()


ENDINGS = ("pass", "env.close()", "raise SystemExit(0)", "del env", "os._exit(0)", "1 / 0")

ENDED = """
import os, sys
import gymnasium as gym, smolvla_gym
from smolvla_gym.sim.rendering import QUALITIES
QUALITIES["high"] = QUALITIES["fast"]
folder, *endings = sys.argv[1:]
processes = {}
for number, ending in enumerate(endings):  # forked before anything was drawn
    if (pid := os.fork()) == 0:
        os.dup2(os.open(f"{folder}/{number}", os.O_WRONLY | os.O_CREAT), 2)
        break
    processes[pid] = ending
else:
    for pid, ending in processes.items():
        print(ending, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    sys.exit()
env = gym.make("PAROL6Sim-v0", image_size=(32, 32), render_mode="rgb_array")
env.reset(seed=0)
env.step(env.action_space.low)
env.render()
exec(ending)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_process_ends_quietly_in_the_middle_of_an_episode(tmp_path):
    command = [sys.executable, "-c", ENDED, str(tmp_path), *ENDINGS]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    codes = dict(line.rsplit(" ", 1) for line in run.stdout.splitlines())
    assert codes == {ending: "1" if ending == "1 / 0" else "0" for ending in ENDINGS}, run.stderr
    *quiet, loud = (tmp_path.joinpath(str(number)).read_text() for number in range(len(ENDINGS)))
    assert quiet == [""] * len(quiet)
    assert loud.count("Traceback") == 1
    assert loud.strip().endswith("ZeroDivisionError: division by zero")


def test_workers_may_be_forked_before_anything_was_drawn():
    program = """
import gymnasium as gym, smolvla_gym
if __name__ == "__main__":
    vector = gym.make_vec("PAROL6Sim-v0", num_envs=2, vectorization_mode="async", image_size=(32, 32))
    observation, _ = vector.reset(seed=0)
    observation, *_ = vector.step(vector.action_space.sample())
    print(observation["pixels"]["wrist"].shape, observation["pixels"]["wrist"].std() > 5)
    vector.close()
"""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "(2, 32, 32, 3) True", run.stderr
    assert run.returncode == 0


def test_a_first_reset_that_was_refused_breaks_no_step():
    with gym.make(smolvla_gym.SIM_ID, cameras=()) as env:
        with pytest.raises(OptionError):
            env.reset(seed=0, options={"joints": [0.0] * 6})
        with pytest.raises(gym.error.ResetNeeded):
            env.step(env.action_space.high)
        env.reset(seed=0)
        assert env.step(env.action_space.high)[4]["fault"] is None
