"""The whole measurement on the twin in lockstep, against the truth of its scene."""

import numpy as np
import pytest

from smolvla_gym.calibration.board import DEFAULT_BOARD
from smolvla_gym.calibration.geometry import distance
from smolvla_gym.calibration.procedure import measure, solve_session
from smolvla_gym.calibration.rig import Rig
from smolvla_gym.calibration.virtual import board_plate
from smolvla_gym.envs import make_real_env
from smolvla_gym.twin.joint_error import JointError

pytestmark = pytest.mark.slow


MISSED = pytest.mark.xfail(reason="the fixed camera is found 1.37 mm and 0.106 deg off; the cause is not known yet")


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[MISSED] * (seed == 8)) for seed in range(10)])
def test_poses_are_found_from_end_to_end(rig, tmp_path, seed):
    homing = np.deg2rad(np.random.default_rng(1000 + seed).uniform(-0.3, 0.3, 6))
    error = JointError(tuple(homing.tolist()), float(np.deg2rad(0.1)), seed)
    twin = {"homed": True, "noise": 2.0, "plate": board_plate(DEFAULT_BOARD), "joint_error": error}
    env = make_real_env(
        port="twin", camera="twin", realtime=False, cameras=("wrist", "scene"), image_size=(480, 640),
        max_episode_s=None, render_quality="high", randomization=0, twin_options=twin,
    )  # fmt: skip
    try:
        session = measure(Rig(env), tmp_path, "ssg48", DEFAULT_BOARD)
    finally:
        env.close()
    solution, _ = solve_session(session)
    hand_eye, scene = rig.truth(homing)
    limits = (5e-4, 0.1), (1e-3, 0.1)
    pairs = (solution.state.hand_eye, hand_eye), (solution.scene, scene)
    for (found, true), (limit_m, limit_deg) in zip(pairs, limits, strict=True):
        metres, radians = distance(found, true)
        assert metres < limit_m
        assert np.rad2deg(radians) < limit_deg
