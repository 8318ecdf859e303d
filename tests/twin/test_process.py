"""The twin in a process of its own."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import smolvla_gym
from smolvla_gym.errors import DeviceError, OptionError
from smolvla_gym.parol6 import HOME
from smolvla_gym.tasks import Stage, get_task
from smolvla_gym.twin.faults import Faults
from smolvla_gym.twin.process import TwinProcess
from smolvla_gym.twin.twin import Twin
from tests.envs.twin_rig import QUICK, SOUND, drive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

LIMIT = 10.0
"""How long anything may take in s, on a busy machine too."""


def wait_for(condition) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Return whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def lay(twin, seed: int) -> Stage:
    """Lay three cubes on the table, with randomized lamps and cameras."""
    stage = Stage(twin.world, get_task("lift"), control_hz=30.0, randomization=2, num_objects=3, reward="dense")
    rng = np.random.default_rng(seed)
    stage.draw(rng)
    twin.lay(lambda: stage.arrange(rng))
    return stage


@pytest.fixture
def twin():
    twins = []

    def start(**options):
        twins.append(TwinProcess(**{**SOUND, **options}))
        twins[-1].start()
        return twins[-1]

    yield start
    for one in twins:
        close(one)


def close(twin) -> None:
    twin.close()
    twin.close()
    assert not runs(twin.pid)
    assert not Path(twin.port).exists()


@pytest.fixture(scope="module")
def shared():
    """A twin whose arm no test moves and whose faults no test changes."""
    twin = TwinProcess(cameras=("wrist", "scene"), depth=True, **SOUND)
    twin.start()
    yield twin
    close(twin)


def test_it_has_the_scene_that_was_laid_and_shows_it(shared):
    far = shared
    near = Twin(cameras=("wrist", "scene"), depth=True, **SOUND)
    try:
        for seed in (1, 2):
            assert repr(lay(far, seed).layout) == repr(lay(near, seed).layout)
            time.sleep(0.1)
            near.advance()  # the arm of a twin that runs sags by 1 mrad
            with far.present() as there, near.present() as here:
                for cube in range(3):
                    np.testing.assert_allclose(there.object_position(cube), here.object_position(cube), atol=1e-3)
                np.testing.assert_allclose(there.measured_joints, here.measured_joints, atol=1e-3)
            for name, camera in far.cameras.items():
                (pixels, distance), (other, other_distance) = camera._render(), near.cameras[name]._render()
                assert other.std() > 10.0
                # The board's motors hold the arm to a microstep.
                assert np.abs(pixels.astype(int) - other).mean() < 0.5
                assert np.abs(distance - other_distance).mean() < 0.01
        assert not far.disabled
        assert far.homed
        assert far.overview.render()[0].std() > 10.0
    finally:
        near.close()


def test_switches_are_turned_there(twin):
    faults = Faults(unplugged=True)
    far = twin(faults=faults)
    assert not Path(far.port).exists()
    faults.unplugged = False
    wait_for(lambda: Path(far.port).exists())
    assert far.homed
    far.faults.lost_homing = True
    wait_for(lambda: not far.homed)
    assert not far.faults.lost_homing  # it goes off by itself
    far.faults.unplugged = True
    wait_for(lambda: not Path(far.port).exists())
    far.faults.clear()
    wait_for(lambda: Path(far.port).exists())


def test_a_homing_that_was_lost_at_the_beginning_is_lost_once(twin):
    far = twin(faults=Faults(lost_homing=True))
    wait_for(lambda: not far.homed)
    assert not far.faults.lost_homing


def test_a_reply_that_comes_too_late_is_not_taken_for_another(shared):
    os.kill(shared.pid, signal.SIGSTOP)
    try:
        with pytest.raises(DeviceError, match="not answered"):
            shared._ask("snapshot", timeout=0.05)
    finally:
        os.kill(shared.pid, signal.SIGCONT)
    for _ in range(3):
        assert not shared.disabled
        assert shared.joints == pytest.approx(HOME, abs=0.01)


@pytest.mark.alone
@pytest.mark.realtime
def test_an_env_with_faults_can_be_made_again():
    faults = Faults()
    options = {"port": "twin", "cameras": (), "log": None, "twin_options": {**SOUND, "faults": faults}}
    with gym.make(smolvla_gym.REAL_ID, **options) as env:
        assert env.spec is not None
        copied = pickle.loads(pickle.dumps(env.unwrapped))
        copied.close()
        assert env.unwrapped.backend.twin.homed


def test_cameras_can_be_stopped_and_started_again(shared):
    camera = shared.cameras["wrist"]
    for _ in range(2):
        before = camera.number
        wait_for(lambda before=before: camera.number > before)
        camera.stop()
        camera.start()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_does_not_keep_it_alive():
    far = TwinProcess(**SOUND)
    child = os.fork()
    if child == 0:
        far.close()  # of the copy
        time.sleep(2 * LIMIT)
        os._exit(0)
    try:
        assert not far.disabled
        begin = time.monotonic()
        far.close()
        assert time.monotonic() - begin < 3.0
        assert not runs(far.pid)
        assert not Path(far.port).exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.alone
@pytest.mark.realtime
def test_what_is_done_to_the_arm_is_seen_in_the_copy():
    options = {"port": "twin", "camera": "twin", "cameras": ("wrist",), "image_size": (32, 32), "log": None}
    env = gym.make(smolvla_gym.REAL_ID, twin_options=SOUND, **QUICK, **options)
    try:
        env.reset(seed=0, options={"joints": HOME})
        copy = env.unwrapped.backend.twin
        assert isinstance(copy, TwinProcess)
        before = copy.joints
        drive(env, 0.6)
        assert np.abs(copy.joints - before).max() > 0.1
        seen, *_, info = env.step(np.array([*HOME, 1.0], np.float32))
        assert np.abs(copy.joints - seen["agent_pos"][:6]).max() < 0.05
        assert info["fault"] is None
        copy.faults.estop = True
        assert drive(env, 2.0)["fault"] == "estop"
        assert copy.disabled
        copy.faults.clear()
        time.sleep(0.2)
        env.unwrapped.clear_fault()
        env.reset(seed=0, options={"joints": HOME})
        # When it is killed the arm is gone, as if its cable had been pulled; nothing waits for it.
        os.kill(copy.pid, signal.SIGKILL)
        assert drive(env, 2.0)["fault"] in ("port_lost", "feedback_timeout")
        with pytest.raises(DeviceError, match=r"ended with status -9\. Make the env again"):
            copy.lay(lambda: None)
        assert copy.joints.shape == (6,)
        assert copy.overview.render()[0].std() > 10.0
    finally:
        env.close()


PROGRAM = """
import os, sys, time
from smolvla_gym.twin.process import TwinProcess

twin = TwinProcess(homed=True, cameras=("wrist",))
twin.start()
print(twin.pid, twin.port, flush=True)
time.sleep(0.3)
if sys.argv[1] == "exception":
    raise RuntimeError
if sys.argv[1] == "exit":
    os._exit(1)
time.sleep(60)
"""


@pytest.mark.parametrize("end", ["exception", "exit", "kill", "interrupt"])
def test_it_ends_with_the_program_that_started_it(end):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, end], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as program:
        try:
            pid, port = program.stdout.readline().decode().split()
            assert runs(int(pid))
            if end in ("kill", "interrupt"):
                program.send_signal(signal.SIGKILL if end == "kill" else signal.SIGINT)
            program.wait(LIMIT)
            wait_for(lambda: not runs(int(pid)))
            assert not Path(port).exists()
        finally:
            if program.poll() is None:
                program.kill()


def test_lockstep_has_one_process():
    with pytest.raises(OptionError, match="own_process"):
        gym.make(smolvla_gym.REAL_ID, port="twin", realtime=False, cameras=(), twin_options={"own_process": True})
    for name, value in (("own_process", 3), ("faults", {"estop": True}), ("noise", "a"), ("noise", -1.0)):
        with pytest.raises(OptionError, match=name):
            gym.make(smolvla_gym.REAL_ID, port="twin", cameras=(), twin_options={name: value})
