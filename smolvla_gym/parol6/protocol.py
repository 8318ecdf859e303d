"""Serial protocol of the control board: encoding and decoding of frames, without a port or a clock.

The PC sends 56-byte command frames, and the board replies to each valid one with one 60-byte state frame; it sends
nothing else. Numbers are big-endian, positions and speeds signed 24-bit counts of microsteps, flags begin at 0x80.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from enum import IntEnum, IntFlag
from typing import Final

from smolvla_gym.parol6.frame_codec import HEADER as HEADER
from smolvla_gym.parol6.frame_codec import NUM_JOINTS as NUM_JOINTS
from smolvla_gym.parol6.frame_codec import TRAILER as TRAILER
from smolvla_gym.parol6.frame_codec import Steps as Steps
from smolvla_gym.parol6.frame_codec import pack_frame, unpack_frame

ZEROS: Steps = (0, 0, 0, 0, 0, 0)

COMMAND_LENGTH: Final = 56
"""Bytes of a whole command frame, header and trailer included."""

STATE_LENGTH: Final = 60
"""Bytes of a whole state frame, header and trailer included."""

TIMER_HZ: Final = 703_125
"""Frequency of the board's timer in Hz."""


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
    """Input and output lines of the board, in both frames."""

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
    """Mode of a command to an electric gripper; the last two are sent once, then ``OPERATE`` again."""

    OPERATE = 0
    CALIBRATE = 1
    CLEAR_ERROR = 2


class GripperObject(IntEnum):
    """Object detection of an electric gripper."""

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
    """State of an electric gripper. The defaults are the board's own before any gripper has answered.

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

    @property
    def activated(self) -> bool:
        """True if the gripper is activated."""
        return bool(self.status & 0x80)

    @property
    def action(self) -> bool:
        """True if the gripper is commanded to a position."""
        return bool(self.status & 0x40)

    @property
    def moving(self) -> bool:
        """True while the gripper moves to a position."""
        return self.action and self.object is GripperObject.MOVING

    @property
    def object(self) -> GripperObject:
        """Object detection. The low bit comes first, as in the gripper's firmware; other programs swap the two."""
        return GripperObject((self.status >> 5 & 1) | (self.status >> 4 & 1) << 1)

    @property
    def temperature_error(self) -> bool:
        """True if the gripper is too hot."""
        return bool(self.status & 0x08)

    @property
    def timeout_error(self) -> bool:
        """True if the gripper got no command for too long."""
        return bool(self.status & 0x04)

    @property
    def estop_error(self) -> bool:
        """True if the gripper's own emergency stop is active."""
        return bool(self.status & 0x02)

    @property
    def calibrated(self) -> bool:
        """True if the gripper is calibrated, and also before any gripper has answered."""
        return bool(self.status & 0x01)


@dataclass(frozen=True)
class CommandFrame:
    """Frame from the PC to the board.

    Attributes:
        command: ``Command``; any byte can be sent.
        position: Targets of J1 to J6 in microsteps.
        speed: Speeds of J1 to J6 in microsteps/s: of a jog, or fed forward in a move.
        affected_joint: Unused by the firmware.
        lines: ``Line``: the firmware sets OUT1 and OUT2 from it.
        timeout: In ms; unused by the firmware.
        gripper: Command to an electric gripper.
        check: A constant; the firmware does not check it.
    """

    command: int
    position: Steps = ZEROS
    speed: Steps = ZEROS
    affected_joint: int = 0
    lines: int = 0
    timeout: int = 0
    gripper: GripperCommand = field(default_factory=GripperCommand)
    check: int = 228

    def pack(self) -> bytes:
        """Return the whole frame, 56 bytes.

        Raises:
            ValueError: A value does not fit its field.
        """
        rest = (self.command, self.affected_joint, self.lines, self.timeout, *astuple(self.gripper), self.check)
        return pack_frame(self.position, self.speed, _COMMAND_FIELDS, rest)

    @classmethod
    def unpack(cls, frame: bytes) -> CommandFrame:
        """Parse a whole frame, 56 bytes.

        Raises:
            ValueError: The bytes are not a command frame.
        """
        position, speed, rest = unpack_frame("command", frame, COMMAND_LENGTH, _COMMAND_FIELDS)
        command, affected_joint, lines, timeout, *gripper, check = rest
        return cls(command, position, speed, affected_joint, lines, timeout, GripperCommand(*gripper), check)


@dataclass(frozen=True)
class StateFrame:
    """Frame from the board to the PC.

    Attributes:
        position: Step counters of J1 to J6 in microsteps; there are no encoders.
        speed: Speeds that were last set, in microsteps/s; not measured.
        homed: One bit per joint, J1 = 0x80 to J6 = 0x04; the two lowest are always set.
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

    @property
    def is_homed(self) -> tuple[bool, ...]:
        """True for each joint that is homed, six values."""
        return tuple(bool(self.homed & 0x80 >> joint) for joint in range(NUM_JOINTS))

    @property
    def all_homed(self) -> bool:
        """True if every joint is homed."""
        return all(self.is_homed)

    @property
    def estop_pressed(self) -> bool:
        """True if the emergency stop is pressed or its wire broken. The firmware only reports it."""
        return not self.lines & Line.ESTOP_RELEASED

    @property
    def period_s(self) -> float:
        """Time between the last two valid command frames in s, modulo 93.2 ms."""
        return self.timing / TIMER_HZ

    def pack(self) -> bytes:
        """Return the whole frame, 60 bytes.

        Raises:
            ValueError: A value does not fit its field.
        """
        rest = (
            *(self.homed, self.lines, self.temperature_error, self.position_error, self.timing, self.timeout_error),
            *(self.command, *astuple(self.gripper), self.check),
        )
        return pack_frame(self.position, self.speed, _STATE_FIELDS, rest)

    @classmethod
    def unpack(cls, frame: bytes) -> StateFrame:
        """Parse a whole frame, 60 bytes.

        Raises:
            ValueError: The bytes are not a state frame.
        """
        position, speed, rest = unpack_frame("state", frame, STATE_LENGTH, _STATE_FIELDS)
        homed, lines, temperature, misplaced, timing, timeout, command, *gripper, check = rest
        errors = (temperature, misplaced)
        return cls(position, speed, homed, lines, *errors, timing, timeout, command, GripperStatus(*gripper), check)


class FrameParser[Frame: (CommandFrame, StateFrame)]:
    """Parser of frames in a stream of any bytes.

    It never raises and keeps less than one frame between calls. It returns a frame as soon as its last byte is there.
    Of bytes that only begin like a frame it drops a single one, so that a good frame behind them is not lost.

    Attributes:
        dropped: Number of bytes so far that belonged to no frame.
    """

    def __init__(self, unpack: Callable[[bytes], Frame], length: int) -> None:
        """Start with an empty buffer.

        Args:
            unpack: Function that parses a whole frame.
            length: Length of a whole frame in bytes.
        """
        self.dropped = 0
        self._unpack: Callable[[bytes], Frame] = unpack
        self._length = length
        # One pattern: within a longer run of FF only the last three are followed by the length.
        self._start = HEADER + bytes([length - len(HEADER) - 1])
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Add received bytes, any number, and return the frames that are complete now."""
        buffer, length, frames = self._buffer, self._length, list[Frame]()
        buffer += data
        done = 0  # All bytes before this index are in a frame or dropped.
        while (start := buffer.find(self._start, done)) >= 0:
            self.dropped += start - done
            done, end = start, start + length
            if end > len(buffer):
                break
            if buffer.startswith(TRAILER, end - len(TRAILER)):
                frames.append(self._unpack(bytes(buffer[start:end])))
                done = end
            else:
                self.dropped += 1
                done += 1
        else:
            tail = buffer[max(done, len(buffer) - len(HEADER)) :]
            kept = len(tail) - len(tail.rstrip(HEADER))
            self.dropped += len(buffer) - kept - done
            done = len(buffer) - kept
        del buffer[:done]
        return frames


class StateParser(FrameParser[StateFrame]):
    """Parser of the state frames that the board sends."""

    def __init__(self) -> None:
        super().__init__(StateFrame.unpack, STATE_LENGTH)


class CommandParser(FrameParser[CommandFrame]):
    """Parser of the command frames that a PC sends."""

    def __init__(self) -> None:
        super().__init__(CommandFrame.unpack, COMMAND_LENGTH)


def avoid_header_byte(count: int) -> int:
    """Return a count, or the one below it if its last byte is FF.

    After a truncated frame the board takes any three FF for the start of the next one, such as those of a -1. If a 0
    follows, it takes that for the length and accepts no more frames until its power is cycled. Counts that do not end
    with FF have no three FF in a row, and one microstep does not matter.
    """
    return count - (count & 0xFF == 0xFF)


def wrap24(value: int) -> int:
    """Wrap a count into signed 24 bits, as the firmware does in its reports."""
    return (value + 0x800000 & 0xFFFFFF) - 0x800000


# Fields after the positions and the speeds, in the order of the bytes, as codes of the struct module.
_COMMAND_FIELDS: Final = {
    "command": "B",
    "affected_joint": "B",
    "lines": "B",
    "timeout": "B",
    "gripper.position": "h",
    "gripper.speed": "h",
    "gripper.current": "h",
    "gripper.flags": "B",
    "gripper.mode": "B",
    "gripper.can_id": "B",
    "check": "B",
}
_STATE_FIELDS: Final = {
    "homed": "B",
    "lines": "B",
    "temperature_error": "B",
    "position_error": "B",
    "timing": "H",
    "timeout_error": "B",
    "command": "B",
    "gripper.can_id": "B",
    "gripper.position": "h",
    "gripper.speed": "h",
    "gripper.current": "h",
    "gripper.status": "B",
    "gripper.object_detection": "B",
    "check": "B",
}
