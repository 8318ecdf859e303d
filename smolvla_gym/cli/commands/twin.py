"""``smolvla-gym twin``: run the virtual board alone on a serial port that any program can open."""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.options.arguments import integer, reader_of
from smolvla_gym.cli.options.parser import AddParser, Options, command, option
from smolvla_gym.cli.output import say
from smolvla_gym.errors import OptionError, SmolVLAGymError, UnknownNameError
from smolvla_gym.twin.faults import NAMES

if TYPE_CHECKING:
    from smolvla_gym.twin.faults import Faults
    from smolvla_gym.twin.twin import Twin

_NAMES: Final = tuple(name for name in NAMES if not name.startswith("camera"))
"""Faults of a board without cameras."""

_AT_REST: Final = 0.01
"""Speed in rad/s below which a joint counts as resting: 0.5 degrees/s."""

_PERIOD: Final = reader_of(float, "a number of seconds of at least 0.01", lambda value: 0.01 <= value < math.inf)

_HELP: Final = """\
commands on the standard input:
  NAME on|off      a fault, such as `estop on`, `silence off`, `unplugged on`
  NAME VALUE       a fault that is a number, such as `delay_s 0.05`
  clear            ends all faults
  status           prints the state as a line of JSON
  help             prints this
  quit             ends the board, as Ctrl-C does
"""

_EXAMPLES: Final = """examples:
  smolvla-gym twin                                  just switched on: it has to be homed
  smolvla-gym twin --homed --status 1               a line of JSON each second
  smolvla-gym twin --fault estop@5:2                the emergency stop is pressed after 5 s, for 2 s
  smolvla-gym twin --fault delay_s=0.05             all replies come 50 ms late
  smolvla-gym twin --homed --cameras wrist scene    its cameras as MJPEG, for --camera wrist=http://...

"""


@dataclass(frozen=True, order=True)
class FaultEvent:
    """Change of a fault at a time.

    Attributes:
        time: Time in s after the start.
        name: Name of the fault.
        value: Its value from then on.
    """

    time: float
    name: str
    value: bool | float | None


@dataclass(kw_only=True)
class TwinOptions(Options):
    """Options of ``smolvla-gym twin``."""

    gripper: str = option("the gripper that is mounted", "ssg48")
    homed: bool = option("the board was homed before; otherwise it was just switched on", False)
    fault: list[str] = option(
        "fault to inject, from the beginning or AFTER some seconds, to the end or for DURATION seconds; repeatable. "
        f"Names: {', '.join(_NAMES)}", [], repeat=True, metavar="NAME[=VALUE][@AFTER[:DURATION]]",
    )  # fmt: skip
    cameras: list[str] = option(
        "cameras to serve as MJPEG on the loopback, wrist and scene; their addresses follow on stdout, and the faults "
        "of cameras can be injected", [], metavar="NAME",
    )  # fmt: skip
    http_port: int = option("port of the cameras; 0 takes a free one", 0, parse=integer)
    status: float | None = option(
        "period at which the state is printed as a line of JSON on stdout", None, parse=_PERIOD, metavar="SECONDS"
    )


def run(options: TwinOptions) -> int:
    """Run the board until the program is interrupted."""
    from smolvla_gym.parol6 import get_gripper
    from smolvla_gym.sim.scene import check_cameras
    from smolvla_gym.twin.virtual_camera import MJPEG

    get_gripper(options.gripper)
    check_cameras(tuple(options.cameras))
    names = NAMES if options.cameras else _NAMES
    events = sorted(event for text in options.fault for event in parse_fault(text, names))
    try:
        from smolvla_gym.twin.twin import Twin
    except ImportError as error:  # Windows has no pseudo-terminals
        raise SmolVLAGymError(f"The virtual board needs the pseudo-terminals of Linux or macOS ({error}).") from error

    twin = Twin(
        gripper=options.gripper, homed=options.homed, cameras=tuple(dict.fromkeys(options.cameras)), transport=MJPEG,
        http_port=options.http_port,
    )  # fmt: skip
    try:
        _apply(events, 0.0, twin.faults)
        twin.start()
        print(twin.board.path, flush=True)
        for name, config in (twin.served.configs if twin.served is not None else {}).items():
            print(f"{name} {config.url}", flush=True)
        say(
            f"virtual board on {twin.board.path}, {'homed' if options.homed else 'not homed'}, {options.gripper}",
            f'open it as any serial port, or: gym.make("PAROL6Real-v0", port="{twin.board.path}", cameras=())',
            "type help for the faults that can be switched on; Ctrl-C ends it",
        )
        _Session(twin, events, options.status, names).serve()
    finally:
        twin.close()
    return 0


add_parser: AddParser = command(
    "twin", TwinOptions, run, examples=_EXAMPLES + _HELP,
    help="Run the virtual board alone on a serial port.",
    description="Runs the virtual board and arm in real time on a pseudo-terminal, whose path is the first line "
    "on stdout. Any program for the PAROL6 can open it.",
)  # fmt: skip


class _Session:
    """Loop of the running board: scheduled faults, commands, lines of state."""

    def __init__(self, twin: Twin, events: list[FaultEvent], period: float | None, names: Sequence[str]) -> None:
        self._twin, self._events, self._period, self._names = twin, events, period, names
        self._start = time.monotonic()
        # No SimpleQueue: in CPython 3.12 a signal near the end of the timeout can make its get() wait for ever.
        self._lines = queue.Queue[str]()

    def serve(self) -> None:
        """Run until ``quit``."""
        threading.Thread(target=self._read, name="commands", daemon=True).start()
        report = 0.0 if self._period is not None else math.inf
        while True:
            now = time.monotonic() - self._start
            self._events = _apply(self._events, now, self._twin.faults)
            if self._period is not None and now >= report:
                self._report()
                report += self._period * max(1, math.ceil((now - report) / self._period))
            following = min(report, *(event.time for event in self._events[:1]), now + 3600.0)
            try:
                line = self._lines.get(timeout=max(following - now, 0.001))
            except queue.Empty:
                continue
            if line == "quit":
                return
            self._obey(line)

    def _obey(self, line: str) -> None:
        words = line.split()
        if line == "status":
            self._report()
        elif line == "help":
            print(_HELP, end="", file=sys.stderr, flush=True)
        elif line == "clear":
            self._twin.faults.clear()
        elif words:
            try:
                if len(words) != 2:
                    raise UnknownNameError("command", line, ("NAME on", "NAME off", "clear", "status", "help", "quit"))
                self._twin.faults.set(_known(words[0], self._names), _value(words[1]))
            except (OptionError, UnknownNameError) as error:
                say(str(error))

    def _report(self) -> None:
        print(json.dumps(describe(self._twin, time.monotonic() - self._start)), flush=True)

    def _read(self) -> None:
        """Read commands; the board runs on after the end of the standard input."""
        if hasattr(signal, "pthread_sigmask"):
            # In the background of a shell the terminal would stop the whole process when it is read.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTIN})
        rest = b""
        try:
            # Python's own reader of the standard input holds a lock that hinders the end of the program.
            while data := os.read(0, 4096):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._lines.put(" ".join(line.decode(errors="replace").lower().split()))
        except OSError:
            return


def describe(twin: Twin, now: float) -> dict[str, Any]:
    """Return the state of a virtual arm, as JSON holds it.

    Args:
        twin: The arm.
        now: Time in s to report.
    """
    import numpy as np

    with twin.lock:
        twin.advance()
        speeds = [abs(float(twin.world.data.joint(f"joint_{i}").qvel[0])) for i in range(1, 7)]
        return {
            "time": round(now, 3),
            "joints": [round(angle, 3) for angle in np.rad2deg(twin.joints).tolist()],
            "counters": [round(count) for count in twin.board.firmware.counters.tolist()],
            "command": int(twin.command),
            "disabled": twin.disabled,
            "homed": twin.homed,
            "homing": twin.board.firmware.homing,
            "moving": max(speeds) > _AT_REST,
            "plugged": twin.board.plugged,
            "faults": {n: v for n in NAMES if (v := getattr(twin.faults, n)) not in (False, 0.0, None)},
        }


def parse_fault(text: str, names: Sequence[str] = _NAMES) -> list[FaultEvent]:
    """Read ``NAME[=VALUE][@AFTER[:DURATION]]``.

    Args:
        text: The text.
        names: Names of the faults that can be injected.

    Returns:
        The begin of the fault, and its end if it has one.

    Raises:
        UnknownNameError: There is no such fault.
        OptionError: The fault cannot have this value or these times.
    """
    from smolvla_gym.twin.faults import Faults

    fault, at, when = text.partition("@")
    name, equals, written = fault.partition("=")
    name = _known(name.strip(), names)
    value = _value(written) if equals else True
    trial = Faults()
    usual = getattr(trial, name)
    trial.set(name, value)
    after, colon, duration = when.partition(":")
    times = [_time(text, part) for part, given in ((after, at), (duration, colon)) if given]
    begin = times[0] if times else 0.0
    events = [FaultEvent(begin, name, value)]
    if colon:
        events.append(FaultEvent(begin + times[1], name, usual))
    return events


def _known(name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise UnknownNameError("fault", name, names)
    return name


def _value(text: str) -> bool | float:
    words = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
    with contextlib.suppress(ValueError):
        return words[word] if (word := text.strip().lower()) in words else float(text)
    raise OptionError("fault", text, "on, off or a number")


def _time(text: str, part: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.0 <= (seconds := float(part)) < math.inf:
            return seconds
    raise OptionError("--fault", text, "times in seconds, as in estop@5 or estop@5:2")


def _apply(events: list[FaultEvent], now: float, faults: Faults) -> list[FaultEvent]:
    """Apply the events that are due; return the others."""
    for event in events:
        if event.time <= now:
            faults.set(event.name, event.value)
    return [event for event in events if event.time > now]
