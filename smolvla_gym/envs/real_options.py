"""Options that only the real arm and its twin have, checked before a device is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from smolvla_gym.drivers.board.event_log import default_log_path
from smolvla_gym.drivers.board.state import BoardSettings
from smolvla_gym.drivers.cameras.configs import (
    CameraConfig,
    RealSenseConfig,
    check_camera_config,
    check_camera_name,
    is_camera_config,
)
from smolvla_gym.drivers.cameras.realsense_stream import CameraSettings
from smolvla_gym.envs.env_options import EnvOptions
from smolvla_gym.errors import OptionError
from smolvla_gym.safety.collision import Box, check_workspace
from smolvla_gym.sim.plate import Plate
from smolvla_gym.twin.faults import Faults
from smolvla_gym.twin.joint_error import JointError
from smolvla_gym.twin.virtual_camera import MJPEG, TRANSPORTS
from smolvla_gym.utils.option_values import (
    check_choice,
    check_keys,
    check_number,
    check_path,
    check_sentence,
    check_serial,
    check_switch,
    check_text,
)

TWIN: Final = "twin"

_BOARD_OPTIONS: Final = tuple(field.name for field in fields(BoardSettings) if field.name != "gripper")
_CAMERA_OPTIONS: Final = tuple(field.name for field in fields(CameraSettings) if field.name != "depth")
_TWIN_OPTIONS: Final = ("homed", "noise", "faults", "own_process", "transport", "plate", "joint_error")


@dataclass(frozen=True)
class RealOptions:
    """Checked options of the real arm and of its twin.

    Attributes:
        port: Name or URL of the serial port, ``"twin"``, or None.
        serials: Serial number of each RealSense camera by name, None for the only one connected; empty for a twin.
        configs: Configuration of each camera by name that was given by more than a serial number.
        instruction: The instruction, or None for the task's first one.
        speed_scale: Share of the speed limits that may be used.
        workspace: Box in m that the tool centre point stays in.
        home: Whether ``reset`` homes an arm that does not know its joint angles.
        log: File of the event log, or None.
        realtime: False for a twin in lockstep.
        own_process: Whether a twin has a process of its own.
        settings: Settings of the driver.
        camera: Settings of the cameras.
        twin_options: Options of ``Twin``.
    """

    port: str | None
    serials: Mapping[str, str | None]
    configs: Mapping[str, CameraConfig]
    instruction: str | None
    speed_scale: float
    workspace: Box
    home: bool
    log: Path | None
    realtime: bool
    own_process: bool
    settings: BoardSettings
    camera: CameraSettings
    twin_options: dict[str, Any]

    @property
    def cameras(self) -> dict[str, str | CameraConfig | None]:
        """Serial number or configuration of each camera by name."""
        return {**self.serials, **self.configs}

    @property
    def is_twin(self) -> bool:
        """True for the virtual arm."""
        return self.port == TWIN

    @classmethod
    def check(cls, given: Mapping[str, Any], options: EnvOptions) -> RealOptions:
        """Check the options of ``gym.make``.

        Args:
            given: Their values by name.
            options: Checked options that both environments have.

        Raises:
            OptionError: An option has a value that is not allowed, or does not fit another.
        """
        realtime = check_switch("realtime", given["realtime"])
        port = given["port"]
        if port is not None:
            allowed = "the name of a serial port, such as '/dev/ttyACM0', its URL, 'twin', or None to search USB"
            port = str(check_path("port", port, allowed)) if not isinstance(port, str) else check_text(
                "port", port, allowed
            ).strip()  # fmt: skip
        twin = port == TWIN
        if options.privileged and not twin:
            allowed = (
                "False on a real arm, where nothing measures the objects; only the simulation and port='twin' have this"
            )
            raise OptionError("privileged", True, allowed)
        instruction = given["instruction"]
        if instruction is not None:
            if twin:
                allowed = (
                    'None with port="twin", whose task has the instruction; reset(options={"instruction": ...}) '
                    "replaces it"
                )
                raise OptionError("instruction", instruction, allowed)
            allowed = "a sentence in one line, of up to 1000 characters, or None"
            instruction = check_sentence("instruction", instruction, allowed)
        scale = given["speed_scale"]
        virtual, own_process = _twin_options(given["twin_options"], realtime)
        if options.depth and virtual.get("transport") == MJPEG:
            raise OptionError("depth", True, "False with MJPEG cameras, which do not measure distances")
        # The twin shares the computer with the caller's own computation, so its replies may be late.
        patience = {"feedback_timeout": 0.5} if twin and realtime else {}
        board = patience | check_keys("board_options", given["board_options"], _BOARD_OPTIONS)
        serials, configs = _cameras(given["camera"], options.cameras, twin)
        if options.depth and any(not isinstance(config, RealSenseConfig) for config in configs.values()):
            raise OptionError("depth", True, "only with RealSense cameras, as other ones do not measure distances")
        if not twin and not realtime:
            raise OptionError("realtime", realtime, "True: only port='twin' runs in lockstep")
        return cls(
            port=port,
            serials=serials,
            configs=configs,
            instruction=instruction,
            speed_scale=check_number("speed_scale", scale, "a number from 0.01 to 1", low=0.01, high=1.0),
            workspace=check_workspace(given["workspace"]),
            home=twin if given["home"] is None else _home(given["home"]),
            realtime=realtime,
            own_process=own_process,
            settings=BoardSettings(gripper=options.gripper.name, **board),
            camera=CameraSettings(
                depth=options.depth, **check_keys("camera_options", given["camera_options"], _CAMERA_OPTIONS)
            ),
            twin_options=virtual,
            log=_log(given["log"]),  # last: it may print a line
        )


def _home(value: object) -> bool:
    try:
        return check_switch("home", value)
    except OptionError:
        raise OptionError("home", value, "True, False or None") from None


def _log(value: object) -> Path | None:
    if value is None:
        return None
    path = check_path("log", value, "the name of a file, 'auto' or None")
    if value == "auto":
        return default_log_path()
    try:
        return path.expanduser()
    except RuntimeError:  # there is no such user
        raise OptionError("log", value, "the name of a file in a folder that can be found") from None


def named_configs(camera: object) -> tuple[str, ...]:
    """Return the names of the cameras in an option ``camera`` that are given by more than a serial number.

    Raises:
        OptionError: A name is not allowed.
    """
    if not isinstance(camera, Mapping):
        return ()
    return tuple(check_camera_name(name) for name, value in camera.items() if is_camera_config(value))


def _cameras(
    camera: object, names: tuple[str, ...], twin: bool
) -> tuple[dict[str, str | None], dict[str, CameraConfig]]:
    """Return the serial number of each camera by name, None for the only one connected, and the configurations."""
    if isinstance(camera, str) and camera.strip() == TWIN:
        if not twin:
            raise OptionError("camera", camera, "'twin' only with port='twin': virtual cameras show the virtual arm")
        return {}, {}
    if twin:
        if camera is not None:
            raise OptionError(
                "camera", camera, "'twin' or None with port='twin', as no real camera shows the virtual arm"
            )
        return {}, {}
    if isinstance(camera, Mapping):
        if set(camera) != set(names):
            raise OptionError(
                "camera", dict(camera), f"a serial number or a configuration for each of cameras={names!r}"
            )
        configs = {
            name: check_camera_config(f'camera["{name}"]', camera[name])
            for name in names
            if is_camera_config(camera[name])
        }
        return {name: check_serial(f'camera["{name}"]', camera[name]) for name in names if name not in configs}, configs
    if is_camera_config(camera) and len(names) == 1:
        return {}, {names[0]: check_camera_config("camera", camera)}
    serial = None if camera is None else check_serial("camera", camera)
    if len(names) > 1:
        raise OptionError("camera", camera, f"a serial number for each of cameras={names!r}: {{'wrist': ...}}")
    return dict.fromkeys(names, serial), {}


def _twin_options(given: object, realtime: bool) -> tuple[dict[str, Any], bool]:
    """Return the options of ``Twin``, and whether the twin has a process of its own."""
    options = check_keys("twin_options", given, _TWIN_OPTIONS)
    own_process = check_switch('twin_options["own_process"]', options.pop("own_process", realtime))
    if own_process and not realtime:
        raise OptionError('twin_options["own_process"]', True, "False in lockstep, where nothing runs beside the steps")
    if not isinstance(options.get("faults", Faults()), Faults):
        raise OptionError('twin_options["faults"]', options["faults"], "a smolvla_gym.twin.faults.Faults")
    for name, kind in (("plate", Plate), ("joint_error", JointError)):
        if not isinstance(options.get(name), kind | None):
            raise OptionError(f'twin_options["{name}"]', options[name], f"a {kind.__module__}.{kind.__name__} or None")
    if "noise" in options:
        allowed = "a standard deviation in grey levels, 0 to 255"
        options["noise"] = check_number('twin_options["noise"]', options["noise"], allowed, low=0.0, high=255.0)
    if "transport" in options:
        check_choice('twin_options["transport"]', options["transport"], TRANSPORTS)
        if options["transport"] == MJPEG and not realtime:
            allowed = "'realsense' in lockstep: bytes in a network take real time"
            raise OptionError('twin_options["transport"]', MJPEG, allowed)
    if "homed" in options:
        options["homed"] = check_switch('twin_options["homed"]', options["homed"])
    return options, own_process
