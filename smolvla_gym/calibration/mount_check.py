"""Comparison of a camera's image with the one that was kept of it, and the verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from smolvla_gym.calibration.image_shift import WIDTH, ImageShift, measure_shift
from smolvla_gym.calibration.mount_board import BoardMotion, board_motion
from smolvla_gym.calibration.mount_mask import Mark
from smolvla_gym.calibration.mount_reference import MountReference
from smolvla_gym.drivers.cameras.whole_image import WholeImage
from smolvla_gym.errors import MissingExtraError
from smolvla_gym.parol6 import Array
from smolvla_gym.parol6.calibration import BoardSpec

LIMITS: Final[dict[Mark, float]] = {"gripper": 1.0, "base": 0.35}
"""Shift of each mark in px of an image 640 px wide from which on a camera has moved.

Of 100 unmoved cameras each, on another day, the largest shift was 0.23 and 0.28 px.
"""

MIN_MATCH: Final = 0.6
"""Correlation below which the mark is not recognised. Unmoved cameras had 0.84 and more."""

_SAME_POSE: Final = math.radians(1.0)
_SAME_OPENING: Final = 0.03
_ADVICE: Final = (
    "Fasten it, calibrate it again and keep its image (`smolvla-gym mount-guard keep`); or go on without the mount "
    "guard (--no-mount-guard, in LeRobot --robot.mount_guard=false)."
)


class Verdict(StrEnum):
    """Result of a comparison."""

    IN_PLACE = "in_place"
    """The camera is where it was."""

    MOVED = "moved"
    """The camera has moved."""

    NOT_RECOGNISED = "not_recognised"
    """The mark is not in the image: the camera has moved far, or something covers it."""

    OTHER_CAMERA = "other_camera"
    """It is another camera, by its serial number."""

    EXCHANGED = "exchanged"
    """It is one of the other cameras of this arm."""

    NOT_COMPARED = "not_compared"
    """The images cannot be compared: of another pose, gripper or size."""


@dataclass(frozen=True)
class MountCheck:
    """Result for one camera.

    Attributes:
        camera: Name of the camera.
        verdict: The result.
        message: What was found, and what to do.
        shift: Shift of the mark; None where no images were compared.
        board: What the board says of a camera that has moved; None where one of the images does not show it.
    """

    camera: str
    verdict: Verdict
    message: str
    shift: ImageShift | None = None
    board: BoardMotion | None = None


def limit_of(reference: MountReference) -> float:
    """Return the shift in px from which on a camera has moved."""
    return LIMITS[reference.mark] * max(1.0, reference.view.width / WIDTH)


def compare(
    reference: MountReference,
    image: WholeImage,
    joints: Array,
    opening: float,
    gripper: str,
    others: Mapping[str, MountReference] | None = None,
    board: BoardSpec | None = None,
) -> MountCheck:
    """Compare the image of a camera with the one that was kept.

    Args:
        reference: The image that was kept.
        image: The present image.
        joints: Present joint angles in rad, shape (6,).
        opening: Present opening of the gripper, 0..1.
        gripper: Name of the gripper that is mounted.
        others: The images of all cameras by name, to find out whether two are exchanged.
        board: The board that may lie in view; None: it is not searched.
    """
    name, others = reference.camera, {} if others is None else others
    about = f"The camera {name!r}"

    def result(verdict: Verdict, message: str, shift: ImageShift | None = None) -> MountCheck:
        return MountCheck(name, verdict, message, shift)

    if image.serial != reference.serial:
        for other in others.values():
            if other.camera != name and other.serial == image.serial:
                return result(Verdict.EXCHANGED, exchanged_message(name, other.camera))
        message = (
            f"{about} has the serial number {image.serial or 'none'}, and its image of {reference.created} is of "
            f"{reference.serial or 'none'}: another camera is in its place. {_ADVICE}"
        )
        return result(Verdict.OTHER_CAMERA, message)
    if (reason := _not_comparable(reference, image, joints, opening, gripper)) is not None:
        return result(Verdict.NOT_COMPARED, f"{about} was not compared with its image of {reference.created}: {reason}")
    shift = measure_shift(reference.image, image.pixels, reference.mask)
    limit, mark = limit_of(reference), reference.mark
    if shift.match < MIN_MATCH:
        for other in others.values():
            if other.camera != name and _shows(other, image):
                return result(Verdict.EXCHANGED, exchanged_message(name, other.camera), shift)
        message = (
            f"{about} does not show the {mark} of the arm as in its image of {reference.created} (correlation "
            f"{shift.match:.2f}, at least {MIN_MATCH:g}): it has moved far, or something covers its view or its mark. "
            f"{_ADVICE}"
        )
        return result(Verdict.NOT_RECOGNISED, message, shift)
    if shift.rms <= limit:
        return result(Verdict.IN_PLACE, f"{about} is in place: {shift.rms:.2f} px (limit {limit:g})", shift)
    angle = shift.rms / reference.view.fx
    by = f"{1e3 * angle * reference.distance:.1f} mm or {math.degrees(angle):.2f} deg"
    motion, told = (None, "") if board is None else _ask_board(reference, image, board)
    message = (
        f"{about} has moved since {reference.created}: it sees the {mark} of the arm {shift.rms:.1f} px away from "
        f"where it was (limit {limit:g}), as after {by} ({_directions(shift)}). {told}{_ADVICE}"
    )
    return MountCheck(name, Verdict.MOVED, message, shift, motion)


def _ask_board(reference: MountReference, image: WholeImage, board: BoardSpec) -> tuple[BoardMotion | None, str]:
    """Return the motion of a camera by the board, and a sentence about it that ends with a blank."""
    try:
        motion = board_motion(reference.image, image.pixels, reference.view, board, on_arm=reference.mark == "gripper")
    except MissingExtraError as error:
        return None, f"A board in view would confirm it with the packages of the extra {error.extra!r}. "
    if motion is None:
        return None, ""
    says = "confirms it" if motion.confirms else "shows no more than a camera in place can"
    by = f"{motion.moved_mm:.1f} mm and {motion.turned_deg:.2f} deg"
    return motion, f"The board, if it lies where it lay, {says}: {by}. "


def _not_comparable(
    reference: MountReference, image: WholeImage, joints: Array, opening: float, gripper: str
) -> str | None:
    """Return why two images cannot be compared, and what to do; None: they can."""
    if gripper != reference.gripper:
        return f"the gripper is {gripper}, and was {reference.gripper}. Keep a new image."
    height, width = image.pixels.shape[:2]
    view = reference.view
    if (width, height) != (view.width, view.height):
        return f"it sends {width}x{height} px, and sent {view.width}x{view.height}. Keep a new image."
    away = np.abs(np.asarray(joints) - reference.joints)
    if away.max() > _SAME_POSE:
        joint = int(away.argmax())
        return (
            f"J{joint + 1} is {math.degrees(away[joint]):.1f} deg from where it was then. Compare in the pose in which "
            "episodes begin, or keep a new image."
        )
    if abs(opening - reference.opening) > _SAME_OPENING:
        return f"the gripper is open by {opening:.2f}, and was by {reference.opening:.2f}. Open it, then start again."
    return None


def _shows(reference: MountReference, image: WholeImage) -> bool:
    """Return whether an image shows what the image of another camera shows."""
    if image.pixels.shape != reference.image.shape:
        return False
    return measure_shift(reference.image, image.pixels, reference.mask).match >= MIN_MATCH


def exchanged_message(name: str, other: str) -> str:
    """Return the message about two cameras that are exchanged."""
    return (
        f"The cameras {name!r} and {other!r} are exchanged: {name!r} shows what {other!r} should show. Exchange their "
        f"serial numbers or devices, as in --camera {name}=SERIAL."
    )


def _directions(shift: ImageShift) -> str:
    """Return the direction of a shift in words."""
    parts = [
        f"{abs(value):.1f} px {words[value > 0.0]}"
        for value, words in ((shift.right, ("left", "right")), (shift.down, ("up", "down")))
    ]
    return f"{', '.join(parts)}, turned by {shift.roll:.2f} deg"
