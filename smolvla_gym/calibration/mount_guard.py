"""Guard of the camera mounts: at the start of a program the images are compared with those of the calibration.

A camera that was knocked, another one in its place and two exchanged ones look alike to a policy, which then reaches
beside its objects. The guard measures where the camera sees its mark: the wrist camera its own gripper, any other one
the base of the arm. Both are in the image whatever lies on the table. It moves nothing: the images that are kept and
those of the start are of the same pose, the one in which episodes begin.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from smolvla_gym.calibration.image_shift import measure_shift
from smolvla_gym.calibration.mount_check import MIN_MATCH, MountCheck, compare, exchanged_message, limit_of
from smolvla_gym.calibration.mount_mask import DrawnMark, draw_mark
from smolvla_gym.calibration.mount_reference import MountReference, load_reference
from smolvla_gym.drivers.cameras.whole_image import WholeImage
from smolvla_gym.errors import CalibrationError
from smolvla_gym.parol6 import Array, Gripper
from smolvla_gym.parol6.calibration import FILE_NAME, BoardSpec, Calibration, CameraPose, load_calibration

_EXCHANGED: Final = 0.5
"""Gain in correlation with the drawings of two marks at which their cameras must be exchanged."""


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
        self._env = getattr(env, "unwrapped", env)
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


def keep_references(
    env: Any, folder: str | os.PathLike[str] | None = None, calibration: str | os.PathLike[str] | None = None
) -> list[MountReference]:
    """Keep the present images of all cameras of a real arm or twin. Call it after a reset, before the first step.

    Args:
        env: The environment, in the pose in which episodes begin.
        folder: The folder of the images; None: the default one.
        calibration: A calibration; where it has the pose of a camera, the mask is drawn for this pose, otherwise for
            that of the model. None: ``calibration.json`` in the folder, if there is one.

    Returns:
        What was kept.

    Raises:
        CalibrationError: There is no camera, a camera does not see its mark, two are exchanged, or the calibration is
            broken. Nothing was written.
        DeviceError: A camera sent no image.
        RecordingError: A file could not be written.
    """
    env = env.unwrapped
    if not _cameras(env):
        raise CalibrationError("The mount guard needs a real arm or the twin, with cameras.")
    backend, gripper = env.backend, env.gripper
    where = default_folder(twin=hasattr(backend, "twin")) if folder is None else Path(folder)
    state, images, again = backend.link.state(), backend.whole_images(), backend.whole_images()
    known = _calibration(where) if calibration is None else load_calibration(calibration)
    drawn = {
        name: draw_mark(
            name, image.view, gripper, state.joints, state.opening, _measured_pose(known, name, image.serial)
        )
        for name, image in images.items()
    }
    _refuse_exchanged(drawn, images)
    kept = []
    for name, image in images.items():
        reference = make_reference(name, image, state.joints, state.opening, gripper, drawn[name])
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


def _refuse_exchanged(drawn: Mapping[str, DrawnMark], images: Mapping[str, WholeImage]) -> None:
    """Refuse cameras each of which shows what the model draws for the other one.

    Raises:
        CalibrationError: Two cameras are exchanged.
    """
    for one, two in itertools.combinations(drawn, 2):
        if images[one].pixels.shape != images[two].pixels.shape:
            continue
        own, other = (
            sum(measure_shift(drawn[a].image, images[b].pixels, drawn[a].mask).match for a, b in pairs)
            for pairs in (((one, one), (two, two)), ((one, two), (two, one)))
        )
        if other > own + _EXCHANGED:
            raise CalibrationError(exchanged_message(one, two))


def make_reference(
    camera: str, image: WholeImage, joints: Array, opening: float, gripper: Gripper, drawn: DrawnMark
) -> MountReference:
    """Return the image of a camera with the mask of its mark.

    Args:
        camera: Name of the camera.
        image: The image.
        joints: Joint angles in rad at which it was taken, shape (6,).
        opening: Opening of the gripper, 0..1.
        gripper: The gripper that is mounted.
        drawn: Its mark, as the model draws it.
    """
    created = datetime.now().astimezone().isoformat(timespec="seconds")
    return MountReference(
        camera, image.serial, created, gripper.name, np.array(joints, dtype=np.float64), float(opening), image.view,
        drawn.mark, drawn.distance, image.pixels, drawn.mask,
    )  # fmt: skip


def _cameras(env: Any) -> tuple[str, ...]:
    """Return the names of the cameras of a real arm or twin; none in the simulation."""
    if not hasattr(getattr(env, "backend", None), "whole_images"):
        return ()
    pixels = env.observation_space.spaces.get("pixels")
    return () if pixels is None else tuple(pixels.spaces)


def _calibration(folder: Path) -> Calibration | None:
    """Return the calibration beside the images, if there is one."""
    return load_calibration(folder / FILE_NAME) if (folder / FILE_NAME).exists() else None


def _measured_pose(calibration: Calibration | None, camera: str, serial: str) -> CameraPose | None:
    found = None if calibration is None else calibration.cameras.get(camera)
    return found.pose if found is not None and found.serial == serial else None
