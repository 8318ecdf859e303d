import numpy as np
import pytest

from smolvla_gym.calibration.bundle import SceneViews, solve
from smolvla_gym.calibration.detection import Corners
from smolvla_gym.calibration.geometry import distance, invert, project, tool_poses
from smolvla_gym.calibration.report import camera_poses, joint_offsets, pose_advice
from smolvla_gym.errors import CalibrationError
from tests.calibration.rendered import GRIPPER, SCENE, WRIST

# Targets: mm and deg of the wrist, mm and deg of the scene camera.
_TARGETS = (0.5, 0.1, 1.0, 0.1)
_LINK_TARGETS = (1.5, 0.3, 3.0, 0.3)


def ideal_views(rig, true, count=24):
    """Exact corners of the wrist camera, all of them in each image."""
    ids = np.arange(count)
    inside = invert(tool_poses(true, GRIPPER) @ rig.hand_eye) @ rig.board
    pixels = project(inside, rig.detector.points[ids], WRIST.matrix, np.zeros(5))
    return [Corners(ids, one) for one in pixels]


def test_exact_images_give_the_exact_poses(rig, poses):
    pixels = project(invert(rig.scene) @ rig.board, rig.detector.points, SCENE.matrix, np.zeros(5))
    scene = SceneViews([Corners(np.arange(24), pixels)], SCENE)
    solution = solve(GRIPPER, poses, ideal_views(rig, poses), WRIST, rig.detector, scene)
    for found, true in ((solution.state.hand_eye, rig.hand_eye), (solution.scene, rig.scene)):
        metres, radians = distance(found, true)
        assert metres < 1e-5
        assert radians < 1e-4
    assert np.abs(solution.state.offsets).max() < 1e-4
    assert pose_advice(solution) == []


def test_offsets_of_homing_are_found(rig, poses):
    offsets = np.deg2rad([0.0, 0.5, -0.4, 0.3, -0.6, 0.0])
    solution = solve(GRIPPER, poses, ideal_views(rig, poses + offsets), WRIST, rig.detector)
    found = joint_offsets(solution)
    np.testing.assert_allclose(found.offsets_rad, offsets, atol=np.deg2rad(0.02))
    assert "scene" not in camera_poses(solution)


def test_corners_that_lie_elsewhere_are_dropped(rig, poses):
    views = ideal_views(rig, poses)
    for view in views[:4]:
        view.pixels[3] += (5.0, -4.0)
    solution = solve(GRIPPER, poses, views, WRIST, rig.detector)
    assert solution.dropped >= 4
    assert distance(solution.state.hand_eye, rig.hand_eye)[0] < 1e-4


def test_too_few_images_are_an_error_with_advice(rig, poses):
    with pytest.raises(CalibrationError, match="5 images"):
        solve(GRIPPER, poses[:5], ideal_views(rig, poses[:5]), WRIST, rig.detector)


def test_poses_that_are_alike_give_no_result_or_wide_intervals(rig, poses):
    same = np.repeat(poses[:1], 8, axis=0)
    try:
        solution = solve(GRIPPER, same, ideal_views(rig, same), WRIST, rig.detector)
    except CalibrationError:
        return
    assert any("more poses" in line for line in pose_advice(solution))


def test_targets_of_accuracy_with_noise(rig, poses):
    for seed in (0, 1):
        solution, errors = rig.calibrate(seed, poses)
        assert (np.array(errors[:4]) < _TARGETS).all(), errors
        wrist = camera_poses(solution)["wrist"]
        assert errors[0] < 3e3 * np.linalg.norm(wrist.position_interval_m)


def test_links_of_other_lengths_widen_the_intervals(rig, poses):
    plain, _ = rig.calibrate(2, poses)
    solution, errors = rig.calibrate(2, poses, links=3e-4)
    assert (np.array(errors[:4]) < _LINK_TARGETS).all(), errors
    assert np.linalg.norm(solution.hand_eye_interval[3:]) > 1.3 * np.linalg.norm(plain.hand_eye_interval[3:])
    assert solution.link_sigma > plain.link_sigma


@pytest.mark.slow
@pytest.mark.parametrize(("links", "targets"), [(0.0, _TARGETS), (3e-4, _LINK_TARGETS)])
def test_the_worst_of_ten_seeds_keeps_the_targets(rig, poses, links, targets):
    errors = np.array([rig.calibrate(seed, poses, links=links)[1][:4] for seed in range(10)])
    assert (errors.max(axis=0) < targets).all(), errors.max(axis=0)
