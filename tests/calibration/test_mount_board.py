"""The board confirms what the mark shows."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from smolvla_gym.calibration.mount_check import Verdict, compare
from smolvla_gym.parol6.calibration import BoardSpec
from tests.calibration.mount_rig import GRIPPER, POSE, VIEWS, Mounts, direction

BOARD = BoardSpec()

NEAR = {"wrist": (2.0, 0.6), "scene": (1.6, 0.16)}
"""How near in mm and deg the motion is measured; the wrist moves by the homing, too."""


@pytest.fixture(scope="module")
def mounts():
    pytest.importorskip("cv2")
    pytest.importorskip("scipy")
    from smolvla_gym.calibration.virtual import board_plate

    made = Mounts(plate=board_plate(BOARD))
    yield made
    made.close()


def check(mounts, reference, rng, **change):
    image = mounts.image(reference.camera, rng, **change)
    return compare(reference, image, POSE, 1.0, GRIPPER.name, None, BOARD)


@pytest.mark.parametrize("camera", VIEWS)
def test_the_board_measures_the_motion(mounts, camera):
    from smolvla_gym.calibration.mount_board import board_motion

    rng = np.random.default_rng(7)
    reference = mounts.reference(camera, rng)

    def motion(**change):
        pixels = mounts.image(camera, rng, **change).pixels
        return board_motion(reference.image, pixels, VIEWS[camera], BOARD, on_arm=camera == "wrist")

    near_mm, near_deg = NEAR[camera]
    still = [motion() for _ in range(20)]
    print(camera, sorted(each.moved_mm for each in still)[-3:], sorted(each.turned_deg for each in still)[-3:])
    assert sum(each.confirms for each in still) <= 1
    for _ in range(5):
        shifted, turned = motion(shift=1e-3 * direction(rng, 4.0)), motion(turn=direction(rng, 1.2))
        assert shifted.moved_mm == pytest.approx(4.0, abs=near_mm)
        assert turned.turned_deg == pytest.approx(1.2, abs=near_deg)
        assert shifted.confirms
        assert turned.confirms


@pytest.mark.parametrize("camera", VIEWS)
def test_a_warning_says_what_the_board_says(mounts, camera):
    rng = np.random.default_rng(8)
    reference = mounts.reference(camera, rng)
    assert check(mounts, reference, rng).board is None, "of a camera in place it is not asked"
    moved = check(mounts, reference, rng, turn=(1.5, 0.0, 0.0))
    assert moved.verdict is Verdict.MOVED
    assert moved.board.turned_deg == pytest.approx(1.5, abs=NEAR[camera][1])
    assert "confirms" in moved.message
    blank = replace(reference, image=np.where(reference.mask[..., None], reference.image, np.uint8(128)))
    unseen = check(mounts, blank, rng, turn=(1.5, 0.0, 0.0))
    assert unseen.verdict is not Verdict.IN_PLACE
    assert unseen.board is None


def test_without_opencv_the_warning_names_the_extra(mounts, monkeypatch):
    rng = np.random.default_rng(9)
    reference = mounts.reference("scene", rng)
    monkeypatch.setitem(sys.modules, "cv2", None)
    moved = check(mounts, reference, rng, turn=(1.0, 0.0, 0.0))
    assert moved.verdict is Verdict.MOVED
    assert moved.board is None
    assert "'calibration'" in moved.message
