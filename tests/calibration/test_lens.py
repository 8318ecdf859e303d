import cv2
import numpy as np
import pytest

from smolvla_gym.calibration.lens import calibrate_lens
from smolvla_gym.calibration.report import lens_advice, write_lens_report
from smolvla_gym.errors import CalibrationError
from tests.calibration.rendered import WRIST

_DISTORTION = np.array([-0.12, 0.05, 1e-3, -5e-4, 0.0])


def distorted(image):
    """The image of a lens with distortion, from one of a pinhole."""
    v, u = np.mgrid[: WRIST.height, : WRIST.width].astype(np.float64)
    places = np.stack([u, v], -1).reshape(-1, 1, 2)
    pinhole = cv2.undistortPointsIter(places, WRIST.matrix, _DISTORTION, None, WRIST.matrix, (3, 60, 1e-9))
    return cv2.remap(image, *cv2.split(pinhole.reshape(*u.shape, 2).astype(np.float32)), cv2.INTER_CUBIC)


def test_a_lens_is_found_from_images_of_the_board(rig, poses, tmp_path):
    images = [distorted(rig.shoot("wrist", joints)) for joints in poses]
    lens = calibrate_lens(images, rig.detector)
    found = lens.intrinsics
    np.testing.assert_allclose([found.fx, found.fy], [WRIST.fx, WRIST.fy], atol=1.5)
    np.testing.assert_allclose([found.ppx, found.ppy], [WRIST.ppx, WRIST.ppy], atol=1.5)
    assert found.distortion[0] == pytest.approx(_DISTORTION[0], abs=0.02)
    assert found.source == "measured"
    assert found.rms_px < 0.2
    assert "px" in write_lens_report(tmp_path, lens)[0]
    assert (tmp_path / "report.json").exists()


def test_few_or_unequal_images_are_errors_with_advice(rig):
    empty = np.zeros((480, 640, 3), np.uint8)
    with pytest.raises(CalibrationError, match="0 of 3 images"):
        calibrate_lens([empty] * 3, rig.detector)
    with pytest.raises(CalibrationError, match="sizes"):
        calibrate_lens([empty, empty[:100]], rig.detector)


def test_poor_images_are_followed_by_advice(rig, poses):
    blurred = [cv2.GaussianBlur(rig.shoot("wrist", joints), (0, 0), 0.7) for joints in poses]
    rng = np.random.default_rng(0)
    shaken = [np.roll(image, rng.integers(-3, 4, 2), (0, 1)) for image in blurred]
    advice = lens_advice(calibrate_lens(shaken, rig.detector))
    assert isinstance(advice, list)
