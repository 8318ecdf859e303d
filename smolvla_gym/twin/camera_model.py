"""Models of RealSense cameras, and a librealsense software device of each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.cameras.framing import D405_COLOUR, Intrinsics

Range = tuple[float, float, float, float]
"""Lowest value, highest value, step and default of an option."""

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
_FRAME_RATES = (30, 90, 60, 15, 5)
_SWITCH: Range = (0, 1, 1, 1)


@dataclass(frozen=True)
class CameraModel:
    """Model of a camera.

    Attributes:
        name: Its name.
        product_id: Its USB product id, hexadecimal.
        colour: The pinhole models of its colour images, a resolution each.
        depth: Those of its depth images, of the same resolutions.
        rotation: Rotation from the depth's to the colour's frame, row by row.
        translation: Translation of it in m.
        depth_unit: Its unit of depth in m.
        depth_range: Range that it measures in m; distances outside it read 0.
        colour_sensor: Name of the sensor with the colour images and their options; on a D405 the stereo module.
        options: The options of that sensor.
    """

    name: str
    product_id: str
    colour: tuple[Intrinsics, ...]
    depth: tuple[Intrinsics, ...]
    rotation: Sequence[float]
    translation: Sequence[float]
    depth_unit: float
    depth_range: tuple[float, float]
    colour_sensor: str
    options: Mapping[str, Range]

    def raw_depth(self, distance: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return distances in m in the camera's unit, 0 where it cannot measure; same shape."""
        near, far = self.depth_range
        known = np.where((distance >= near) & (distance <= far), distance, 0.0)
        return np.rint(known / self.depth_unit).astype(np.uint16)


def _options(**ranges: Range) -> dict[str, Range]:
    return {**ranges, "enable_auto_exposure": _SWITCH, "enable_auto_white_balance": _SWITCH}


# A D405 also reports an inverse Brown-Conrady distortion of its colour images, (-0.0545, 0.0568, 0.0010, 0.0003,
# -0.0185). MuJoCo renders none, so none is published: coefficients that are not in the image would spoil alignment.
D405 = CameraModel(
    name="Intel RealSense D405",
    product_id="0B5B",
    colour=(D405_COLOUR, Intrinsics(848, 480, 431.17, 429.98, 421.47, 237.27)),
    depth=(Intrinsics(640, 480, 380.41, 380.41, 324.22, 238.26), Intrinsics(848, 480, 421.61, 421.61, 428.67, 238.07)),
    rotation=(
        0.9999844431877136, -0.001408747979439795, -0.005395420826971531, 0.0014127078466117382, 0.9999987483024597,
        0.000730191299226135, 0.0053943851962685585, -0.0007378021255135536, 0.9999851584434509,
    ),
    translation=(-6.115333235356957e-05, -1.1482620720926207e-05, -6.2597978285339195e-06),
    depth_unit=1e-4,
    depth_range=(0.07, 0.50),
    colour_sensor="Stereo Module",
    options=_options(exposure=(1, 165000, 1, 33000), gain=(16, 248, 1, 16), white_balance=(2800, 6500, 1, 4600)),
)  # fmt: skip
"""The camera on the wrist, by the calibration of a real one."""


def d435(intrinsics: Intrinsics) -> CameraModel:
    """Return a camera for the whole scene, which measures depth with the intrinsics of its colour images."""
    return CameraModel(
        name="Intel RealSense D435",
        product_id="0B07",
        colour=(intrinsics,),
        depth=(intrinsics,),
        rotation=_IDENTITY,
        translation=(0.0, 0.0, 0.0),
        depth_unit=1e-3,
        depth_range=(0.1, 10.0),
        colour_sensor="RGB Camera",
        options=_options(exposure=(1, 10000, 1, 166), gain=(0, 128, 1, 64), white_balance=(2800, 6500, 10, 4600)),
    )


class SoftwareDevice:
    """A camera inside librealsense.

    Attributes:
        device: The ``software_device``.
    """

    def __init__(self, rs: ModuleType, model: CameraModel, serial: str, usb_type: str) -> None:
        """Make the device.

        Args:
            rs: librealsense.
            model: Model of the camera.
            serial: Serial number.
            usb_type: USB version of the connection.
        """
        self._rs = rs
        self.device: Any = rs.software_device()
        info = rs.camera_info
        for field, text in (
            (info.name, model.name),
            (info.serial_number, serial),
            (info.product_line, "D400"),
            (info.product_id, model.product_id),
            (info.firmware_version, "5.15.1.0"),
            (info.usb_type_descriptor, usb_type),
            (info.physical_port, f"virtual {serial}"),
        ):
            self.device.register_info(field, text)
        stereo = self.device.add_sensor("Stereo Module")
        stereo.add_read_only_option(rs.option.depth_units, model.depth_unit)
        colour = stereo if model.colour_sensor == "Stereo Module" else self.device.add_sensor(model.colour_sensor)
        for name, limits in model.options.items():
            allowed = rs.option_range()
            allowed.min, allowed.max, allowed.step, allowed.default = limits
            colour.add_option(getattr(rs.option, name), allowed, True)
        depths = self._add_streams(stereo, rs.stream.depth, 0, rs.format.z16, 2, model.depth)
        colours = self._add_streams(colour, rs.stream.color, 1, rs.format.rgb8, 3, model.colour)
        between = rs.extrinsics()
        between.rotation, between.translation = list(model.rotation), list(model.translation)
        for one in depths:
            for other in colours:
                one.register_extrinsics_to(other, between)
        self._stereo, self._colour = stereo, colour
        self.device.create_matcher(rs.matchers.default)

    def _add_streams(
        self, sensor: Any, kind: Any, uid: int, pixel: Any, pixel_size: int, views: Sequence[Intrinsics]
    ) -> list[Any]:
        """Add a stream in all its resolutions and rates; return their profiles."""
        rs, profiles = self._rs, []
        for view in views:
            own = rs.intrinsics()
            own.width, own.height = view.width, view.height
            own.fx, own.fy, own.ppx, own.ppy = view.fx, view.fy, view.ppx, view.ppy
            own.model, own.coeffs = rs.distortion.brown_conrady, [0.0] * 5
            for fps in _FRAME_RATES:
                stream = rs.video_stream()
                stream.type, stream.index, stream.uid, stream.fmt, stream.bpp = kind, 0, uid, pixel, pixel_size
                stream.width, stream.height, stream.fps, stream.intrinsics = view.width, view.height, fps, own
                profiles.append(sensor.add_video_stream(stream))
        return profiles

    def deliver(self, number: int, pixels: NDArray[np.uint8], depth: NDArray[np.uint16] | None) -> None:
        """Deliver the images of one frame to the streams that are read.

        Args:
            number: The frame's number.
            pixels: Colour, shape (H, W, 3).
            depth: Depth in the camera's unit, shape (H, W), or None.
        """
        moment = time.time() * 1e3
        if depth is not None:
            self._send(self._stereo, self._rs.stream.depth, depth, depth.itemsize, number, moment)
        self._send(self._colour, self._rs.stream.color, pixels, pixels.shape[2], number, moment)

    def _send(self, sensor: Any, kind: Any, image: NDArray[Any], pixel_size: int, number: int, moment: float) -> None:
        active = [profile for profile in sensor.get_active_streams() if profile.stream_type() == kind]
        if not active:
            return
        profile = active[0].as_video_stream_profile()
        height, width = image.shape[:2]
        if (profile.width(), profile.height()) != (width, height):
            wanted = f"{profile.width()}x{profile.height()}"
            raise ValueError(f"The camera streams {wanted}, but the rendered image is {width}x{height}.")
        # librealsense owns the frame object; one that is used twice is freed twice.
        frame = self._rs.software_video_frame()
        frame.profile, frame.pixels = profile, np.ascontiguousarray(image)
        frame.stride, frame.bpp = width * pixel_size, pixel_size
        frame.timestamp, frame.domain, frame.frame_number = moment, self._rs.timestamp_domain.system_time, number
        sensor.on_video_frame(frame)
