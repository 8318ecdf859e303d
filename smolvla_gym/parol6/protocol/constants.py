"""Codes, flags and lengths of the control board's protocol."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

NUM_JOINTS = 6
Steps = tuple[int, int, int, int, int, int]

ZEROS: Steps = (0, 0, 0, 0, 0, 0)

HEADER: Final = b"\xff\xff\xff"
"""Begins every frame; a byte follows with the number of bytes after itself."""

TRAILER: Final = b"\x01\x02"
"""Ends every frame."""

COMMAND_LENGTH: Final = 56
"""Bytes of a whole command frame, header and trailer included."""

STATE_LENGTH: Final = 60
"""Bytes of a whole state frame, header and trailer included."""

TIMER_HZ: Final = 703_125
"""Ticks per s of the board's timer."""


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
    """Mode of an electric gripper; the last two are sent once, then ``OPERATE`` again."""

    OPERATE = 0
    CALIBRATE = 1
    CLEAR_ERROR = 2


class GripperObject(IntEnum):
    """Object detection of an electric gripper."""

    MOVING = 0
    WHILE_CLOSING = 1
    WHILE_OPENING = 2
    AT_POSITION = 3


def avoid_header_byte(count: int) -> int:
    """Return a count, or the one below it where its last byte would be FF.

    A board that has lost its place, as a frame was cut off, takes any three FF for the header of the next frame. The
    count -1 is three FF. Where a 0 follows, the board takes it for the length, and receives no frame until its power is
    switched off. Counts of which none ends with FF have no three FF in a row; an error of a microstep is negligible.
    """
    return count - (count & 0xFF == 0xFF)


def wrap24(value: int) -> int:
    """Wrap a count into signed 24 bits, as the firmware's report does."""
    return (value + 0x800000 & 0xFFFFFF) - 0x800000
