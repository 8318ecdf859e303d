"""The stream of an open RealSense camera: its settings, its profiles, and frames as arrays."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.cameras.framing import DEPTH_UNIT, Intrinsics
from smolvla_gym.drivers.cameras.librealsense import CameraInfo
from smolvla_gym.errors import DeviceError, OptionError
from smolvla_gym.utils.option_values import check_number, check_pair, check_whole

AUTOMATIC: Final = ("exposure", "gain", "white_balance")
"""Settings that the camera adjusts by itself where they are None."""

_WAIT_MS = 100


@dataclass(frozen=True)
class CameraSettings:
    """Settings of a RealSense camera; they become plain numbers that librealsense takes.

    Attributes:
        resolution: Width and height in px.
        fps: Frames a second.
        depth: Whether to measure distances too.
        exposure: Exposure in the camera's unit, us on a D405 and 100 us on a D435's colour camera, at most a frame
            period; None leaves exposure to the camera, if ``gain`` is None too.
        gain: Gain in the camera's unit; None as for ``exposure``.
        white_balance: Colour temperature in K; None leaves it to the camera.

    Raises:
        OptionError: A value is no number, or no camera could expose for so long in each frame.
    """

    resolution: tuple[int, int] = (640, 480)
    fps: int = 30
    depth: bool = False
    exposure: float | None = None
    gain: float | None = None
    white_balance: float | None = None

    def __post_init__(self) -> None:
        size = "(width, height) in px, two whole numbers from 1 to 10000"
        fps = check_whole("fps", self.fps, "a whole number of frames a second, 1 to 1000", low=1, high=1000)
        checked: dict[str, Any] = {"fps": fps}
        for name in AUTOMATIC:
            if (value := getattr(self, name)) is not None:
                checked[name] = _shortest(check_number(name, value, "a number, or None for automatic"))
        if "exposure" in checked:
            _check_exposure(self.exposure, checked["exposure"], 1, fps)
        checked["resolution"] = check_pair("resolution", self.resolution, size, low=1, high=10_000)
        for name, value in checked.items():
            object.__setattr__(self, name, value)


class Stream:
    """The images of a camera from one start to the next stop.

    Attributes:
        info: Description of the camera.
        intrinsics: The pinhole model of the colour images.
    """

    def __init__(self, rs: ModuleType, context: Any, device: Any, info: CameraInfo, settings: CameraSettings) -> None:
        """Set the camera and start its stream.

        Args:
            rs: librealsense.
            context: The context in which the device was found.
            device: The device.
            info: Its description.
            settings: Its settings.

        Raises:
            OptionError: The camera does not offer the settings.
            RuntimeError: librealsense failed.
        """
        self.info = info
        _check_profiles(rs, device, info, settings)
        _set_options(rs, _colour_sensor(rs, device), info, settings)
        config = rs.config()
        config.enable_device(info.serial)
        config.enable_stream(rs.stream.color, *settings.resolution, rs.format.rgb8, settings.fps)
        if settings.depth:
            config.enable_stream(rs.stream.depth, *settings.resolution, rs.format.z16, settings.fps)
        # The context outlives the pipeline: with it a virtual camera would go.
        self._context, self._pipeline = context, rs.pipeline(context)
        profile = self._pipeline.start(config)
        try:
            colour = profile.get_stream(rs.stream.color).as_video_stream_profile()
            own = colour.get_intrinsics()
            self.intrinsics: Intrinsics = Intrinsics(own.width, own.height, own.fx, own.fy, own.ppx, own.ppy)
            self._depth, self._align, self._to_units = settings.depth, None, None
            if settings.depth:
                self._to_units = _unit_table(device.first_depth_sensor().get_depth_scale())
                depth = profile.get_stream(rs.stream.depth).as_video_stream_profile()
                # Where there is nothing to align, librealsense 2.59 leaves holes.
                self._align = None if _same_view(depth, colour) else rs.align(rs.stream.color)
        except BaseException:
            self.stop()
            raise

    def wait(self) -> Any | None:
        """Return the next set of frames, None if none comes within a moment."""
        arrived, frames = self._pipeline.try_wait_for_frames(_WAIT_MS)
        return frames if arrived else None

    def numbers(self, frames: Any) -> tuple[int, int] | None:
        """Return the numbers of the colour frame and of the depth frame, or None where one of them is missing."""
        colour = frames.get_color_frame()
        depth = frames.get_depth_frame() if self._depth else colour
        return (colour.get_frame_number(), depth.get_frame_number()) if colour and depth else None

    def images(self, frames: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint16] | None]:
        """Return copies of the colour image and of the depth at its pixels."""
        # librealsense has few buffers: frames that are kept and not copied stall the camera.
        pixels = np.array(frames.get_color_frame().get_data(), np.uint8)
        if not self._depth:
            return pixels, None
        if self._align is not None:
            frames = self._align.process(frames)
        depth = np.array(frames.get_depth_frame().get_data(), np.uint16)
        return pixels, depth if self._to_units is None else self._to_units[depth]

    def timestamp(self, frames: Any) -> float:
        """Return the camera's time stamp of the colour frame in s, on the clock that librealsense chose."""
        return float(frames.get_color_frame().get_timestamp()) / 1e3

    def stop(self) -> None:
        """Give the camera back, also one that is not connected any more."""
        with contextlib.suppress(RuntimeError):
            self._pipeline.stop()


def _colour_sensor(rs: ModuleType, device: Any) -> Any:
    # A D405 takes its colour images with its stereo module; other models have a sensor for it.
    for sensor in device.query_sensors():
        if any(profile.stream_type() == rs.stream.color for profile in sensor.get_stream_profiles()):
            return sensor
    raise DeviceError("This RealSense camera has no colour images.")


def _check_profiles(rs: ModuleType, device: Any, info: CameraInfo, settings: CameraSettings) -> None:
    formats = {rs.stream.color: rs.format.rgb8} | ({rs.stream.depth: rs.format.z16} if settings.depth else {})
    offered: dict[Any, set[tuple[int, int, int]]] = {stream: set() for stream in formats}
    for sensor in device.query_sensors():
        for profile in sensor.get_stream_profiles():
            if formats.get(profile.stream_type()) == profile.format():
                video = profile.as_video_stream_profile()
                offered[profile.stream_type()].add((video.width(), video.height(), video.fps()))
    common = set.intersection(*offered.values())
    wanted = (*settings.resolution, settings.fps)
    if wanted not in common:
        choices = ", ".join("{}x{} at {}".format(*choice) for choice in sorted(common)) or "nothing"
        usb = f" by USB {info.usb_type}" if info.usb_type else ""
        raise OptionError("(*resolution, fps)", wanted, f"{info} offers{usb} {choices} frames a second")


def _set_options(rs: ModuleType, sensor: Any, info: CameraInfo, settings: CameraSettings) -> None:
    """Fix the options that are given and leave the rest to the camera, which keeps settings of earlier runs."""
    fixed = settings.exposure is not None or settings.gain is not None
    for option, on in (
        (rs.option.enable_auto_exposure, not fixed),
        (rs.option.enable_auto_white_balance, settings.white_balance is None),
    ):
        if sensor.supports(option):
            sensor.set_option(option, float(on))
    for name in AUTOMATIC:
        value, option = getattr(settings, name), getattr(rs.option, name)
        if value is None:
            continue
        if not sensor.supports(option):
            raise OptionError(name, value, f"{info} has no such setting")
        allowed = sensor.get_option_range(option)
        if not allowed.min <= value <= allowed.max or (allowed.step and (value - allowed.min) % allowed.step):
            steps = f"from {allowed.min:g} to {allowed.max:g} in steps of {allowed.step:g}"
            raise OptionError(name, value, f"{info} takes values {steps}")
        if name == "exposure":
            _check_exposure(value, value, _exposure_unit(rs, sensor), settings.fps)
        sensor.set_option(option, float(value))


def _shortest(number: float) -> float:
    """Return a whole number as an integer, as messages show it."""
    return int(number) if number.is_integer() else number


def _exposure_unit(rs: ModuleType, sensor: Any) -> int:
    """Return the unit of a sensor's exposure in us: 1 where the sensor measures depth too, 100 for a plain camera."""
    depth = any(profile.stream_type() == rs.stream.depth for profile in sensor.get_stream_profiles())
    return 1 if depth else 100


def _check_exposure(given: object, value: float, unit: int, fps: int) -> None:
    """Refuse an exposure that is longer than a frame period.

    Raises:
        OptionError: It is longer.
    """
    period = 1e6 / fps
    if value * unit > period:
        raise OptionError(
            "exposure", given,
            f"{value * unit:g} us are longer than a frame period, {period:.0f} us at {fps} frames a second: at most "
            f"{int(period / unit)}",
        )  # fmt: skip


def _unit_table(scale: float) -> NDArray[np.uint16] | None:
    """Return each raw depth in ``DEPTH_UNIT``, shape (65536,), for a scale in m; None if it is the same."""
    ratio = round(scale / DEPTH_UNIT, 5)  # the scale is a float32
    if ratio == 1.0:
        return None
    depth = np.rint(np.arange(1 << 16) * ratio)
    # Farther than 16 bits reach is as unknown as no measurement.
    return np.where(depth < 1 << 16, depth, 0).astype(np.uint16)


def _same_view(one: Any, other: Any) -> bool:
    def view(profile: Any) -> tuple[Any, ...]:
        own = profile.get_intrinsics()
        return own.width, own.height, own.fx, own.fy, own.ppx, own.ppy, *own.coeffs

    between = one.get_extrinsics_to(other)
    identity = list(between.rotation) == [1, 0, 0, 0, 1, 0, 0, 0, 1] and not any(between.translation)
    return identity and view(one) == view(other)
