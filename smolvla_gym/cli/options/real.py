"""The real arm on the command line: its options, and looking for it before anything that takes seconds to load."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.errors import DeviceError, MissingExtraError, NotHomedError, OptionError

if TYPE_CHECKING:
    import gymnasium as gym

TWIN: Final = "twin"
SLOWLY: Final = 0.3
"""Share of the speed limits that a real arm begins with."""

_TRY_TWIN: Final = "without the hardware: smolvla-gym rollout --env real --port twin --camera twin"
_CHECK: Final = (
    "if they are connected: is the arm powered, are the USB cables for data, and may you open the devices? "
    "The README's section on connecting has the udev rules"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the real arm."""
    add = parser.add_argument_group("real arm (--env real)").add_argument
    add(
        "--port",
        metavar="PORT|twin",
        help="serial port of the arm, such as /dev/ttyACM0 or COM5; twin for the virtual one (default: the board that "
        "is found on USB)",
    )
    add(
        "--camera",
        action="append",
        default=[],
        metavar="[NAME=]SERIAL|twin",
        help="serial number of the RealSense; repeatable, each with its name then, such as wrist=SERIAL; "
        "twin for the virtual ones (default: the only camera there is)",
    )
    add(
        "--speed-scale",
        type=float,
        metavar="S",
        help=f"share of the speed limits that may be used, up to 1 (default: {SLOWLY}; with the twin 1)",
    )
    add("--home", action="store_true", help="home the arm if it does not know its joint angles; the twin does anyway")
    add("--instruction", metavar="TEXT", help="what to tell the policy (default: the task's first sentence)")
    add("--lockstep", action="store_true", help="run the twin on simulated time, repeatably, not in real time")


def check(arguments: argparse.Namespace) -> None:
    """Refuses options that do not fit together.

    Raises:
        OptionError: One of them has no meaning here.
    """
    real, twin = arguments.env == "real", arguments.port == TWIN
    given = {
        "--port": arguments.port,
        "--camera": arguments.camera or None,
        "--speed-scale": arguments.speed_scale,
        "--home": arguments.home or None,
        "--instruction": arguments.instruction,
        "--lockstep": arguments.lockstep or None,
    }
    for name, value in given.items():
        if value is not None and not real:
            raise OptionError(name, value, "only with --env real")
    if not real:
        return
    scale = arguments.speed_scale
    if scale is not None and not 0.0 < scale <= 1.0:
        raise OptionError("--speed-scale", scale, "a number above 0 and up to 1")
    serials = _serials(arguments.camera)
    virtual = {serial == TWIN for serial in serials.values()}
    if twin and False in virtual:
        raise OptionError("--camera", " ".join(arguments.camera), "twin where the port is")
    if twin and arguments.instruction is not None:
        raise OptionError("--instruction", arguments.instruction, "the twin's task says what to do")
    if twin:
        return
    if True in virtual:
        raise OptionError("--camera", " ".join(arguments.camera), "twin only with --port twin")
    if arguments.lockstep:
        raise OptionError("--lockstep", True, "only with --port twin: a real arm cannot wait")
    if getattr(arguments, "randomization", None) is not None:
        raise OptionError("--randomization", arguments.randomization, "only in the simulation and with --port twin")
    if arguments.policy == "expert":
        raise OptionError("--policy", "expert", "only in the simulation and with --port twin: it knows where all lies")
    if arguments.instruction is not None and not arguments.instruction.strip():
        raise OptionError("--instruction", arguments.instruction, "a sentence")


def find_devices(arguments: argparse.Namespace) -> None:
    """Makes sure that what was asked for is connected.

    Raises:
        DeviceError: It is not; the notes say what was looked for, what was found and what can be done.
        MissingExtraError: The packages of the extra ``real`` are not installed.
    """
    from smolvla_gym.drivers.cameras.librealsense import list_cameras, load

    try:
        from serial.tools.list_ports import comports
    except ImportError as error:
        raise MissingExtraError("A PAROL6 on a serial port", "real", error) from error
    if arguments.port == TWIN:
        load()
        return
    from smolvla_gym.drivers.board.serial_port import USB_ID

    ports = sorted(comports(), key=lambda port: str(port.device))
    names = [str(port.device) for port in ports]
    boards = [str(port.device) for port in ports if (port.vid, port.pid) == USB_ID]
    about = f"the control board, a serial port with the USB id {USB_ID[0]:04x}:{USB_ID[1]:04x}"
    port, missing = arguments.port, []
    if port is not None:
        about = f"the port {port}"
        boards = [port] if "://" in port or port in names or os.path.exists(port) else []
    if len(boards) > 1:
        raise DeviceError(f"Several boards are connected: {', '.join(boards)}. Name the arm's with --port.")
    if not boards:
        missing.append("the arm")
    found = boards[0] if boards else f"none; serial ports there are: {', '.join(names) or 'none'}"
    notes = [f"looked for {about}; found: {found}"]

    wanted = sorted(_serials(arguments.camera).values())
    try:
        cameras, trouble = list_cameras(), ""
    except (DeviceError, MissingExtraError) as error:
        cameras, trouble = [], f" ({error})"
    absent = [serial for serial in wanted if serial not in {camera.serial for camera in cameras}]
    if absent or not cameras:
        missing.append("its camera")
    looked = f"RealSense cameras with the serial {', '.join(wanted)}" if wanted else "RealSense cameras"
    notes.append(f"looked for {looked}; found: {', '.join(map(str, cameras)) or 'none'}{trouble}")
    if missing:
        missed = DeviceError(f"Not found: {' and '.join(missing)}.")
        for note in (*notes, _CHECK, _TRY_TWIN):
            missed.add_note(note)
        raise missed


def env_options(arguments: argparse.Namespace, cameras: tuple[str, ...] | None) -> dict[str, Any]:
    """Returns what ``gym.make`` needs beyond what the simulation takes too.

    Args:
        arguments: The command line; checked.
        cameras: The cameras that the policy looks through; None: any.

    Raises:
        OptionError: The cameras on the command line are not those.
    """
    serials = _serials(arguments.camera)
    twin = arguments.port == TWIN
    options: dict[str, Any] = {"port": arguments.port, "realtime": not arguments.lockstep}
    if arguments.home:
        options["home"] = True
    scale = arguments.speed_scale
    if scale is None and not twin:
        print(f"smolvla-gym: starting slowly ({SLOWLY:g}), --speed-scale 1 for full speed", file=sys.stderr, flush=True)
        scale = SLOWLY
    options["speed_scale"] = 1.0 if scale is None else scale
    if arguments.instruction is not None:
        options["instruction"] = arguments.instruction
    named = {name: serial for name, serial in serials.items() if name}
    if twin:
        return {**options, "camera": TWIN} | ({"cameras": tuple(named)} if named and cameras is None else {})
    if cameras is None:
        # Whoever looks at nothing in particular gets what there is.
        return options | ({"cameras": tuple(named), "camera": named} if named else {"camera": serials.get("")})
    if (named and set(named) != set(cameras)) or (not named and len(cameras) > 1):
        usage = " ".join(f"--camera {name}=SERIAL" for name in cameras)
        allowed = f"the policy looks through {' and '.join(cameras)}, and each needs a serial number: {usage}"
        raise OptionError("--camera", " ".join(arguments.camera) or None, allowed)
    return {**options, "camera": named or serials.get("")}


def announce_homing(env: gym.Env[Any, Any], arguments: argparse.Namespace) -> None:
    """Says that the arm will move for half a minute, where the first reset will home it.

    Raises:
        NotHomedError: It has to be homed and nobody asked for that.
    """
    body: Any = env.unwrapped
    state = body.backend.link.state()
    if state.homed or state.fault is not None:
        return
    if not arguments.home and arguments.port != TWIN:
        raise NotHomedError(
            "The arm does not know its joint angles: after power-up it has to be homed. It moves by itself for half a "
            "minute then: clear its surroundings, keep the emergency stop at hand, and add --home."
        )
    print("smolvla-gym: homing: the arm moves by itself for half a minute …", file=sys.stderr, flush=True)


def _serials(given: list[str]) -> dict[str, str]:
    """Returns the serial numbers by camera; one without a name has the name ``""``.

    Raises:
        OptionError: A name is unknown or there twice, or missing where there are several.
    """
    from smolvla_gym.sim.scene import check_cameras

    serials: dict[str, str] = {}
    for text in given:
        name, equals, serial = text.rpartition("=")
        name, serial = name.strip(), serial.strip()
        if equals:
            check_cameras((name,))
        if not serial or name in serials:
            raise OptionError("--camera", text, "SERIAL, or NAME=SERIAL once for each of several cameras")
        serials[name] = serial
    if "" in serials and len(serials) > 1:
        raise OptionError("--camera", " ".join(given), "of several cameras each needs its name, as in wrist=SERIAL")
    return serials
