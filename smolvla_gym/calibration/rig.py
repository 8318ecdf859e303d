"""The arm and its cameras during a calibration: slow drives through the safety gate, and whole images."""

from __future__ import annotations

import threading
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.calibration.session import SessionCamera
from smolvla_gym.errors import CalibrationError, DeviceError, FaultError
from smolvla_gym.parol6 import Array
from smolvla_gym.parol6.calibration import CameraIntrinsics
from smolvla_gym.safety.route import BlockedError, find_route

_STANDS: Final = 0.005
"""Largest distance of a joint from its target in rad of an arm that has arrived."""

_SETTLE: Final = 0.5
"""Time in s for which the arm rests before an image."""

_IMAGE_TIMEOUT: Final = 5.0
"""Longest time in s for two new images of a camera."""

_LONGEST: Final = 15.0  # s at full speed


class Rig:
    """The arm and its cameras.

    Attributes:
        opening: Opening of the gripper in all poses, 0..1.
    """

    def __init__(self, env: Any, speed_scale: float = 1.0) -> None:
        """Keep an environment of the real arm or of its twin; it is not closed here.

        Args:
            env: The environment, which observes the cameras.
            speed_scale: Share of the speed limits that the arm uses.
        """
        self._env = env.unwrapped
        self._backend = self._env.backend
        self._speed_scale = speed_scale
        self._stop = threading.Event()
        self.opening: float = 1.0

    @property
    def guard(self) -> Any:
        """Check of poses that must not be commanded."""
        return self._backend.approach.guard

    @property
    def joints(self) -> Array:
        """Commanded joint angles in rad, shape (6,)."""
        return np.array(self._backend.commanded)

    def start(self) -> bool:
        """Home the arm if it needs that, and drive it to its start pose.

        Returns:
            Whether the arm was homed.

        Raises:
            NotHomedError: The arm has to be homed, and no option allows it.
            FaultError: A fault holds the arm.
        """
        homed = bool(self._backend.link.state().homed)
        self._env.reset(seed=0)
        if (twin := getattr(self._backend, "twin", None)) is not None:
            twin.lay(lambda: None)  # no objects on the board
        for camera in self._backend._cameras.values():
            camera.framing = None  # the whole image
        return not homed

    def cameras(self) -> dict[str, SessionCamera]:
        """Return serial number and intrinsics of each camera by name."""
        found = {}
        for name, camera in self._backend._cameras.items():
            view = camera.intrinsics
            serial = str(getattr(getattr(camera, "info", None), "serial", "")) or name
            intrinsics = CameraIntrinsics(view.width, view.height, view.fx, view.fy, view.ppx, view.ppy)
            found[name] = SessionCamera(serial, intrinsics)
        return found

    def stop(self) -> None:
        """Stop the arm; may be called from any thread."""
        self._stop.set()
        self._env.stop()

    def go(self, joints: Array) -> None:
        """Drive to a pose through the safety gate, along a route that was checked, and wait until the arm rests there.

        Args:
            joints: Joint angles in rad, shape (6,).

        Raises:
            CalibrationError: Each route is blocked, or the operator stopped the arm.
            FaultError: A fault came up.
        """
        self._refuse_stop()
        # While images were computed no setpoints came, which disables the arm.
        self._backend._refuse_fault()
        self._backend._wake(None)
        try:
            route = find_route(
                self.joints, self.opening, joints, self.opening, self.guard, speed_scale=self._speed_scale
            )
        except BlockedError as error:
            raise CalibrationError(f"No route to the next pose: the safety gate keeps {error} apart.") from None
        for pose in route:
            self._drive(pose)
        self._hold(joints, _SETTLE)

    def shoot(self) -> tuple[Array, dict[str, NDArray[np.uint8]]]:
        """Take an image with each camera while the arm rests.

        Returns:
            Reported joint angles in rad, shape (6,), and the images by name, shape (H, W, 3).

        Raises:
            FaultError: A fault came up.
            DeviceError: A camera sends no images.
        """
        images = self._new_images() if self._backend.realtime else self._rendered_images()
        return np.array(self._backend.link.state().joints), images

    def _rendered_images(self) -> dict[str, NDArray[np.uint8]]:
        """Return the images of the twin in lockstep, which are taken in a step."""
        self._refuse_stop()
        observation, _, _, _, info = self._env.step(np.append(self.joints, self.opening))
        if info["fault"] is not None:
            self._refuse_stop()
            raise FaultError(f"The fault {info['fault']!r} holds the arm.")
        return dict(observation["pixels"])

    def _new_images(self) -> dict[str, NDArray[np.uint8]]:
        """Return an image of each camera whose exposure began after this moment; the next one may have begun before."""
        cameras, joints, clock = self._backend._cameras, self.joints, self._backend.clock
        wanted = {
            name: 2 + (-1 if (frame := camera.latest()) is None else frame.number) for name, camera in cameras.items()
        }
        end = clock.now() + _IMAGE_TIMEOUT
        images: dict[str, NDArray[np.uint8]] = {}
        while len(images) < len(cameras):
            self._hold(joints, 1.0 / 30.0)
            for name, camera in cameras.items():
                frame = camera.latest()
                if name not in images and frame is not None and frame.number >= wanted[name]:
                    images[name] = frame.pixels.copy()
            if clock.now() > end:
                missing = ", ".join(name for name in cameras if name not in images)
                raise DeviceError(
                    f"No new image came from {missing} for {_IMAGE_TIMEOUT:g} s: check the cable of the camera."
                )
        return images

    def _drive(self, joints: Array) -> None:
        clock, link = self._backend.clock, self._backend.link
        end = clock.now() + _LONGEST / self._speed_scale
        while True:
            self._hold(joints, 1.0 / 30.0)
            state = link.state()
            if state.at_rest and float(np.abs(state.joints - joints).max()) < _STANDS:
                return
            if clock.now() > end:
                link.finish()
                raise FaultError("The arm did not arrive at a pose: the safety gate or an obstacle stopped it.")

    def _hold(self, joints: Array, seconds: float) -> None:
        """Send a target for a time."""
        clock, link = self._backend.clock, self._backend.link
        end = clock.now() + seconds
        while clock.now() < end - 1e-6:
            self._refuse_stop()
            try:
                link.aim(np.append(joints, self.opening))
            except FaultError:
                self._refuse_stop()
                raise
            clock.sleep_until(min(clock.now() + 1.0 / 30.0, end))
            state = link.state()
            if state.fault is not None:
                self._refuse_stop()
                raise FaultError(f"The fault {state.fault!r} holds the arm: {state.detail}")

    def _refuse_stop(self) -> None:
        if self._stop.is_set():
            raise CalibrationError("The operator stopped the arm. The same command goes on where it ended.")
