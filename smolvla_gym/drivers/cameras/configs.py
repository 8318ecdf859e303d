"""Configurations of cameras, in the form of LeRobot's dictionaries, which need no LeRobot here.

``{"type": "opencv", "index_or_path": 0, "width": 640, "height": 480, "fps": 30}`` and ``{"type": "intelrealsense",
"serial_number_or_name": "..."}`` are LeRobot's. The types ``mjpeg``, ``rtsp`` and ``file`` are further ones.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from smolvla_gym.drivers.cameras.framing import ROTATIONS, Intrinsics
from smolvla_gym.drivers.cameras.realsense_stream import CameraSettings
from smolvla_gym.drivers.cameras.undistortion import COEFFICIENTS
from smolvla_gym.errors import OptionError
from smolvla_gym.utils.option_values import (
    check_choice,
    check_number,
    check_path,
    check_serial,
    check_switch,
    check_whole,
    plain,
)
from smolvla_gym.utils.tokens import choose_token, read_token
from smolvla_gym.utils.untrusted import parse_json_object

_COMMON: Final = ("type", "width", "height", "fps", "color_mode", "warmup_s")
_IMAGE: Final = (*_COMMON, "rotation", "intrinsics")
_KEYS: Final = {
    "opencv": (*_IMAGE, "index_or_path", "fourcc", "backend", "exposure"),
    "intelrealsense": (
        *_COMMON, "rotation", "serial_number_or_name", "use_rgb", "use_depth", "exposure", "gain", "white_balance",
    ),
    "mjpeg": (*_IMAGE, "url", "token", "token_file"),
    "rtsp": (*_IMAGE, "url"),
    "file": (*_IMAGE, "path"),
}  # fmt: skip
TYPES: Final = tuple(_KEYS)
"""Types of cameras."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_INTRINSICS: Final = ("width", "height", "fx", "fy", "ppx", "ppy", "distortion")


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """What is common to cameras that are read as a stream.

    Attributes:
        size: Expected width and height in px of the images, after rotation; None takes any.
        fps: Rate in frames a second that is requested from the camera; None leaves it.
        rotation: Clockwise rotation of the images in degrees, one of ``ROTATIONS``.
        bgr: Whether images have their channels in the order blue, green, red.
        intrinsics: Pinhole model of the rotated images; None where it is not known.
        distortion: Distortion of the lens in OpenCV's order, which is removed; None leaves images as they are.
    """

    size: tuple[int, int] | None = None
    fps: float | None = None
    rotation: int = 0
    bgr: bool = False
    intrinsics: Intrinsics | None = None
    distortion: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class RealSenseConfig:
    """A RealSense camera.

    Attributes:
        serial: Serial number, or name of the model.
        settings: Settings; the environment decides on depth.
        rotation: Clockwise rotation of the images in degrees, one of ``ROTATIONS``.
    """

    serial: str
    settings: CameraSettings
    rotation: int = 0


@dataclasses.dataclass(frozen=True)
class UvcConfig:
    """A USB camera, through OpenCV.

    Attributes:
        device: Index, or path such as ``/dev/v4l/by-id/...``.
        image: What is common to all streams.
        fourcc: Pixel format that is requested, such as ``"MJPG"``; None leaves it.
        backend: OpenCV's number of the backend; 0: any.
        exposure: Exposure in the camera's unit; None leaves it automatic.
    """

    device: int | str
    image: ImageSettings = ImageSettings()
    fourcc: str | None = None
    backend: int = 0
    exposure: float | None = None


@dataclasses.dataclass(frozen=True)
class MjpegConfig:
    """A camera that sends MJPEG over HTTP.

    Attributes:
        url: Its address, ``http://...``.
        image: What is common to all streams.
        token: Token that is sent to the server; None sends none.
    """

    url: str
    image: ImageSettings = ImageSettings()
    token: str | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class VideoConfig:
    """An RTSP camera, or a video file that is played again and again.

    Attributes:
        location: ``rtsp://...``, or the name of a file.
        image: What is common to all streams.
    """

    location: str
    image: ImageSettings = ImageSettings()


type CameraConfig = RealSenseConfig | UvcConfig | MjpegConfig | VideoConfig


def is_camera_config(value: object) -> bool:
    """Return whether a value describes a camera by more than the serial number of a RealSense camera."""
    if isinstance(value, str):
        return _from_text(value) is not None
    return isinstance(value, Mapping) or _is_lerobot(value)


def check_camera_config(option: str, value: object) -> CameraConfig:
    """Return the configuration of a camera.

    Args:
        option: Name of the option, for errors.
        value: A dictionary in LeRobot's form, an object of LeRobot's ``CameraConfig``, a URL, the path of a device, or
            the text of a dictionary as JSON.

    Raises:
        OptionError: It is no configuration.
    """
    fields = _fields(option, value)
    kind = fields.get("type")
    if kind not in _KEYS:
        raise OptionError(f'{option}["type"]', kind, "one of " + ", ".join(map(repr, TYPES)))
    if unknown := [key for key in fields if key not in _KEYS[kind]]:
        raise OptionError(option, unknown[0], f"some of the keys {', '.join(_KEYS[kind])} for the type {kind!r}")
    given: dict[str, Any] = {key: plain(part) for key, part in fields.items() if part is not None}
    if kind == "intelrealsense":
        return _realsense(option, given)
    image = _image(option, given)
    if kind == "opencv":
        return _uvc(option, given, image)
    if kind == "mjpeg":
        url = _url(option, given.get("url"), "http")
        # Not that of the environment: a camera in the network is not to learn the token of a policy server.
        token = given.get("token")
        if "token_file" in given:
            name = f'{option}["token_file"]'
            try:
                token = read_token(name, check_path(name, given["token_file"], "the name of a file with a token"))
            except OSError as error:
                raise OptionError(name, given["token_file"], f"a file that can be read ({error.strerror})") from error
        return MjpegConfig(url, image, None if token is None else choose_token(token))
    if kind == "rtsp":
        return VideoConfig(_url(option, given.get("url"), "rtsp"), image)
    return VideoConfig(_text(f'{option}["path"]', given.get("path"), "the name of a video file"), image)


def check_camera_name(name: object) -> str:
    """Return the name of a camera, which becomes part of the names in datasets.

    Raises:
        OptionError: It is not allowed.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        allowed = "a camera's name: a letter, then letters, digits, _ and -, at most 32 characters"
        raise OptionError("cameras", name, allowed)
    return name


def _fields(option: str, value: object) -> dict[str, Any]:
    if isinstance(value, str):
        found = _from_text(value)
        if isinstance(found, str):
            try:
                return parse_json_object(found)
            except ValueError as error:
                raise OptionError(option, value, f"a dictionary as JSON ({error})") from error
        if found is not None:
            return found
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): _bare(part) for key, part in value.items()}
    if _is_lerobot(value):
        parts = {field.name: _bare(getattr(value, field.name)) for field in dataclasses.fields(value)}  # type: ignore[arg-type]
        return {"type": str(getattr(value, "type")), **parts}  # noqa: B009 - it is not in the type
    raise OptionError(option, value, "a dictionary such as {'type': 'opencv', 'index_or_path': 0}, or a URL")


def _bare(value: object) -> object:
    if isinstance(value, Enum):
        value = value.value
    return str(value) if isinstance(value, Path) else value


def _is_lerobot(value: object) -> bool:
    # By its form: importing LeRobot takes seconds.
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and isinstance(
        getattr(value, "type", None), str
    )  # fmt: skip


def _from_text(text: str) -> dict[str, Any] | str | None:
    """Return what a text stands for: fields, JSON that has them, or None for a serial number."""
    text = text.strip()
    if text.startswith("{"):
        return text
    if text.startswith("http://"):
        return {"type": "mjpeg", "url": text}
    if text.startswith(("rtsp://", "rtsps://")):
        return {"type": "rtsp", "url": text}
    if text.startswith("/dev/"):
        return {"type": "opencv", "index_or_path": text}
    return None


def _text(option: str, value: object, allowed: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise OptionError(option, value, allowed)
    return value.strip()


def _url(option: str, value: object, scheme: str) -> str:
    name, allowed = f'{option}["url"]', f"an address such as {scheme}://192.168.0.5/stream"
    url = _text(name, value, allowed)
    try:
        parts = urlsplit(url)
        right = parts.scheme in (scheme, f"{scheme}s" if scheme == "rtsp" else scheme) and bool(parts.hostname)
        right = right and (parts.port is None or 0 < parts.port < 65536) and url.isascii() and " " not in url
    except ValueError:
        right = False
    if not right:
        raise OptionError(name, shown_url(url), allowed)
    return url


def shown_url(url: str) -> str:
    """Return a URL without what may be secret: its user, password and query."""
    head, _, _ = url.partition("?")
    scheme, separator, rest = head.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def _image(option: str, given: Mapping[str, Any]) -> ImageSettings:
    size = None
    if "width" in given or "height" in given:
        allowed = "width and height in px, both or none, whole numbers from 1 to 10000"
        width, height = (
            check_whole(f'{option}["{side}"]', given.get(side), allowed, low=1, high=10_000)
            for side in ("width", "height")
        )
        size = width, height
    fps = given.get("fps")
    if fps is not None:
        fps = check_number(f'{option}["fps"]', fps, "frames a second, above 0 and up to 1000", above=0.0, high=1e3)
    intrinsics, distortion = _intrinsics(f'{option}["intrinsics"]', given.get("intrinsics"))
    return ImageSettings(
        size=size,
        fps=fps,
        rotation=check_choice(f'{option}["rotation"]', given.get("rotation", 0), ROTATIONS),
        bgr=check_choice(f'{option}["color_mode"]', given.get("color_mode", "rgb"), ("rgb", "bgr")) == "bgr",
        intrinsics=intrinsics,
        distortion=distortion,
    )


def _intrinsics(option: str, given: object) -> tuple[Intrinsics | None, tuple[float, ...] | None]:
    if given is None:
        return None, None
    allowed = "a dictionary with width, height, fx, fy, ppx, ppy in px, and optionally distortion: 4, 5 or 8 numbers"
    if not isinstance(given, Mapping) or set(given) - {"distortion"} != set(_INTRINSICS[:-1]):
        raise OptionError(option, given, allowed)
    width, height = (check_whole(option, given[side], allowed, low=1, high=10_000) for side in ("width", "height"))
    focal = (check_number(option, given[key], allowed, above=0.0, high=1e5) for key in ("fx", "fy"))
    centre = (check_number(option, given[key], allowed, low=-1e5, high=1e5) for key in ("ppx", "ppy"))
    distortion = given.get("distortion")
    if distortion is not None:
        if not isinstance(distortion, list | tuple) or len(distortion) not in COEFFICIENTS:
            raise OptionError(option, given, allowed)
        distortion = tuple(check_number(option, part, allowed, low=-1e3, high=1e3) for part in distortion)
    return Intrinsics(width, height, *focal, *centre), distortion


def _uvc(option: str, given: Mapping[str, Any], image: ImageSettings) -> CameraConfig:
    name, allowed = f'{option}["index_or_path"]', "an index such as 0, or a path such as /dev/v4l/by-id/..."
    device = given.get("index_or_path")
    if isinstance(device, str) and device.isdecimal():
        device = int(device)
    if isinstance(device, str):
        device = _text(name, device, allowed)
        # LeRobot's drivers take all that OpenCV opens, also streams and files.
        if device.startswith("http:/"):
            return MjpegConfig(_url(option, re.sub(r"^http:/+", "http://", device), "http"), image)
        if device.startswith(("rtsp:/", "rtsps:/")):
            return VideoConfig(_url(option, re.sub(r"^(rtsps?):/+", r"\1://", device), "rtsp"), image)
        if Path(device).is_file():
            return VideoConfig(device, image)
    else:
        device = check_whole(name, device, allowed, low=0, high=1000)
    fourcc = given.get("fourcc")
    if fourcc is not None and (not isinstance(fourcc, str) or not re.fullmatch(r"[ -~]{4}", fourcc)):
        raise OptionError(f'{option}["fourcc"]', fourcc, "four characters, such as 'MJPG'")
    exposure = given.get("exposure")
    if exposure is not None:
        exposure = check_number(f'{option}["exposure"]', exposure, "a number in the camera's unit, or None")
    allowed = "OpenCV's number of a backend, such as 200 for V4L2"
    backend = check_whole(f'{option}["backend"]', given.get("backend", 0), allowed, low=0, high=10_000)
    return UvcConfig(device, image, fourcc, backend, exposure)


def _realsense(option: str, given: Mapping[str, Any]) -> RealSenseConfig:
    for key, wanted in (("color_mode", "rgb"), ("use_rgb", True)):
        if given.get(key, wanted) != wanted:
            raise OptionError(f'{option}["{key}"]', given[key], f"{wanted!r} for a RealSense camera")
    check_switch(f'{option}["use_depth"]', given.get("use_depth", False))
    settings = {key: given[key] for key in ("fps", "exposure", "gain", "white_balance") if key in given}
    rotation = check_choice(f'{option}["rotation"]', given.get("rotation", 0), ROTATIONS)
    if "width" in given or "height" in given:  # those of the rotated images
        size = given.get("width"), given.get("height")
        settings["resolution"] = size if rotation in (0, 180) else size[::-1]
    serial = check_serial(f'{option}["serial_number_or_name"]', given.get("serial_number_or_name"))
    return RealSenseConfig(serial, CameraSettings(**settings), rotation)
