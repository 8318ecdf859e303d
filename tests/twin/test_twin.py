"""The twin as a whole: true physics below a board that only counts, and cameras that see it."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import mujoco
import numpy as np
import pytest

from smolvla_gym.parol6 import GRIPPERS, HOME, STEPS_PER_RAD, rad_from_steps, steps_from_rad
from smolvla_gym.parol6.protocol import Command, CommandFrame
from smolvla_gym.sim.rendering import QUALITIES, OffscreenRenderer
from smolvla_gym.sim.scene import OVERVIEW
from smolvla_gym.sim.world import World
from smolvla_gym.tasks import get_task
from smolvla_gym.twin.lockstep import LockstepClock
from smolvla_gym.twin.twin import RESTING, Twin
from tests.envs.twin_rig import TARGET, Tap, drive, make_twin

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


class Bench:
    """A twin whose time passes in :meth:`run`, and that is written to without a driver."""

    def __init__(self, **options) -> None:
        self.clock = LockstepClock()
        self.twin = Twin(clock=self.clock, **options)
        self.firmware = self.twin.board.firmware

    def send(self, command: int, joints=None, speed=(0,) * 6) -> None:
        position = (0,) * 6 if joints is None else tuple(steps_from_rad(joints).tolist())
        self.firmware.receive(CommandFrame(command, position, tuple(speed)).pack())

    def run(self, seconds: float) -> None:
        self.clock.set(self.clock.now() + seconds)
        self.twin.advance()

    @property
    def lost(self) -> np.ndarray:
        """By how many microsteps the counters are wrong."""
        return np.abs(self.firmware.offset)

    @property
    def reported(self) -> np.ndarray:
        return rad_from_steps(self.firmware.counters)


@pytest.fixture
def make():
    made = []

    def build(**options) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield build
    for bench in made:
        bench.twin.close()


# -- physics -----------------------------------------------------------------------------------------------------------


def test_homing_finds_the_truth(make):
    bench = make()
    assert not bench.twin.homed
    np.testing.assert_allclose(bench.twin.joints, RESTING, atol=1e-3)
    assert np.rad2deg(np.abs(bench.reported - RESTING)).max() > 100.0  # it counts from zero
    bench.send(Command.ENABLE)
    bench.send(Command.HOME)
    bench.send(Command.IDLE)
    seconds = 0
    while not bench.twin.homed and seconds < 60:
        bench.run(1.0)
        seconds += 1
    assert 20 < seconds < 45
    bench.run(0.5)
    assert np.rad2deg(np.abs(bench.twin.joints - HOME)).max() < 0.5
    assert np.rad2deg(np.abs(bench.twin.joints - bench.reported)).max() < 0.5
    assert bench.lost.max() < 128  # less than the rotor's next stable place


def test_a_free_arm_loses_no_step(make):
    bench = make(homed=True)
    bench.send(Command.ENABLE)
    swing = np.array([0.3, 0.1, 0.1, 0.4, 0.4, 0.4])
    for k in range(300):
        bench.send(Command.MOVE, HOME + swing * np.sin(2 * np.pi * min(k / 100, 2.0)) ** 2)
        bench.run(0.01)
    assert not bench.lost.any()
    np.testing.assert_allclose(bench.twin.joints, bench.reported, atol=np.deg2rad(0.2))


def test_an_arm_that_is_torn_loses_steps(make):
    """The board knows no limits of acceleration: that is what the safety gate is for."""
    bench = make(homed=True)
    bench.send(Command.ENABLE)
    bench.send(Command.MOVE, HOME - 0.5)
    bench.run(1.0)
    np.testing.assert_allclose(bench.reported, HOME - 0.5, atol=1e-3)
    assert bench.lost.max() > 1000
    true = bench.reported + bench.firmware.offset / STEPS_PER_RAD
    np.testing.assert_allclose(bench.twin.joints, true, atol=np.deg2rad(0.2))


def test_a_blocked_arm_loses_steps_and_does_not_notice(make):
    bench = make(homed=True)
    bench.send(Command.ENABLE)
    # J1 is blocked.
    model, held = bench.twin.world.model, bench.twin.joints[0]
    joint = model.joint("joint_1")
    joint.range[:] = held - 0.01, held + 0.01
    model.jnt_limited[joint.id] = True
    bench.send(Command.JOG, speed=(2000, 0, 0, 0, 0, 0))
    bench.run(1.0)
    assert bench.twin.joints[0] == pytest.approx(held, abs=0.03)
    assert bench.reported[0] - held == pytest.approx(2000 / STEPS_PER_RAD[0], abs=0.01)
    assert bench.lost[0] > 1000
    assert not bench.lost[1:].any()
    assert bench.lost[0] % 128 == 0  # four full steps at a time
    # Let go of, it stays wrong.
    model.jnt_limited[joint.id] = False
    bench.send(Command.DISABLE)
    bench.run(0.5)
    assert bench.reported[0] - bench.twin.joints[0] > 0.1


def test_an_arm_that_lost_steps_is_right_again_after_homing():
    env = make_twin()
    try:
        tap = Tap(env)
        env.reset(seed=0, options={"joints": HOME})
        for _ in range(5):
            tap.twin.board.firmware.slip(0, 128.0)
            drive(env, 0.2, [*HOME, 1.0])
        assert abs(tap.twin.joints[0] - HOME[0]) == pytest.approx(640 / STEPS_PER_RAD[0], abs=2e-3)
        env.reset(seed=0, options={"joints": HOME, "home": True})
        assert np.rad2deg(np.abs(tap.twin.joints - HOME)).max() < 0.5
    finally:
        env.close()


# -- cameras -----------------------------------------------------------------------------------------------------------


def test_the_camera_sees_what_a_renderer_of_the_simulation_draws(make):
    bench = make(homed=True, cameras=("wrist",), noise=0.0)
    twin = bench.twin
    twin.cameras["wrist"].push()
    pixels, _ = twin.cameras["wrist"]._images
    assert pixels.std() > 10.0
    # The simulation's camera has the D405's view; its image is cut to the shape of the sensor.
    task = get_task("lift")
    world = World(GRIPPERS["ssg48"], task.kind, goal=False, control_hz=30, cameras=("wrist",), image_size=(480, 640),
                  depth=False, quality=QUALITIES["fast"])  # fmt: skip
    world.reset(HOME, twin.world.opening)
    world.settle()
    drawn = world.observe().pixels["wrist"]
    world.close()
    gap = np.abs(drawn.astype(int) - pixels)
    assert gap.mean() < 0.5
    moved = np.abs(drawn[:, 1:].astype(int) - pixels[:, :-1])
    assert gap.mean() < 0.5 * moved.mean()


def test_the_overview_shows_the_arm_move(make):
    bench = make(homed=True)
    first, none = bench.twin.overview.render()
    assert (first.shape, none) == ((480, 640, 3), None)
    renderer = OffscreenRenderer(bench.twin.world.model, QUALITIES["high"], (480, 640))
    data = mujoco.MjData(bench.twin.world.model)
    mujoco.mj_copyData(data, bench.twin.world.model, bench.twin.world.data)
    np.testing.assert_array_equal(first, renderer.render(data, OVERVIEW, (480, 640))[0])
    renderer.close()
    bench.send(Command.ENABLE)
    bench.send(Command.MOVE, HOME - 0.3)
    bench.run(0.5)
    second, _ = bench.twin.overview.render()
    assert (np.abs(second.astype(int) - first).max(axis=2) > 40).mean() > 0.01


# -- life --------------------------------------------------------------------------------------------------------------


def test_closing_leaves_nothing(make):
    before = set(threading.enumerate())
    twin = Twin(cameras=("wrist", "scene"), homed=True)
    twin.start()
    folder = Path(twin.board.path).parent
    assert folder.is_dir()
    assert len(set(threading.enumerate()) - before) >= 3
    begin = time.monotonic()
    while twin.cameras["scene"].number < 2:
        assert time.monotonic() < begin + 20.0
        time.sleep(0.01)
    assert twin.overview.render()[0].any()
    twin.close()
    twin.close()
    assert not folder.exists()
    assert set(threading.enumerate()) <= before


def test_an_env_that_is_closed_leaves_nothing():
    before = set(threading.enumerate())
    env = make_twin(cameras=("wrist",), image_size=(32, 32))
    folder = Path(env.unwrapped.backend.twin.board.path).parent
    env.reset(seed=0)
    drive(env, 0.2, TARGET)
    env.close()
    env.close()
    assert not folder.exists()
    assert set(threading.enumerate()) <= before


def test_two_twins_know_nothing_of_each_other(make):
    first, second = make(homed=True), make(homed=True)
    assert first.twin.board.path != second.twin.board.path
    first.send(Command.ENABLE)
    first.send(Command.JOG, speed=(-1000,) * 6)
    for bench in (first, second):
        bench.run(0.5)
    assert np.abs(first.twin.joints - HOME).min() > 0.01
    np.testing.assert_allclose(second.twin.joints, HOME, atol=1e-3)
