"""The command frame and the state frame, to bytes and back."""

from __future__ import annotations

import operator
import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import Final

from smolvla_gym.parol6.protocol.constants import (
    COMMAND_LENGTH,
    HEADER,
    NUM_JOINTS,
    STATE_LENGTH,
    TIMER_HZ,
    TRAILER,
    ZEROS,
    Command,
    GripperMode,
    GripperObject,
    Line,
    Steps,
)


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
    """State of an electric gripper as the board reports it. The defaults are the board's before any gripper answered.

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
        """Return whether it has been switched on."""
        return bool(self.status & 0x80)

    @property
    def action(self) -> bool:
        """Return whether its command has the flag ``GO_TO``."""
        return bool(self.status & 0x40)

    @property
    def moving(self) -> bool:
        """Return whether it is on its way to a position."""
        return self.action and self.object is GripperObject.MOVING

    @property
    def object(self) -> GripperObject:
        """Return its object detection, low bit first as in the gripper's firmware; other programs swap the two."""
        return GripperObject((self.status >> 5 & 1) | (self.status >> 4 & 1) << 1)

    @property
    def temperature_error(self) -> bool:
        """Return whether it is too hot."""
        return bool(self.status & 0x08)

    @property
    def timeout_error(self) -> bool:
        """Return whether it missed commands for too long."""
        return bool(self.status & 0x04)

    @property
    def estop_error(self) -> bool:
        """Return whether its own emergency stop holds it."""
        return bool(self.status & 0x02)

    @property
    def calibrated(self) -> bool:
        """Return whether it is calibrated. Also true where no gripper has ever answered the board."""
        return bool(self.status & 0x01)


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

    def pack(self) -> bytes:
        """Return the whole frame, 56 bytes.

        Raises:
            ValueError: A value does not fit its field.
        """
        rest = (self.command, self.affected_joint, self.lines, self.timeout, *astuple(self.gripper), self.check)
        return _pack(self.position, self.speed, _COMMAND_FIELDS, rest)

    @classmethod
    def unpack(cls, frame: bytes) -> CommandFrame:
        """Read a whole frame, 56 bytes.

        Raises:
            ValueError: The bytes are no command frame.
        """
        position, speed, rest = _unpack("command", frame, COMMAND_LENGTH, _COMMAND_FIELDS)
        command, affected_joint, lines, timeout, *gripper, check = rest
        return cls(command, position, speed, affected_joint, lines, timeout, GripperCommand(*gripper), check)


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

    @property
    def is_homed(self) -> tuple[bool, ...]:
        """Return whether J1 to J6 are homed, six values."""
        return tuple(bool(self.homed & 0x80 >> joint) for joint in range(NUM_JOINTS))

    @property
    def all_homed(self) -> bool:
        """Return whether every joint is homed."""
        return all(self.is_homed)

    @property
    def estop_pressed(self) -> bool:
        """Return whether the emergency stop is pressed, or its wire broken. The firmware only reports it."""
        return not self.lines & Line.ESTOP_RELEASED

    @property
    def period_s(self) -> float:
        """Return the time between the last two valid command frames in s, modulo 93.2 ms."""
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
        return _pack(self.position, self.speed, _STATE_FIELDS, rest)

    @classmethod
    def unpack(cls, frame: bytes) -> StateFrame:
        """Read a whole frame, 60 bytes.

        Raises:
            ValueError: The bytes are no state frame.
        """
        position, speed, rest = _unpack("state", frame, STATE_LENGTH, _STATE_FIELDS)
        homed, lines, temperature, misplaced, timing, timeout, command, *gripper, check = rest
        errors = (temperature, misplaced)
        return cls(position, speed, homed, lines, *errors, timing, timeout, command, GripperStatus(*gripper), check)


# What follows the positions and the speeds, in the order of the bytes, as codes of the struct module.
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
_JOINT_BYTES: Final = 3 * NUM_JOINTS


def _pack(position: Sequence[int], speed: Sequence[int], fields: dict[str, str], rest: Sequence[int]) -> bytes:
    values = (
        _field(name, value, struct.calcsize(code), code == "h")
        for (name, code), value in zip(fields.items(), rest, strict=True)
    )
    payload = _joints("position", position) + _joints("speed", speed) + b"".join(values) + TRAILER
    return HEADER + bytes([len(payload)]) + payload


def _joints(name: str, values: Sequence[int]) -> bytes:
    if len(values) != NUM_JOINTS:
        raise ValueError(f"{name}={values!r} has {len(values)} values instead of {NUM_JOINTS}.")
    return b"".join(_field(f"{name}[{joint}]", value, 3, True) for joint, value in enumerate(values))


def _field(name: str, value: int, size: int, signed: bool) -> bytes:
    try:
        return operator.index(value).to_bytes(size, "big", signed=signed)
    except (OverflowError, TypeError):
        low = -(1 << 8 * size - 1) if signed else 0
        high = low + (1 << 8 * size) - 1
        raise ValueError(f"{name}={value!r} does not fit: a whole number from {low} to {high} is needed.") from None


def _unpack(kind: str, frame: bytes, length: int, fields: dict[str, str]) -> tuple[Steps, Steps, tuple[int, ...]]:
    count = length - len(HEADER) - 1
    if len(frame) != length:
        raise ValueError(f"A {kind} frame has {length} bytes, not {len(frame)}.")
    if not frame.startswith(HEADER):
        raise ValueError(f"A {kind} frame begins with {HEADER.hex(' ')}, not {frame[: len(HEADER)].hex(' ')}.")
    if frame[len(HEADER)] != count:
        raise ValueError(f"The length byte of a {kind} frame is {count}, not {frame[len(HEADER)]}.")
    if not frame.endswith(TRAILER):
        raise ValueError(f"A {kind} frame ends with {TRAILER.hex(' ')}, not {frame[-len(TRAILER) :].hex(' ')}.")
    payload = frame[len(HEADER) + 1 : -len(TRAILER)]
    rest = struct.unpack(">" + "".join(fields.values()), payload[2 * _JOINT_BYTES :])
    return _steps(payload[:_JOINT_BYTES]), _steps(payload[_JOINT_BYTES : 2 * _JOINT_BYTES]), rest


def _steps(data: bytes) -> Steps:
    j1, j2, j3, j4, j5, j6 = (int.from_bytes(data[i : i + 3], "big", signed=True) for i in range(0, _JOINT_BYTES, 3))
    return j1, j2, j3, j4, j5, j6
