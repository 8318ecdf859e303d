import numpy as np

from smolvla_gym.calibration.geometry import distance, invert, project, tool_poses
from tests.calibration.rendered import GRIPPER, LOOK, WRIST


def test_corners_have_no_offset_of_half_a_pixel(rig):
    found = rig.detector.detect(rig.shoot("wrist", LOOK))
    inside = invert(tool_poses(LOOK, GRIPPER) @ rig.hand_eye) @ rig.board
    off = found.pixels - project(inside, rig.detector.points[found.ids], WRIST.matrix, np.zeros(5))
    assert np.abs(off.mean(axis=0)).max() < 0.02
    assert np.sqrt(np.mean(off**2)) < 0.05
    metres, radians = distance(rig.detector.pose(found, WRIST), inside)
    assert metres < 3e-4
    assert np.rad2deg(radians) < 0.1


def test_nothing_is_found_where_there_is_no_board(rig):
    assert rig.detector.detect(np.full((480, 640, 3), 128, np.uint8)) is None
