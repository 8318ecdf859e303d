"""Motion of a camera by the board, where its kept and its present image show one: the mark's shift, confirmed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from smolvla_gym.calibration.board import load_cv2
from smolvla_gym.calibration.detection import MIN_CORNERS, BoardDetector, Corners
from smolvla_gym.calibration.image_shift import Pixels
from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.parol6.calibration import BoardSpec, CameraIntrinsics

_SURE_ON_ARM: Final = (2.0, 0.6)
_SURE: Final = (1.6, 0.16)
"""Motion in mm and deg that the board shows of a camera in place at most, on rendered images.

Of a camera on the arm most of it is homing, which differs by up to 0.2 deg in each joint.
"""

_OUTLIER: Final = 0.7  # px


@dataclass(frozen=True)
class BoardMotion:
    """Motion of a camera against a board that lies where it lay.

    Attributes:
        moved_mm: How far it has moved in mm.
        turned_deg: How far it has turned in deg.
        confirms: Whether that is more than a camera in place can show.
    """

    moved_mm: float
    turned_deg: float
    confirms: bool


def board_motion(
    reference: Pixels, now: Pixels, view: Intrinsics, board: BoardSpec, *, on_arm: bool
) -> BoardMotion | None:
    """Return the motion of a camera between two images; None where one of them does not show the board.

    Args:
        reference: The earlier image, shape (H, W, 3).
        now: The later one.
        view: Pinhole model of both.
        board: The board.
        on_arm: Whether the camera is on the arm, so that homing has moved it too.

    Raises:
        MissingExtraError: The packages of the extra ``calibration`` are not installed.
    """
    cv2, detector = load_cv2(), BoardDetector(board)
    intrinsics = CameraIntrinsics(view.width, view.height, view.fx, view.fy, view.ppx, view.ppy)
    found = [detector.detect(image) for image in (reference, now)]
    before, after = found
    if before is None or after is None:
        return None
    ids, first, second = np.intersect1d(before.ids, after.ids, return_indices=True)
    if len(ids) < MIN_CORNERS:
        return None
    pixels = before.pixels[first], after.pixels[second]
    # Two views of a plane differ by a homography; a corner that does not was found at another edge.
    _, fits = cv2.findHomography(*pixels, cv2.RANSAC, _OUTLIER)
    good = np.ravel(fits).astype(bool) if fits is not None else np.zeros(len(ids), bool)
    if np.count_nonzero(good) < MIN_CORNERS:
        return None
    poses = [detector.pose(Corners(ids[good], places[good]), intrinsics) for places in pixels]
    between = poses[0] @ np.linalg.inv(poses[1])
    cosine = min(max((float(np.trace(between[:3, :3])) - 1.0) / 2.0, -1.0), 1.0)
    moved, turned = 1e3 * float(np.linalg.norm(between[:3, 3])), math.degrees(math.acos(cosine))
    sure_mm, sure_deg = _SURE_ON_ARM if on_arm else _SURE
    return BoardMotion(moved, turned, moved > sure_mm or turned > sure_deg)
