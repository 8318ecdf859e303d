"""``smolvla-gym cameras``: list cameras with their rate and age, and serve them to other machines."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.options.arguments import integer, positive
from smolvla_gym.cli.options.parser import Options, command, option
from smolvla_gym.cli.output import output_folder, print_table, say
from smolvla_gym.errors import DeviceError, OptionError, SmolVLAGymError

if TYPE_CHECKING:
    from smolvla_gym.drivers.cameras.configs import CameraConfig
    from smolvla_gym.drivers.cameras.discovery import CameraReport

_CAMERA: Final = (
    "a camera, repeatable: SERIAL of a RealSense, a device such as /dev/v4l/by-id/..., an address http://... or "
    "rtsp://..., or a dictionary of LeRobot as JSON (default: all that are connected to this computer)"
)

_LIST_EXAMPLES: Final = """examples:
  smolvla-gym cameras                                          what is connected
  smolvla-gym cameras list --camera side=http://192.168.0.5/stream
  smolvla-gym cameras list --camera 'front={"type": "opencv", "index_or_path": 0, "fourcc": "MJPG"}'
"""

_SERVE_EXAMPLES: Final = """examples:
  smolvla-gym cameras serve --camera wrist=SERIAL              for programs on this machine
  smolvla-gym cameras serve --host 172.20.0.1 --token-file token
                                                               on Windows, for a program in WSL2
"""


@dataclass(kw_only=True)
class ListOptions(Options):
    """Options of ``smolvla-gym cameras list``."""

    camera: list[str] = option(_CAMERA, [], repeat=True, metavar="NAME=CAMERA")
    seconds: float = option("how long to read each camera", 2.0, parse=positive, metavar="S")
    out: Path | None = option("folder of the images (default: outputs/cameras/<date>_<time>)", None, metavar="DIR")
    json: bool = option("print JSON and nothing else on stdout", False)


@dataclass(kw_only=True)
class ServeCamerasOptions(Options):
    """Options of ``smolvla-gym cameras serve``."""

    camera: list[str] = option(_CAMERA, [], repeat=True, metavar="NAME=CAMERA")
    host: str = option("interface to listen on; others than the loopback need a token", "127.0.0.1")
    port: int = option("port to listen on; 0 takes a free one", 8766, parse=integer)
    token_file: Path | None = option(
        "file with the token that clients have to send (default: the environment variable SMOLVLA_GYM_TOKEN)", None,
        metavar="FILE",
    )  # fmt: skip


def add_parser(commands: Any) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "cameras", help="List cameras, or serve them to other machines.",
        description="Commands for cameras. Without one, as `cameras list`.",
    )  # fmt: skip
    parser.set_defaults(run=lambda namespace: run_list(ListOptions()), flags=frozenset())
    actions = parser.add_subparsers(title="commands", metavar="COMMAND")
    command(
        "list", ListOptions, run_list, examples=_LIST_EXAMPLES,
        help="Show what each camera delivers.",
        description="Opens each camera for some seconds, and shows the size, rate and age of its images, one of which "
        "it saves. The exit code is 1 if a camera delivers none.",
    )(actions)  # fmt: skip
    command(
        "serve", ServeCamerasOptions, run_serve, examples=_SERVE_EXAMPLES,
        help="Serve cameras as MJPEG.",
        description="Serves the colour images of cameras as MJPEG over HTTP with time stamps and intrinsics. The "
        "option --camera NAME=http://HOST:PORT/NAME of other commands reads them.",
    )(actions)  # fmt: skip


def run_list(options: ListOptions) -> int:
    """Read each camera for a while, and print what it delivered."""
    from smolvla_gym.drivers.cameras.discovery import measure_camera
    from smolvla_gym.drivers.cameras.make_camera import make_camera

    configs = _configs(options.camera)
    if not configs:
        if options.json:
            print(json.dumps({"cameras": []}))
        else:
            print("no camera is connected")
        return 0
    found: list[dict[str, Any]] = []
    with output_folder(options.out, "cameras") as out, contextlib.redirect_stdout(sys.stderr):
        for name, config in configs.items():
            row: dict[str, Any] = {"name": name, "camera": _describe(config)}
            try:
                camera = make_camera(config)
                with contextlib.closing(camera):
                    camera.start()
                    row |= _report(measure_camera(camera, options.seconds), out / f"{name}.jpg")
            except (SmolVLAGymError, OSError) as error:
                row["error"] = str(error)
            found.append(row)
    if options.json:
        print(json.dumps({"cameras": found}, indent=2))
    else:
        _print(found)
    return int(any("error" in row for row in found))


def run_serve(options: ServeCamerasOptions) -> int:
    """Serve cameras until the program is interrupted."""
    from smolvla_gym.drivers.cameras.make_camera import make_camera
    from smolvla_gym.drivers.cameras.serving import CameraServer
    from smolvla_gym.utils.tokens import choose_token, read_token

    token = choose_token(None if options.token_file is None else read_token("--token-file", options.token_file))
    configs = _configs(options.camera)
    if not configs:
        raise DeviceError("No camera is connected: name one with --camera NAME=CAMERA.")
    logging.basicConfig(stream=sys.stderr, format="smolvla-gym: %(message)s", level=logging.WARNING)
    with contextlib.ExitStack() as stack:
        cameras = {name: make_camera(config) for name, config in configs.items()}
        for camera in cameras.values():
            stack.callback(camera.close)
            camera.start()
        served = stack.enter_context(CameraServer(cameras, host=options.host, port=options.port, token=token))
        for name in cameras:
            print(f"{name} {served.server.url(name)}", flush=True)
        say("clients send the token" if token else "no token: programs on this machine alone", "Ctrl-C ends it")
        threading.Event().wait()
    return 0


def _configs(texts: list[str]) -> Mapping[str, CameraConfig]:
    """Return the configurations of cameras by name, those that are connected where none are given.

    Raises:
        OptionError: One is not allowed, or a name stands twice.
    """
    from smolvla_gym.drivers.cameras.configs import (
        RealSenseConfig,
        check_camera_config,
        check_camera_name,
        is_camera_config,
    )
    from smolvla_gym.drivers.cameras.discovery import find_cameras
    from smolvla_gym.drivers.cameras.realsense_stream import CameraSettings

    if not texts:
        found, notes = find_cameras()
        say(*notes)
        return found
    configs: dict[str, CameraConfig] = {}
    for text in texts:
        name, equals, described = text.partition("=")
        if not equals or not described.strip() or name.strip() in configs:
            raise OptionError("--camera", text, "NAME=CAMERA, each name once")
        name = check_camera_name(name.strip())
        if is_camera_config(described):
            configs[name] = check_camera_config("--camera", described)
        else:
            configs[name] = RealSenseConfig(described.strip(), CameraSettings())
    return configs


def _describe(config: CameraConfig) -> str:
    from smolvla_gym.drivers.cameras.configs import MjpegConfig, RealSenseConfig, UvcConfig, shown_url

    if isinstance(config, RealSenseConfig):
        return f"RealSense {config.serial}"
    if isinstance(config, UvcConfig):
        return f"USB camera {config.device}"
    return shown_url(config.url if isinstance(config, MjpegConfig) else config.location)


def _report(report: CameraReport, image: Path) -> dict[str, Any]:
    from PIL import Image

    Image.fromarray(report.pixels).save(image)
    height, width = report.pixels.shape[:2]
    return {
        "size": [width, height], "rate": round(report.rate, 1), "age_ms": round(1e3 * report.age, 1),
        "oldest_ms": round(1e3 * report.oldest, 1), "calibrated": report.calibrated, "image": str(image),
    }  # fmt: skip


def _print(found: list[dict[str, Any]]) -> None:
    rows = []
    for row in found:
        if "error" not in row:
            size = "{}x{}".format(*row["size"])
            age = f"{row['age_ms']:.0f} ({row['oldest_ms']:.0f}) ms"
            rows.append([row["name"], row["camera"], size, f"{row['rate']:.1f} Hz", age])
    if rows:
        print_table(["name", "camera", "size", "rate", "age (oldest)"], rows, ("name", "camera"))
    for row in found:
        print(f"{row['name']}: {row['error']}" if "error" in row else f"{row['name']}: {row['image']}")
