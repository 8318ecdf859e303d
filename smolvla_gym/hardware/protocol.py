"""The control board's serial protocol: frames to bytes and back. Pure: no port, no clock.

The PC sends 56-byte command frames and the board answers each valid one with one 60-byte state frame; it never speaks
on its own. Numbers are big-endian, positions and speeds signed 24-bit counts of microsteps, flags begin at 0x80.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

NUM_JOINTS = 6
Steps = tuple[int, int, int, int, int, int]

ZEROS: Steps = (0, 0, 0, 0, 0, 0)


class Command(IntEnum):
    """Command codes of the firmware, decimal. The last one received stays in force until another comes."""

    HOME = 100
    ENABLE = 101
    DISABLE = 102
    CLEAR = 103
    JOG = 123
    MOVE = 156
    IDLE = 255


class Line(IntFlag):
    """The input and output lines of the board, as both frames carry them."""

    IN1 = 0x80
    IN2 = 0x40
    OUT1 = 0x20
    OUT2 = 0x10
    ESTOP_RELEASED = 0x08


class GripperFlag(IntFlag):
    """Flags of a command to an electric gripper."""

    ACTIVATE = 0x80
    GO_TO = 0x40
    ESTOP = 0x20
    RELEASE_DIRECTION = 0x10


class GripperMode(IntEnum):
    """What an electric gripper is to do; the last two are sent once, then ``OPERATE`` again."""

    OPERATE = 0
    CALIBRATE = 1
    CLEAR_ERROR = 2


class GripperObject(IntEnum):
    """What an electric gripper felt."""

    MOVING = 0
    WHILE_CLOSING = 1
    WHILE_OPENING = 2
    AT_POSITION = 3


@dataclass(frozen=True)
class GripperCommand:
    """Command to an electric gripper.

    Attributes:
        position: 0 fully open to 255 fully closed.
        speed: 0 to 255.
        current: Limit in mA.
        flags: ``GripperFlag``.
        mode: ``GripperMode``.
        can_id: Its node on the CAN bus, 0 to 15.
    """

    position: int = 0
    speed: int = 0
    current: int = 0
    flags: int = 0
    mode: int = GripperMode.OPERATE
    can_id: int = 0


@dataclass(frozen=True)
class GripperStatus:
    """What the board passes on of an electric gripper. The defaults are the board's own before it heard of any.

    Attributes:
        can_id: The firmware never sets it.
        position: 0 fully open to 255 fully closed.
        speed: The firmware never sets it.
        current: In mA.
        status: The gripper's status byte.
        object_detection: The firmware never sets it; see :attr:`object`.
    """

    can_id: int = 0
    position: int = 0
    speed: int = 1
    current: int = 2
    status: int = 0x01
    object_detection: int = 1


@dataclass(frozen=True)
class CommandFrame:
    """PC to board.

    Attributes:
        command: ``Command``; any byte can be sent.
        position: Targets of J1 to J6 in microsteps.
        speed: Speeds of J1 to J6 in microsteps/s: of a jog, or fed forward in a move.
        affected_joint: Unused by the firmware.
        lines: ``Line``: the firmware sets OUT1 and OUT2 from it.
        timeout: In ms; unused by the firmware.
        gripper: Command to an electric gripper.
        check: A constant; the firmware does not look at it.
    """

    command: int
    position: Steps = ZEROS
    speed: Steps = ZEROS
    affected_joint: int = 0
    lines: int = 0
    timeout: int = 0
    gripper: GripperCommand = field(default_factory=GripperCommand)
    check: int = 228


@dataclass(frozen=True)
class StateFrame:
    """Board to PC.

    Attributes:
        position: Step counters of J1 to J6 in microsteps: what was commanded, there are no encoders.
        speed: Speeds that were last set, in microsteps/s; not measured.
        homed: A bit a joint, J1 = 0x80 to J6 = 0x04; the two lowest are always set.
        lines: ``Line``; the three lowest are always set.
        temperature_error: The firmware never sets it.
        position_error: The firmware never sets it.
        timing: Ticks of 703,125 Hz between the last two valid command frames, modulo 65536.
        timeout_error: A constant.
        command: Echo of the last command byte.
        gripper: State of the electric gripper.
        check: A constant.
    """

    position: Steps = ZEROS
    speed: Steps = ZEROS
    homed: int = 0x03
    lines: int = 0x0F
    temperature_error: int = 0x03
    position_error: int = 0x03
    timing: int = 0
    timeout_error: int = 100
    command: int = Command.IDLE
    gripper: GripperStatus = field(default_factory=GripperStatus)
    check: int = 212
