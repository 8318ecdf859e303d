"""Drivers of the two grippers: their part of each command frame, and their state by the replies."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from enum import Enum, auto
from typing import Final, override

from smolvla_gym.drivers.board.state import BoardSettings
from smolvla_gym.parol6 import Gripper, get_gripper
from smolvla_gym.parol6.protocol import (
    GripperCommand,
    GripperFlag,
    GripperMode,
    GripperObject,
    GripperStatus,
    Line,
    StateFrame,
)

_CLOSED = 255
_CURRENT = 500
"""Limit in mA: the drive's default; above 700 its maker warns of damage, below 150 it may not move."""

_SPEED_BYTES = (0.00009, 0.184)
"""Jaw speeds in m/s that the speed bytes 0 and 255 stand for."""

_SETTLED = 0.3
"""Time in s for which a calibrated gripper has to stand still until its search counts as finished."""

_DWELL = 0.8
"""The same for a gripper that was calibrated before, whose status does not show the end of another calibration: longer
than the 0.64 s for which the drive stands at each end."""

_ENDS = (10, 245)
"""Positions up to which the jaws count as fully open, and from which on as fully closed."""

_PREPARATION = 3
"""Frames without a target before a calibration is requested: a later change would end it, and a frame may be lost."""

_BEGIN = 1.0
"""Time in s in which a calibration has to begin before the request is repeated: it can get lost on the bus."""

_CLEARING = 0.5
"""Time in s that the drive has to clear its errors."""

_TRIES = 3
"""Largest number of requests: each restarts a calibration that has begun unnoticed."""

_ANSWER = 1.0
"""Time in s that a gripper has to answer, which is a hundred requests."""

_UNANSWERED: Final = (GripperStatus().position, GripperStatus().current, GripperStatus().status)


class GripperDriver(ABC):
    """A gripper behind the board. The board's driver passes every reply on to it and sends its part of every frame."""

    @abstractmethod
    def wake(self, now: float) -> None:
        """Make the gripper ready for commands; ``now`` is in s."""

    @abstractmethod
    def calibrate(self, now: float) -> None:
        """Have the gripper find its ends, from the moment ``now`` in s."""

    def sleep(self, now: float) -> None:  # noqa: B027 - an air gripper has nothing to stop
        """End waking and calibrating, and forget a failure; a gripper that works keeps its grip."""

    def observe(self, reply: StateFrame, now: float) -> None:
        """Take note of a reply that came at the moment ``now`` in s."""
        self._reply = reply

    @property
    def ready(self) -> bool:
        """Return whether it takes commands."""
        return True

    def problem(self, now: float) -> str | None:
        """Return in words why it is not ready, though it should be by ``now`` in s; None where there is no problem."""
        return None

    @property
    @abstractmethod
    def opening(self) -> float:
        """Return its opening, 0 closed to 1 open, as far as it is known."""

    @property
    def object(self) -> GripperObject:
        """Return what its object detection reports."""
        return GripperObject.AT_POSITION

    @abstractmethod
    def part(self, opening: float | None) -> tuple[GripperCommand, int]:
        """Return its part of the next frame: a command and the output lines.

        Args:
            opening: Where to go, 0 closed to 1 open; None: stay as it is.
        """


class AirGripper(GripperDriver):
    """An air gripper: a valve on OUT1. It reports nothing, so its last command counts as its state."""

    def __init__(self, invert: bool) -> None:
        """Prepare the driver; ``invert``: OUT1 closes it."""
        self._invert = invert
        self._lines = 0

    @override
    def wake(self, now: float) -> None:
        """Do nothing: it is always awake."""

    @override
    def calibrate(self, now: float) -> None:
        """Do nothing: it has no ends to find."""

    @property
    @override
    def opening(self) -> float:
        return float(bool(self._lines) != self._invert)

    @override
    def part(self, opening: float | None) -> tuple[GripperCommand, int]:
        if opening is not None:
            self._lines = int(Line.OUT1) if (opening >= 0.5) != self._invert else 0
        return GripperCommand(), self._lines


class _Phase(Enum):
    ASLEEP = auto()
    WAKING = auto()
    CALIBRATING = auto()
    READY = auto()


class ElectricGripper(GripperDriver):
    """An SSG-48 behind the board's CAN bus. It has to be calibrated after every power-up and activated."""

    def __init__(self, gripper: Gripper, timeout: float) -> None:
        """Prepare the driver of a gripper; a calibration may take ``timeout`` s."""
        self._timeout = timeout
        slowest, fastest = _SPEED_BYTES
        self._speed = round(255 * (gripper.jaw_speed - slowest) / (fastest - slowest))
        self._phase = _Phase.ASLEEP
        self._since = 0.0  # when the phase began
        self._moved = 0.0  # when the jaws last moved
        self._status = GripperStatus()
        self._command = GripperCommand()
        self._asked = -math.inf  # when the present calibration was last asked for
        self._begun = False  # whether a reply has shown that it began
        self._frames = 0  # sent since the calibration was to begin
        self._known = False  # whether it was calibrated before
        self._seen = [False, False]  # the fully open end, the fully closed end
        self._tries = 0  # how often it was asked for
        self._cleared = False  # whether the drive's errors were cleared since it was woken
        self._now = 0.0  # of the last reply

    @override
    def wake(self, now: float) -> None:
        self._enter(_Phase.WAKING, now)
        self._cleared = False
        self._command = self._to(self._status.position, GripperFlag.ACTIVATE)

    @override
    def calibrate(self, now: float) -> None:
        self._enter(_Phase.CALIBRATING, now)
        self._moved, self._asked, self._begun = now, -math.inf, False
        self._tries, self._now, self._frames = 0, now, 0
        self._known, self._seen = self._status.calibrated, [False, False]
        self._command = self._to(self._command.position, GripperFlag.ACTIVATE)

    @override
    def sleep(self, now: float) -> None:
        if not self.ready or self.problem(now) is not None:
            self._enter(_Phase.ASLEEP, now)
            self._command = GripperCommand()

    @override
    def observe(self, reply: StateFrame, now: float) -> None:
        self._now = now
        if reply.gripper.position != self._status.position:
            self._moved = now
            self._begun = True
        self._status = reply.gripper
        # Before a gripper answers the board reports these bytes, which seem calibrated. An active gripper cannot.
        answered = (self._status.position, self._status.current, self._status.status) != _UNANSWERED
        # Errors stay until the drive has cleared them, which takes a moment.
        if self._phase is _Phase.WAKING and answered and (not self._failing or now - self._since > _CLEARING):
            if self._status.calibrated:
                self._enter(_Phase.READY, now)
            else:
                self.calibrate(now)
        elif self._phase is _Phase.CALIBRATING and self._tries:
            self._check_calibration(now)

    def _check_calibration(self, now: float) -> None:
        """End the calibration where the replies show that it is complete: it opens first and then closes."""
        opened, closed = _ENDS
        self._seen[0] |= self._status.position <= opened
        self._seen[1] |= self._status.position >= closed
        # The bit of an earlier calibration stays set, so the ends have to be seen.
        complete = not self._known or (all(self._seen) and self._status.position >= closed)
        if self._status.calibrated and complete and now - self._moved >= (_DWELL if self._known else _SETTLED):
            self._enter(_Phase.READY, now)

    @property
    @override
    def ready(self) -> bool:
        return self._phase is _Phase.READY

    @override
    def problem(self, now: float) -> str | None:
        waited = now - self._since
        if self._phase is _Phase.WAKING and waited > _ANSWER:
            return "The electric gripper does not answer on the CAN bus: is it powered, and its CAN id 0?"
        if self._phase is _Phase.CALIBRATING and waited > self._timeout:
            return f"The electric gripper was not calibrated within {self._timeout:g} s: do its jaws move freely?"
        if self._phase is _Phase.READY:
            status = self._status
            lacks = {
                "is no longer calibrated: did it lose its power?": not status.calibrated,
                "is too hot.": status.temperature_error,
                "missed commands and stopped.": status.timeout_error,
                "is held by its own emergency stop.": status.estop_error,
            }
            return next((f"The electric gripper {lack}" for lack, shown in lacks.items() if shown), None)
        return None

    @property
    @override
    def opening(self) -> float:
        return min(max(1.0 - self._status.position / _CLOSED, 0.0), 1.0)

    @property
    @override
    def object(self) -> GripperObject:
        return self._status.object

    @override
    def part(self, opening: float | None) -> tuple[GripperCommand, int]:
        calibrating = self._phase is _Phase.CALIBRATING
        self._frames += calibrating
        due = self._frames > _PREPARATION and self._now - self._asked >= _BEGIN
        if calibrating and due and not self._begun and self._tries < _TRIES:
            self._asked = self._now
            self._tries += 1
            return self._to(self._command.position, GripperFlag.ACTIVATE, GripperMode.CALIBRATE), 0
        if self._phase is _Phase.WAKING and self._failing and not self._cleared:
            self._cleared = True
            return self._to(self._command.position, GripperFlag.ACTIVATE, GripperMode.CLEAR_ERROR), 0
        if opening is not None and self.ready:
            position = round((1.0 - min(max(opening, 0.0), 1.0)) * _CLOSED)
            self._command = self._to(position, GripperFlag.ACTIVATE | GripperFlag.GO_TO)
        return self._command, 0

    @property
    def _failing(self) -> bool:
        return self._status.temperature_error or self._status.timeout_error or self._status.estop_error

    def _enter(self, phase: _Phase, now: float) -> None:
        self._phase, self._since = phase, now

    def _to(self, position: int, flags: GripperFlag, mode: GripperMode = GripperMode.OPERATE) -> GripperCommand:
        return GripperCommand(position=position, speed=self._speed, current=_CURRENT, flags=flags, mode=mode)


def make_gripper_driver(settings: BoardSettings) -> GripperDriver:
    """Build the driver of the gripper that is mounted."""
    gripper = get_gripper(settings.gripper)
    if gripper.binary:
        return AirGripper(settings.invert_output)
    return ElectricGripper(gripper, settings.gripper_timeout)
