"""Guard of the camera mounts: at the start of a program the images are compared with those of the calibration.

A camera that was knocked, another one in its place and two exchanged ones look alike to a policy, which then reaches
beside its objects. The guard measures where the camera sees its mark: the wrist camera its own gripper, any other one
the base of the arm. Both are in the image whatever lies on the table. It moves nothing: the images that are kept and
those of the start are of the same pose, the one in which episodes begin.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np

from smolvla_gym.calibration.image_shift import WIDTH, ImageShift, measure_shift
from smolvla_gym.calibration.mount_board import BoardMotion, board_motion
from smolvla_gym.calibration.mount_mask import WRIST, draw_mask
from smolvla_gym.calibration.mount_reference import MountReference, load_reference
from smolvla_gym.drivers.cameras.whole_image import WholeImage
from smolvla_gym.errors import CalibrationError, MissingExtraError
from smolvla_gym.parol6 import Array, Gripper
from smolvla_gym.parol6.calibration import FILE_NAME, BoardSpec, Calibration, CameraPose, load_calibration

WRIST_LIMIT: Final = 1.0
SCENE_LIMIT: Final = 0.35
"""Shift in px of an image 640 px wide from which on a camera has moved.

Of 100 unmoved cameras each, under other light, the largest shift was 0.18 and 0.19 px.
"""

MIN_MATCH: Final = 0.6
"""Correlation below which the mark is not recognised. Unmoved cameras had 0.87 and more."""

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


def default_folder(*, twin: bool = False) -> Path:
    """Return the folder of the images: in the user's folder for data of programs; the twin has one of its own.

    Raises:
        CalibrationError: The user has no home folder.
    """
    data = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data):  # the specification of these folders: other paths are ignored
        try:
            data = str(Path.home() / ".local" / "share")
        except RuntimeError:
            raise CalibrationError("There is no home folder: name a folder, or set XDG_DATA_HOME.") from None
    folder = Path(data, "smolvla_gym", "calibration")
    return folder / "twin" if twin else folder


class MountGuard:
    """Guard of the cameras of an environment, of which images are kept.

    Attributes:
        references: The images that are kept, by camera; empty in the simulation.
    """

    def __init__(self, env: Any, folder: str | os.PathLike[str] | None = None) -> None:
        """Read the images of the cameras that the environment observes.

        Args:
            env: The environment.
            folder: The folder of the images; None: the default one.

        Raises:
            CalibrationError: A file is broken.
        """
        self._env = env.unwrapped
        self.references: dict[str, MountReference] = {}
        cameras = _cameras(self._env)
        if not cameras:
            return
        where = default_folder(twin=hasattr(self._env.backend, "twin")) if folder is None else Path(folder)
        for name in cameras:
            if (reference := load_reference(where, name)) is not None:
                self.references[name] = reference
        calibration = _calibration(where) if self.references else None
        self._board = BoardSpec() if calibration is None else calibration.board

    def check(self) -> list[MountCheck]:
        """Compare the cameras with their images. Call it after a reset, before the first step.

        Returns:
            A result for each camera of which an image is kept.

        Raises:
            DeviceError: A camera sent no image.
        """
        if not self.references:
            return []
        backend = self._env.backend
        state, images = backend.link.state(), backend.whole_images()
        return [
            compare(
                reference,
                images[name],
                state.joints,
                state.opening,
                self._env.gripper.name,
                self.references,
                self._board,
            )
            for name, reference in self.references.items()
            if name in images
        ]


def keep_references(env: Any, folder: str | os.PathLike[str] | None = None) -> list[MountReference]:
    """Keep the present images of all cameras of a real arm or twin. Call it after a reset, before the first step.

    Where ``calibration.json`` in the same folder has the pose of a camera, its mask is drawn for this pose.

    Args:
        env: The environment, in the pose in which episodes begin.
        folder: The folder of the images; None: the default one.

    Returns:
        What was kept.

    Raises:
        CalibrationError: There is no camera, a camera does not see its mark, or the calibration is broken. Nothing was
            written.
        DeviceError: A camera sent no image.
        RecordingError: A file could not be written.
    """
    env = env.unwrapped
    if not _cameras(env):
        raise CalibrationError("The mount guard needs a real arm or the twin, with cameras.")
    backend, gripper = env.backend, env.gripper
    where = default_folder(twin=hasattr(backend, "twin")) if folder is None else Path(folder)
    state, images, again = backend.link.state(), backend.whole_images(), backend.whole_images()
    kept, calibration = [], _calibration(where)
    for name, image in images.items():
        pose = _measured_pose(calibration, name, image.serial)
        reference = make_reference(name, image, state.joints, state.opening, gripper, pose)
        seen = measure_shift(image.pixels, again[name].pixels, reference.mask)
        if seen.match < MIN_MATCH or seen.rms > limit_of(reference) / 2:
            raise CalibrationError(
                f"The camera {name!r} shows its mark too faintly: two images that followed each other differ by "
                f"{seen.rms:.2f} px and correlate by {seen.match:.2f}. Give it more light, and clear its view."
            )
        kept.append(reference)
    for reference in kept:
        reference.save(where)
    return kept


def make_reference(
    camera: str, image: WholeImage, joints: Array, opening: float, gripper: Gripper, pose: CameraPose | None = None
) -> MountReference:
    """Return the image of a camera with the mask of its mark.

    Args:
        camera: Name of the camera.
        image: The image.
        joints: Joint angles in rad at which it was taken, shape (6,).
        opening: Opening of the gripper, 0..1.
        gripper: The gripper that is mounted.
        pose: Measured pose of the camera; None: that of the model.

    Raises:
        CalibrationError: The camera does not see its mark.
    """
    joints = np.array(joints, dtype=np.float64)
    mask, distance = draw_mask(camera, image.view, gripper, joints, opening, pose)
    created = datetime.now().astimezone().isoformat(timespec="seconds")
    return MountReference(
        camera, image.serial, created, gripper.name, joints, float(opening), image.view, distance, image.pixels, mask
    )


def limit_of(reference: MountReference) -> float:
    """Return the shift in px from which on a camera has moved."""
    limit = WRIST_LIMIT if reference.camera == WRIST else SCENE_LIMIT
    return limit * max(1.0, reference.view.width / WIDTH)


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
                return result(Verdict.EXCHANGED, _exchanged(name, other.camera))
        message = (
            f"{about} has the serial number {image.serial or 'none'}, and its image of {reference.created} is of "
            f"{reference.serial or 'none'}: another camera is in its place. {_ADVICE}"
        )
        return result(Verdict.OTHER_CAMERA, message)
    if (reason := _not_comparable(reference, image, joints, opening, gripper)) is not None:
        return result(Verdict.NOT_COMPARED, f"{about} was not compared with its image of {reference.created}: {reason}")
    shift = measure_shift(reference.image, image.pixels, reference.mask)
    limit, mark = limit_of(reference), "gripper" if name == WRIST else "base of the arm"
    if shift.match < MIN_MATCH:
        for other in others.values():
            if other.camera != name and _shows(other, image):
                return result(Verdict.EXCHANGED, _exchanged(name, other.camera), shift)
        message = (
            f"{about} does not show the {mark} as in its image of {reference.created} (correlation {shift.match:.2f}, "
            f"at least {MIN_MATCH:g}): it has moved far, or something covers its view or its mark. {_ADVICE}"
        )
        return result(Verdict.NOT_RECOGNISED, message, shift)
    if shift.rms <= limit:
        return result(Verdict.IN_PLACE, f"{about} is in place: {shift.rms:.2f} px (limit {limit:g})", shift)
    turned = math.degrees(shift.rms / reference.view.fx)
    motion, told = (None, "") if board is None else _ask_board(reference, image, board)
    message = (
        f"{about} has moved since {reference.created}: it sees the {mark} {shift.rms:.1f} px away from where it was "
        f"(limit {limit:g}), as after {1e3 * math.radians(turned) * reference.distance:.1f} mm or {turned:.2f} deg "
        f"({_directions(shift)}). {told}{_ADVICE}"
    )
    return MountCheck(name, Verdict.MOVED, message, shift, motion)


def _ask_board(reference: MountReference, image: WholeImage, board: BoardSpec) -> tuple[BoardMotion | None, str]:
    """Return the motion of a camera by the board, and a sentence about it that ends with a blank."""
    try:
        motion = board_motion(reference.image, image.pixels, reference.view, board, on_arm=reference.camera == WRIST)
    except MissingExtraError as error:
        return None, f"A board in view would confirm it with the packages of the extra {error.extra!r}. "
    if motion is None:
        return None, ""
    says = "confirms it" if motion.confirms else "shows no more than a camera in place can"
    by = f"{motion.moved_mm:.1f} mm and {motion.turned_deg:.2f} deg"
    return motion, f"The board, if it lies where it lay, {says}: {by}. "


def _cameras(env: Any) -> tuple[str, ...]:
    """Return the names of the cameras of a real arm or twin; none in the simulation."""
    pixels = env.observation_space.spaces.get("pixels")
    return () if pixels is None or not hasattr(env.backend, "whole_images") else tuple(pixels.spaces)


def _calibration(folder: Path) -> Calibration | None:
    """Return the calibration beside the images, if there is one."""
    return load_calibration(folder / FILE_NAME) if (folder / FILE_NAME).exists() else None


def _measured_pose(calibration: Calibration | None, camera: str, serial: str) -> CameraPose | None:
    found = None if calibration is None else calibration.cameras.get(camera)
    return found.pose if found is not None and found.serial == serial else None


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


def _exchanged(name: str, other: str) -> str:
    return (
        f"The cameras {name!r} and {other!r} are exchanged: {name!r} now shows what {other!r} showed. Exchange their "
        f"serial numbers or devices, as in --camera {name}=SERIAL."
    )


def _directions(shift: ImageShift) -> str:
    """Return the direction of a shift in words."""
    parts = [
        f"{abs(value):.1f} px {words[value > 0.0]}"
        for value, words in ((shift.right, ("left", "right")), (shift.down, ("up", "down")))
    ]
    return f"{', '.join(parts)}, turned by {shift.roll:.2f} deg"
