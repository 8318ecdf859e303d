"""The process with the real environment: after any end of it the arm rests and its board is disabled."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest

import smolvla_gym
from smolvla_gym.agent.scripted import ExpertAgent
from smolvla_gym.data.video import read_frames
from smolvla_gym.episodes.rollout import rollout
from smolvla_gym.errors import DeviceError, FaultError, RenderingError
from smolvla_gym.parol6 import HOME
from smolvla_gym.twin.twin import Twin
from tests.envs.twin_rig import STILL, TARGET, Tap, drive, make_twin

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

LIMIT = 2.0
"""How long the board may take to be disabled and the arm to rest, in s, on a busy machine too."""


# -- recordings --------------------------------------------------------------------------------------------------------


def test_a_fault_ends_a_rollout_and_its_recording_is_kept(tmp_path):
    env = make_twin(cameras=("wrist",), image_size=(64, 64), render_mode="rgb_array")
    try:
        tap = Tap(env)

        def press(record):
            tap.twin.faults.estop = record.steps == 12

        summary = rollout(env, ExpertAgent(), seed=3, out=tmp_path, progress=press)
        (episode,) = summary.episodes
        assert (episode.end, episode.fault, episode.steps) == ("fault", "estop", 13)
        written = json.loads((tmp_path / "summary.json").read_text())["episodes"][0]
        assert (written["fault"], written["video"]) == ("estop", "rollout.mp4")
        assert written["safety"]["fault"] == 1
        pictures = list(read_frames(tmp_path / "rollout.mp4"))
        assert len(pictures) == 14
        assert pictures[-1].std() > 10.0
        assert not list(tmp_path.glob("*.part"))
        with pytest.raises(FaultError):
            rollout(env, ExpertAgent(), seed=4, out=tmp_path / "next")
        assert tap.twin.disabled
    finally:
        env.close()


# -- the end of the program --------------------------------------------------------------------------------------------

PROGRAM = """
import os, sys, time
import gymnasium as gym, numpy as np
import smolvla_gym
from smolvla_gym.parol6 import HOME

env = gym.make("PAROL6Real-v0", port=sys.argv[1], gripper="pneumatic", cameras=(), log=None)
env.reset(options={"joints": HOME})
action = np.array(eval(sys.argv[2]), np.float32)
end = sys.argv[3]
for k in range(90):
    env.step(action)
    if k == 15:
        print("moving", flush=True)
        if end == "exception":
            raise RuntimeError("a defect of the agent")
        if end == "exit":
            sys.exit(3)
        if end == "_exit":
            os._exit(4)
        if end == "no close":
            break
"""


@pytest.fixture
def arm():
    twin = Twin(homed=True, gripper="pneumatic")
    twin.start()
    yield twin
    twin.close()


def speed(twin: Twin) -> float:
    """The highest speed of a joint over some 30 ms, in rad/s."""
    with twin.lock:
        begin, before = twin.time, twin.world.measured_joints
    time.sleep(0.03)
    with twin.lock:
        seconds, after = twin.time - begin, twin.world.measured_joints
    return float(np.abs(after - before).max() / seconds) if seconds else 0.0


def comes_to_rest(twin: Twin, limit: float = LIMIT) -> float:
    """Wait until the board is disabled and the arm rests; return the duration in s."""
    begin = time.monotonic()
    while not twin.disabled or speed(twin) > STILL:
        assert time.monotonic() < begin + limit
        time.sleep(0.01)  # one that asks without end leaves the twin's threads no time to come to rest
    took = time.monotonic() - begin
    time.sleep(0.2)
    assert twin.disabled
    assert speed(twin) < STILL
    return took


@pytest.mark.alone
@pytest.mark.realtime
@pytest.mark.parametrize(
    ("end", "number", "status"),
    [
        ("kill", signal.SIGKILL, -signal.SIGKILL),
        ("terminate", signal.SIGTERM, -signal.SIGTERM),
        ("interrupt", signal.SIGINT, None),
        ("exception", None, 1),
        pytest.param("exit", None, 3, marks=pytest.mark.slow),
        pytest.param("_exit", None, 4, marks=pytest.mark.slow),
        pytest.param("no close", None, 0, marks=pytest.mark.slow),
    ],
)
def test_the_program_ends(arm, end, number, status):
    command = [sys.executable, "-c", PROGRAM, arm.board.path, repr(TARGET.tolist()), end]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as program:
        try:
            assert program.stdout.readline() == b"moving\n"
            assert number is None or speed(arm) > STILL
            if number is not None:
                program.send_signal(number)
            comes_to_rest(arm)
            assert np.abs(arm.joints - HOME).max() > 0.1  # it had been on its way
            assert np.abs(arm.joints - TARGET[:6]).max() > 0.1
            returned = program.wait(10.0)
            assert returned != 0 if status is None else returned == status
        finally:
            if program.poll() is None:
                program.kill()


@pytest.fixture
def make(arm):
    envs = []

    def build(**options):
        options = {"port": arm.board.path, "gripper": "pneumatic", "cameras": (), "log": None, **options}
        envs.append(gym.make(smolvla_gym.REAL_ID, **options))
        return envs[-1]

    yield build
    for env in envs:
        env.close()


@pytest.mark.alone
@pytest.mark.realtime
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_one_port_has_one_owner_who_can_close_twice_and_fork(make, arm):
    env = make()
    env.reset(options={"joints": HOME})
    with pytest.raises(DeviceError, match="busy"):
        make()
    drive(env, 0.3)

    # A child that was forked can neither steer the arm nor end the link of its parent.
    child = os.fork()
    if child == 0:
        status = 1
        try:
            truncated = env.step(TARGET)[3]
            status = 2 if truncated else 3
        except DeviceError:
            status = 0
        finally:
            env.close()
            os._exit(status)
    refusal = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(refusal) == 0
    try:
        env.reset(options={"joints": HOME})
    except FaultError as err:
        # To copy a process as large as this one may hold up the twin inside it longer than a board may be silent.
        assert "feedback_timeout" in str(err)  # noqa: PT017 - it need not come
        env.unwrapped.clear_fault()
        env.reset(options={"joints": HOME})
    assert drive(env, 0.5)["fault"] is None
    assert speed(arm) > STILL
    env.close()
    env.close()
    assert arm.disabled
    comes_to_rest(arm)
    with pytest.raises(gym.error.ClosedEnvironmentError):
        env.unwrapped.step(TARGET)
    again = make()
    again.reset(options={"joints": HOME})
    assert drive(again, 0.3)["fault"] is None


@pytest.mark.alone
@pytest.mark.realtime
def test_an_arm_whose_env_cannot_be_made_is_given_back(make, monkeypatch):
    def fail(*_):
        raise RenderingError("no view")

    with monkeypatch.context() as patch:
        patch.setattr("smolvla_gym.envs.make_real._mirror", fail)
        with pytest.raises(RenderingError) as _kept:  # with all that the failed call held
            make()
    make()  # the port is free again


@pytest.mark.slow
def test_many_twins_at_once():
    options = {"port": "twin", "camera": "twin", "realtime": False, "cameras": ("wrist",), "image_size": (32, 32),
               "log": None, "twin_options": {"homed": True}}  # fmt: skip
    kwargs = {"context": "spawn"}
    envs = gym.make_vec(smolvla_gym.REAL_ID, 2, vectorization_mode="async", vector_kwargs=kwargs, **options)
    try:
        first, _ = envs.reset(seed=[7, 7])
        assert first["pixels"]["wrist"].shape == (2, 32, 32, 3)
        for _ in range(5):
            observation, *_ = envs.step(np.stack([TARGET, TARGET]))
        np.testing.assert_array_equal(observation["agent_pos"][0], observation["agent_pos"][1])
        np.testing.assert_array_equal(observation["pixels"]["wrist"][0], observation["pixels"]["wrist"][1])
        assert np.abs(observation["agent_pos"] - first["agent_pos"]).max() > 0.02
    finally:
        envs.close()
    assert not multiprocessing.active_children()
