"""What the frames of a dataset are: the arm's dimensions, their units, the cameras and the rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from smolvla_gym.data.info import IMAGES, DatasetInfo
from smolvla_gym.errors import DatasetError
from smolvla_gym.parol6 import ACTION_NAMES, NUM_JOINTS
from smolvla_gym.utils.untrusted import printable

ROBOT_TYPE: Final = "parol6"

UNITS: Final = ("rad",) * NUM_JOINTS + ("opening 0..1",)
"""Of the components of ``observation.state`` and ``action``."""

STATE: Final = "observation.state"
ACTION: Final = "action"

_CHANNELS: Final = ("height", "width", "channels")


@dataclass(frozen=True)
class DatasetSpec:
    """What all frames of a dataset have in common.

    Attributes:
        fps: Frames a second: the control rate of the env in Hz.
        cameras: Names of the cameras.
        image_size: Height and width of their pictures in px.
        gripper: The gripper that was mounted.
    """

    fps: int
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    gripper: str

    @classmethod
    def of(cls, env: Any) -> DatasetSpec:
        """Returns that of an env.

        Raises:
            DatasetError: The env has no camera, or a rate that is no whole number of Hz.
        """
        bare = env.unwrapped
        pixels = bare.observation_space.spaces.get("pixels")
        if pixels is None:
            raise DatasetError("A dataset needs pictures, and this env has no camera: make it with cameras=('wrist',).")
        hz = float(bare.control_hz)
        if not hz.is_integer():
            raise DatasetError(f"A dataset has a whole number of frames a second, and this env has control_hz={hz:g}.")
        cameras = tuple(pixels.spaces)
        height, width, _ = pixels[cameras[0]].shape
        return cls(int(hz), cameras, (height, width), bare.gripper.name)

    def features(self) -> dict[str, dict[str, Any]]:
        """Returns the features as LeRobot wants them, with the units beside the names."""
        vector = {"dtype": "float32", "shape": (len(ACTION_NAMES),), "names": list(ACTION_NAMES), "units": list(UNITS)}
        picture = {"dtype": "video", "shape": (*self.image_size, 3), "names": list(_CHANNELS)}
        return {
            STATE: dict(vector),
            ACTION: dict(vector),
            **{f"{IMAGES}{camera}": dict(picture) for camera in self.cameras},
        }

    def differences(self, info: DatasetInfo, gripper: str | None) -> list[str]:
        """Tell in what a dataset differs from this.

        Args:
            info: Its ``meta/info.json``.
            gripper: The gripper that it was recorded with; None: unknown.

        Returns:
            A phrase for each difference, such as ``"fps is 15, here 30"``.
        """
        found = []

        def compare(what: str, theirs: object, ours: object) -> None:
            if theirs != ours:
                found.append(f"{what} is {printable(theirs)}, here {ours}")

        compare("robot_type", info.robot_type, ROBOT_TYPE)
        compare("fps", info.fps, self.fps)
        if gripper is not None:
            compare("gripper", gripper, self.gripper)
        compare("cameras", sorted(info.cameras), sorted(self.cameras))
        for name, ours in self.features().items():
            theirs = info.features.get(name)
            if theirs is None:
                if not name.startswith(IMAGES):
                    found.append(f"{name} is missing")
                continue
            compare(f"dtype of {name}", theirs.dtype, ours["dtype"])
            compare(f"shape of {name}", list(theirs.shape), list(ours["shape"]))
            if not name.startswith(IMAGES):
                compare(f"names of {name}", _plain(theirs.names), list(ours["names"]))
                compare(f"units of {name}", _plain(theirs.units), list(ours["units"]))
        return found


def _plain(value: Sequence[str] | None) -> list[str] | None:
    return None if value is None else list(value)
