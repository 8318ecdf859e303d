"""The board's motion law against its documented behaviour."""

import numpy as np
import pytest

from smolvla_gym.parol6 import HOME, STEPS_PER_RAD
from smolvla_gym.sim.motion import MotionLaw


@pytest.mark.parametrize("dt", [0.001, 0.0037, 0.01])
def test_a_step_is_answered_by_a_first_order_of_20_ms(dt):
    law, target = MotionLaw(), HOME + 0.01
    law.reset(HOME)
    path = law.follow(np.tile(target, (40, 1)), np.zeros((40, 6)), dt)
    time = dt * np.arange(1, 41)[:, None]
    np.testing.assert_allclose(path, target - 0.01 * np.exp(-time / 0.020), atol=1e-12)


@pytest.mark.parametrize("speed", [0.1, -0.5])
def test_a_ramp_is_followed_10_ms_late(speed):
    law, setpoint = MotionLaw(), np.array(HOME)
    law.reset(setpoint)
    for _ in range(30):
        way = setpoint + speed / 270 * np.arange(1, 10)[:, None]
        path, setpoint = law.follow(way, np.full((9, 6), speed), 1 / 270), way[-1]
    lag = (setpoint - path[-1]) / speed
    # The target itself moves in steps of dt, each held for dt: half of one on top.
    np.testing.assert_allclose(lag, 0.010, atol=0.5 / 270 + 1e-6)


def test_no_joint_is_stepped_faster_than_50000_times_a_second():
    law, dt = MotionLaw(), 0.004
    law.reset(HOME)
    target = HOME + np.array([1, -1, 1, -1, 1, -1]) * 3.0
    path = np.vstack([HOME, law.follow(np.tile(target, (50, 1)), np.zeros((50, 6)), dt)])
    rate = np.abs(np.diff(path, axis=0)) * STEPS_PER_RAD / dt
    assert rate.max() <= 50000 * (1 + 1e-9)
    np.testing.assert_allclose(rate[0], 50000)


def test_cutting_a_way_into_pieces_changes_nothing():
    whole, pieces = MotionLaw(), MotionLaw()
    whole.reset(HOME)
    pieces.reset(HOME)
    targets, speeds = HOME + 0.02 * np.arange(1, 9)[:, None] / 8, np.full((8, 6), 0.6)
    path = whole.follow(targets, speeds, 0.004)
    first, second = pieces.follow(targets[:4], speeds[:4], 0.004), pieces.follow(targets[4:], speeds[4:], 0.004)
    np.testing.assert_allclose(np.vstack([first, second]), path, atol=1e-12)
