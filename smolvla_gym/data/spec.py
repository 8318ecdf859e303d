"""Format of the frames of a dataset: the arm's components, their units, the cameras and the frame rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from smolvla_gym.data.info import IMAGES, DatasetInfo
from smolvla_gym.errors import DatasetError
from smolvla_gym.parol6 import ACTION_NAMES, NUM_JOINTS
from smolvla_gym.utils.untrusted import printable

ROBOT_TYPE: Final = "parol6"

UNITS: Final = ("rad",) * NUM_JOINTS + ("opening 0..1",)
"""Units of the components of ``observation.state`` and ``action``."""

STATE: Final = "observation.state"
ACTION: Final = "action"

_CHANNELS: Final = ("height", "width", "channels")


@dataclass(frozen=True)
class DatasetSpec:
    """Format that all frames of a dataset have.

    Attributes:
        fps: Frame rate, which is the control rate of the env, in Hz.
        cameras: Names of the cameras.
        image_size: Height and width of the images in px.
        gripper: The gripper that was mounted.
    """

    fps: int
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    gripper: str

    @classmethod
    def of(cls, env: Any) -> DatasetSpec:
        """Return the format of the frames that an env gives.

        Raises:
            DatasetError: The env has no camera, or its control rate is not a whole number of Hz.
        """
        bare = env.unwrapped
        pixels = bare.observation_space.spaces.get("pixels")
        if pixels is None:
            raise DatasetError(
                "A dataset needs images, and this env has no camera: make the env with cameras=('wrist',)."
            )
        hz = float(bare.control_hz)
        if not hz.is_integer():
            raise DatasetError(
                f"The frame rate of a dataset is a whole number, and this env has control_hz={hz:g}. Choose a whole "
                "number."
            )
        cameras = tuple(pixels.spaces)
        height, width, _ = pixels[cameras[0]].shape
        return cls(int(hz), cameras, (height, width), bare.gripper.name)

    def features(self) -> dict[str, dict[str, Any]]:
        """Return the features as LeRobot expects them, with the units beside the names."""
        vector = {"dtype": "float32", "shape": (len(ACTION_NAMES),), "names": list(ACTION_NAMES), "units": list(UNITS)}
        image = {"dtype": "video", "shape": (*self.image_size, 3), "names": list(_CHANNELS)}
        return {
            STATE: dict(vector),
            ACTION: dict(vector),
            **{f"{IMAGES}{camera}": dict(image) for camera in self.cameras},
        }

    def differences(self, info: DatasetInfo, gripper: str | None) -> list[str]:
        """Return the differences between a dataset and this format.

        Args:
            info: The dataset.
            gripper: The gripper with which the dataset was recorded; None: unknown.

        Returns:
            A sentence part for each difference, such as ``"fps is 15, here 30"``.
        """
        found = arm_differences(info)

        def compare(name: str, there: object, here: object) -> None:
            if there != here:
                found.append(f"{name} is {printable(there)}, here {here}")

        compare("fps", info.fps, self.fps)
        if gripper is not None:
            compare("gripper", gripper, self.gripper)
        compare("cameras", sorted(info.cameras), sorted(self.cameras))
        for name in info.features.keys() & {STATE, ACTION}:
            if info.features[name].units is None:
                found.append(f"units of {name} are unknown")
        for name, own in self.features().items():
            feature = info.features.get(name)
            if feature is not None:
                compare(f"dtype of {name}", feature.dtype, own["dtype"])
                if feature.is_camera:
                    compare(f"shape of {name}", list(feature.shape), list(own["shape"]))
        return found


def arm_differences(info: DatasetInfo) -> list[str]:
    """Return the differences of a dataset's robot, components and units from those of this arm.

    Returns:
        A sentence part for each difference, such as ``"action has shape [6], not [7]"``. Unknown units are none.
    """
    found = []
    if info.robot_type != ROBOT_TYPE:
        found.append(f"robot_type is {info.robot_type!r:.60}, not {ROBOT_TYPE!r}")
    for name in (STATE, ACTION):
        feature = info.features.get(name)
        if feature is None:
            found.append(f"{name} is missing")
            continue
        if feature.shape != (len(ACTION_NAMES),):
            found.append(f"{name} has shape {list(feature.shape)}, not [{len(ACTION_NAMES)}]")
        if feature.names != ACTION_NAMES:
            found.append(f"names of {name} are {printable(feature.names)}, not {list(ACTION_NAMES)}")
        if feature.units not in (None, UNITS):
            found.append(f"units of {name} are {printable(feature.units)}, not {list(UNITS)}")
    return found
