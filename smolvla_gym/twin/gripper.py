"""The virtual grippers: on the CAN bus of the control board, or at its first output.

The mechanics are in the simulation: ``target_opening`` is the setpoint of the drive, and ``advance`` takes the measured
opening of the jaws. Openings run from 0 (closed) to 1 (open).
"""

from __future__ import annotations

import struct
from enum import Enum, IntEnum

import numpy as np

from smolvla_gym.parol6 import GRIPPERS, get_gripper
from smolvla_gym.parol6.protocol import GripperFlag, GripperObject


class Can(IntEnum):
    """Commands on the CAN bus."""

    CLEAR_ERROR = 1
    OPERATE = 61
    CALIBRATE = 62


class NoGripper:
    """An empty flange, which does not answer, and the base of all grippers.

    Attributes:
        target_opening: Where the drive wants the jaws, 0..1; it moves at the speed of the drive.
    """

    def __init__(self) -> None:
        self.target_opening: float = 1.0

    def power_cycle(self) -> None:
        """Switch the power off and on. The jaws stay where they are."""

    def set_valve(self, on: bool) -> None:
        """Take the state of the board's output OUT1."""

    def on_can(self, node: int, command: int, data: bytes) -> bytes | None:
        """Take a message from the CAN bus.

        Args:
            node: Its destination.
            command: ``Can``.
            data: Up to 8 bytes.

        Returns:
            The data of the answer, None where there is none.
        """
        return None

    def advance(self, dt: float, opening: float) -> None:
        """Advance the time.

        Args:
            dt: Duration in s.
            opening: The opening of the jaws at the end of it, 0..1.
        """

    def _ramp(self, goal: float, reach: float) -> None:
        self.target_opening = min(max(goal, self.target_opening - reach), self.target_opening + reach)


class AirGripper(NoGripper):
    """The pneumatic gripper: OUT1 opens it, and nothing comes back."""

    _SPEED = GRIPPERS["pneumatic"].jaw_speed / GRIPPERS["pneumatic"].stroke

    def __init__(self) -> None:
        """Start as a board without power leaves it: closed."""
        self.target_opening: float = 0.0
        self._open = False

    def power_cycle(self) -> None:
        """Close: without power the valve falls back."""
        self._open = False

    def set_valve(self, on: bool) -> None:
        """Open with OUT1 on, close with it off."""
        self._open = on

    def advance(self, dt: float, opening: float) -> None:
        """Let air flow for dt in s."""
        self._ramp(float(self._open), self._SPEED * dt)


class _Phase(Enum):
    """Phase of the calibration."""

    IDLE = 0
    OPENING = 1
    CLOSING = 2


class SSG48(NoGripper):
    """The firmware of the electric gripper, as the CAN bus shows it.

    It moves only once calibrated, activated and with the flag ``GO_TO``. Calibration opens to the stop, then closes to
    the other, stands at each for a while, and takes these for fully open and fully closed. A new command ends it; the
    next one then begins where it ended. The bit of a calibration stays set during another one.
    Not documented are the shape of its current and how long it waits before it reports an object: here the
    current is at its limit once the jaws are two counts behind, and 50 ms of that at a standstill are an object.
    """

    NODE = 0
    _STROKE = GRIPPERS["ssg48"].stroke
    _TICKS_PER_STROKE = _STROKE / (2 * np.pi * 0.006) * 16384
    _SLOW = 500 / _TICKS_PER_STROKE
    """Below it the jaws count as standing; openings/s."""
    _SMOOTHING = 0.02
    """Time constant of the measured speed in s."""
    _PATIENCE = 0.05
    """How long they have to stand, in s."""
    _TOLERANCE = 2 / 255
    _DWELL = 0.64
    """How long the jaws stand at each stop in a calibration, in s."""
    _TIMEOUT = 30.0
    """Time in s after which a calibration fails."""
    _CALIBRATION_SPEED, _CALIBRATION_CURRENT = 40, 500
    _SHORTEST = 0.05
    """Openings between the two stops below which a calibration has failed."""

    def __init__(self) -> None:
        """Start without calibration, jaws open."""
        super().__init__()
        self._opening = 1.0
        self.power_cycle()

    def power_cycle(self) -> None:
        """Forget its calibration and its commands."""
        self._phase, self._next_phase = _Phase.IDLE, _Phase.OPENING
        self.calibrated: bool = False
        self._calibrating = 0.0  # for how long, in s
        self._closed_stop, self._open_stop = 0.0, 1.0
        self._found_open = 1.0
        self._position = self._speed = self._current_limit = 0
        self._flags = GripperFlag(0)
        self._estop_error = False
        self._velocity = self._standing = self._blocked = 0.0
        self.target_opening: float = self._opening

    def set_calibrated(self) -> None:
        """Calibrate at once and without moving: the stops are where they should be."""
        self._phase, self.calibrated = _Phase.IDLE, True

    # -- CAN bus ---------------------------------------------------------------------------------------------------

    def on_can(self, node: int, command: int, data: bytes) -> bytes | None:
        """Obey a message; answers position, current in mA and the status byte to one that operates it."""
        if node != self.NODE:
            return None
        if command == Can.CALIBRATE:
            self._phase, self._standing, self._calibrating = self._next_phase, 0.0, 0.0
            self._closed_stop, self._open_stop = 0.0, 1.0
        elif command == Can.CLEAR_ERROR:
            self._estop_error = False
        elif command == Can.OPERATE:
            if len(data) == 5:
                self._position, self._speed, self._current_limit, flags = struct.unpack(">BBhB", data)
                self._flags = GripperFlag(flags)
                self._phase = _Phase.IDLE
            if GripperFlag.ESTOP in self._flags:
                self._estop_error = True
            return struct.pack(">BhB", self.position, self.current, self.status)
        return None

    @property
    def position(self) -> int:
        """Return the position of the jaws: 0 fully open to 255 fully closed."""
        share = (self._open_stop - self._opening) / (self._open_stop - self._closed_stop)
        return round(255 * min(max(share, 0.0), 1.0))

    @property
    def current(self) -> int:
        """Current of the motor in mA, positive where it closes."""
        limit = self._current_limit if self._phase is _Phase.IDLE else self._CALIBRATION_CURRENT
        return round(limit * min(max(self._lag / self._TOLERANCE, -1.0), 1.0)) if self._goal is not None else 0

    @property
    def object(self) -> GripperObject:
        """Return its object detection."""
        goal = self._goal
        if goal is None:
            return GripperObject.MOVING
        if self._blocked >= self._PATIENCE:
            return GripperObject.WHILE_CLOSING if self._lag > 0.0 else GripperObject.WHILE_OPENING
        return GripperObject.AT_POSITION if abs(self._opening - goal) <= self._TOLERANCE else GripperObject.MOVING

    @property
    def status(self) -> int:
        """Return the status byte; its object bits come low bit first."""
        detected = self.object
        return (
            0x80 * (GripperFlag.ACTIVATE in self._flags)
            | 0x40 * (GripperFlag.GO_TO in self._flags)
            | 0x20 * (detected & 1)
            | 0x10 * (detected >> 1)
            | 0x02 * self._estop_error
            | 0x01 * self.calibrated
        )

    # -- drive -----------------------------------------------------------------------------------------------------

    def advance(self, dt: float, opening: float) -> None:
        """Advance its drive by dt in s, after which the jaws are at an opening 0..1."""
        if dt <= 0.0:
            return
        self._velocity += ((opening - self._opening) / dt - self._velocity) * dt / (dt + self._SMOOTHING)
        self._opening = opening
        slow = abs(self._velocity) < self._SLOW
        self._standing = self._standing + dt if slow else 0.0
        self._blocked = self._blocked + dt if slow and abs(self._lag) > self._TOLERANCE else 0.0
        self._calibrate(dt)
        goal = self._goal
        if goal is None:
            self.target_opening = opening
            return
        if (goal - opening) * self._lag > 0.0:  # It reverses: the force is gone at once.
            self.target_opening = opening
        speed = self._speed if self._phase is _Phase.IDLE else self._CALIBRATION_SPEED
        self._ramp(goal, (40 + speed / 255 * (80_000 - 40)) / self._TICKS_PER_STROKE * dt)

    @property
    def _lag(self) -> float:
        """Return the opening of the jaws beyond the setpoint of the drive."""
        return self._opening - self.target_opening

    @property
    def _goal(self) -> float | None:
        """Return the opening that the drive moves to; None where it is idle."""
        if self._estop_error:
            return None
        if self._phase is not _Phase.IDLE:
            return float(self._phase is _Phase.OPENING)
        if not self.calibrated:
            return None
        if GripperFlag.ACTIVATE in self._flags and GripperFlag.GO_TO in self._flags:
            return self._open_stop - self._position / 255 * (self._open_stop - self._closed_stop)
        return None

    def _calibrate(self, dt: float) -> None:
        """Take the next step of a calibration once the jaws have stood at a stop."""
        if self._phase is _Phase.IDLE:
            return
        self._calibrating += dt
        if self._calibrating > self._TIMEOUT:
            self._phase, self._next_phase, self.calibrated = _Phase.IDLE, _Phase.OPENING, False
        elif self.target_opening == self._goal and self._standing >= self._DWELL:
            self._standing = 0.0
            if self._phase is _Phase.OPENING:
                self._phase = self._next_phase = _Phase.CLOSING
                self._found_open = self._opening
            else:
                self._phase, self._next_phase = _Phase.IDLE, _Phase.OPENING
                self._end_calibration()

    def _end_calibration(self) -> None:
        """Take the two stops as fully open and fully closed, unless they are too close to each other."""
        if self._found_open - self._opening >= self._SHORTEST:
            self.calibrated = True
            self._closed_stop, self._open_stop = self._opening, self._found_open


def make_gripper(name: str) -> NoGripper:
    """Build the gripper of this name.

    Raises:
        UnknownNameError: There is no gripper of this name.
    """
    return SSG48() if get_gripper(name).name == "ssg48" else AirGripper()
