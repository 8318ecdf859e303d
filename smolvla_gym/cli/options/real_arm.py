"""Options of the real arm, and the search for the devices before anything that takes seconds to load."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, Final

from smolvla_gym.cli.options.parser import Options, UsageError, option
from smolvla_gym.cli.output import say
from smolvla_gym.errors import DeviceError, MissingExtraError, OptionError

TWIN: Final = "twin"
CAREFUL_SCALE: Final = 0.3
"""Default share of the speed limits on a real arm."""

_NAMED: Final = re.compile(r"\s*([^={}/:]*?)\s*=\s*(.*)", re.DOTALL)
"""A camera with its name; addresses, paths and dictionaries may have = in them, too."""

_TRY_TWIN: Final = "without the hardware: smolvla-gym rollout --env real --port twin --camera twin"
_CHECK: Final = (
    "if they are connected: is the arm powered, are the USB cables for data, and may you open the devices? "
    "docs/how-to/first-power-up.md has the udev rules"
)


@dataclass(kw_only=True)
class RealArmOptions(Options):
    """Options of the real arm and of its virtual twin; see ``make_real_env``."""

    port: str | None = option(
        "serial port of the arm, such as /dev/ttyACM0 or COM5; twin for the virtual one (default: the board that is "
        "found on USB)", None, metavar="PORT|twin",
    )  # fmt: skip
    camera: list[str] = option(
        "serial number of the RealSense; repeatable, each with its name then, such as wrist=SERIAL; twin for the "
        "virtual ones (default: the only connected camera). Other cameras: a device such as /dev/v4l/by-id/..., an "
        "address http://... (MJPEG) or rtsp://..., or a dictionary of LeRobot as JSON; these have any NAME",
        [], repeat=True, metavar="[NAME=]SERIAL|twin|CAMERA",
    )  # fmt: skip
    speed_scale: float | None = option(
        f"share of the speed limits that may be used, up to 1 (default: {CAREFUL_SCALE}; with the twin 1)", None,
        metavar="S",
    )  # fmt: skip
    home: bool = option("home the arm if it does not know its joint angles; the twin does anyway", False)
    instruction: str | None = option(
        "instruction for the policy (default: the task's first sentence)", None, metavar="TEXT"
    )
    lockstep: bool = option("run the twin on simulated time, repeatably, not in real time", False)

    @property
    def is_twin(self) -> bool:
        """Return whether the arm is the virtual one."""
        return self.port == TWIN

    def check(self, env: str) -> None:
        """Refuse options that do not fit together.

        Args:
            env: ``"sim"`` or ``"real"``.

        Raises:
            OptionError: An option has a value that is not allowed, or does not fit another one.
            UnknownNameError: There is no camera of this name.
        """
        if env != "real":
            for name in self.changed():
                self.refuse(name, "only with --env real")
            return
        if self.speed_scale is not None and not 0.0 < self.speed_scale <= 1.0:
            self.expect("speed_scale", "a number above 0 and up to 1")
        virtual = {serial == TWIN for serial in self.serials().values()}
        self.check_configs()
        if self.is_twin:
            if False in virtual:
                self.expect("camera", "twin where the port is twin")
            if self.instruction is not None:
                self.refuse("instruction", "only on a real arm; the twin's task says what to do")
            return
        if True in virtual:
            self.refuse("camera", "twin only with --port twin")
        if self.lockstep:
            self.refuse("lockstep", "only with --port twin: a real arm cannot wait")
        if self.instruction is not None and not self.instruction.strip():
            self.expect("instruction", "a sentence")

    def serials(self) -> dict[str, str]:
        """Return the serial numbers by camera; one without a name has the name ``""``.

        In place of a serial number may stand what describes another camera, see :meth:`configs`.

        Raises:
            OptionError: A name is given twice, or missing where there are several cameras.
            UnknownNameError: There is no camera of this name.
        """
        if not self.camera:  # the imports take time, in which nothing is said about missing devices
            return {}
        from smolvla_gym.drivers.cameras.configs import check_camera_name, is_camera_config
        from smolvla_gym.sim.scene import check_cameras

        serials: dict[str, str] = {}
        for text in self.camera:
            named = _NAMED.fullmatch(text.strip())
            name, serial = (named[1], named[2]) if named else ("", text.strip())
            if named and is_camera_config(serial):
                check_camera_name(name)
            elif named:
                check_cameras((name,))
            if not serial or name in serials:
                raise OptionError("--camera", text, "SERIAL, or NAME=SERIAL once for each of several cameras")
            serials[name] = serial
        if "" in serials and len(serials) > 1:
            self.expect("camera", "a name for each of several cameras, as in wrist=SERIAL")
        return serials

    def configs(self) -> dict[str, str]:
        """Return by name the descriptions of the cameras that are no serial numbers."""
        if not self.camera:
            return {}
        from smolvla_gym.drivers.cameras.configs import is_camera_config

        return {name: text for name, text in self.serials().items() if is_camera_config(text)}

    def check_configs(self) -> None:
        """Check the descriptions of cameras.

        Raises:
            OptionError: One is not allowed.
        """
        for text in self.configs().values():
            from smolvla_gym.drivers.cameras.configs import check_camera_config

            check_camera_config("camera", text)

    def find_devices(self) -> None:
        """Check that the arm and its cameras are connected.

        Raises:
            DeviceError: A device is missing; the notes list what was searched and found, and what to do.
            MissingExtraError: The packages of the extra ``real`` are not installed.
        """
        from smolvla_gym.drivers.cameras.librealsense import list_cameras, load

        try:
            from serial.tools.list_ports import comports
        except ImportError as error:
            raise MissingExtraError("A PAROL6 on a serial port", "real", error) from error
        if self.is_twin:
            load()
            return
        from smolvla_gym.drivers.board.serial_port import USB_ID

        ports = sorted(comports(), key=lambda port: str(port.device))
        names = [str(port.device) for port in ports]
        boards = [str(port.device) for port in ports if (port.vid, port.pid) == USB_ID]
        about = f"the control board, a serial port with the USB id {USB_ID[0]:04x}:{USB_ID[1]:04x}"
        missing = []
        if self.port is not None:
            about = f"the port {self.port}"
            boards = [self.port] if "://" in self.port or self.port in names or os.path.exists(self.port) else []
        if len(boards) > 1:
            raise DeviceError(f"Several boards are connected: {', '.join(boards)}. Name the arm's with --port.")
        if not boards:
            missing.append("the arm")
        found = boards[0] if boards else f"none; serial ports there are: {', '.join(names) or 'none'}"
        notes = [f"looked for {about}; found: {found}"]

        configs = self.configs()
        wanted = sorted(serial for name, serial in self.serials().items() if name not in configs)
        if configs and not wanted:  # whether other cameras are there shows when they are opened
            self._report_missing(missing, notes)
            return
        try:
            cameras, trouble = list_cameras(), ""
        except (DeviceError, MissingExtraError) as error:
            cameras, trouble = [], f" ({error})"
        absent = [serial for serial in wanted if serial not in {camera.serial for camera in cameras}]
        if absent or not cameras:
            missing.append("its camera")
        looked = f"RealSense cameras with the serial {', '.join(wanted)}" if wanted else "RealSense cameras"
        notes.append(f"looked for {looked}; found: {', '.join(map(str, cameras)) or 'none'}{trouble}")
        self._report_missing(missing, notes)

    @staticmethod
    def _report_missing(missing: list[str], notes: list[str]) -> None:
        if missing:
            missed = DeviceError(f"Not found: {' and '.join(missing)}.")
            for note in (*notes, _CHECK, _TRY_TWIN):
                missed.add_note(note)
            raise missed

    def env_arguments(self, cameras: tuple[str, ...] | None) -> dict[str, Any]:
        """Return the arguments of ``make_real_env`` that the simulation does not have, and the observed cameras.

        Args:
            cameras: The cameras that have to be observed; None: those on the command line.

        Raises:
            UsageError: The cameras on the command line are other ones.
        """
        serials = self.serials()
        arguments: dict[str, Any] = {"port": self.port, "realtime": not self.lockstep}
        if self.home:
            arguments["home"] = True
        scale = self.speed_scale
        if scale is None and not self.is_twin:
            say(f"starting slowly ({CAREFUL_SCALE:g}), --speed-scale 1 for full speed")
            scale = CAREFUL_SCALE
        arguments["speed_scale"] = 1.0 if scale is None else scale
        if self.instruction is not None:
            arguments["instruction"] = self.instruction
        named = {name: serial for name, serial in serials.items() if name}
        if cameras is None and named:
            arguments["cameras"] = tuple(named)
        if self.is_twin:
            return {**arguments, "camera": TWIN}
        if cameras is not None and (set(named) != set(cameras) if named else len(cameras) > 1):
            usage = " ".join(f"--camera {name}=SERIAL" for name in cameras)
            reason = (
                f"the policy observes {' and '.join(cameras)}, and each needs a serial number: {usage}; one that works "
                "without some of them takes --cameras"
            )
            raise UsageError("--camera", " ".join(self.camera) or None, reason)
        return {**arguments, "camera": named or serials.get("")}
