"""The firmware of the control board: bytes in, bytes and motor angles out, in simulated time.

It behaves as the real one, its defects included: it has no limits, no checksum and no watchdog, and the emergency stop
is only a bit in its reply. The demonstration program (command 69) is left out.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smolvla_gym.parol6 import NUM_JOINTS, STEPS_PER_RAD, Array
from smolvla_gym.parol6.protocol import (
    HEADER,
    TIMER_HZ,
    TRAILER,
    Command,
    CommandFrame,
    GripperCommand,
    GripperMode,
    GripperStatus,
    Line,
    StateFrame,
    Steps,
    wrap24,
)
from smolvla_gym.twin.gripper import SSG48, Can, NoGripper
from smolvla_gym.twin.homing import J5_MOVE, J5_MOVE_SSG48, Homing
from smolvla_gym.twin.motors import Motors


class Firmware:
    """The board since it was switched on.

    Packets are taken by :meth:`receive` and time passes in :meth:`advance`, under the command that came last. A packet
    is answered before it is carried out, so speeds, homed bits and the gripper's state are those from before it.

    Attributes:
        estop_pressed: Whether the emergency stop is pressed.
        inputs: ``Line``: what is on IN1 and IN2.
        outputs: ``Line``: what was last written to OUT1 and OUT2.
        disabled: Whether motion commands are ignored.
        gripper: What is mounted.
    """

    def __init__(self, motor: ArrayLike, gripper: NoGripper | None = None) -> None:
        """Switch the board on.

        Args:
            motor: Physical motor angles of the arm in microsteps, shape (6,).
            gripper: What is mounted; nothing by default.
        """
        self.gripper: NoGripper = NoGripper() if gripper is None else gripper
        self.estop_pressed = False
        self.inputs: Line = Line(0)
        self._boot(motor)

    def _boot(self, motor: ArrayLike) -> None:
        self._time = self._last_packet = 0.0
        self._parser = _Parser()
        self._command = CommandFrame(Command.IDLE)
        self._gripper_sent = GripperCommand()
        self._gripper_status = GripperStatus()
        self._motors = Motors(motor)
        self._slipped: Array = np.zeros(NUM_JOINTS)
        self._bend: Array = np.zeros(NUM_JOINTS)
        self._homing = Homing(self._motors, J5_MOVE_SSG48 if isinstance(self.gripper, SSG48) else J5_MOVE)
        self.outputs: Line = Line(0)
        self.disabled: bool = False

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def counters(self) -> Array:
        """Return the step counters in microsteps, shape (6,), not yet rounded."""
        return self._motors.counters.copy()

    @property
    def motor(self) -> Array:
        """Return physical motor angles in microsteps, shape (6,)."""
        return self._motors.position

    @property
    def offset(self) -> Array:
        """Return physical motor angles at which the counters are 0, in microsteps, shape (6,)."""
        return self._motors.offset.copy()

    @property
    def homed(self) -> NDArray[np.bool_]:
        """Return whether the joints count as homed, shape (6,)."""
        return self._homing.homed.copy()

    @property
    def homing(self) -> bool:
        """Return whether a homing is under way."""
        return self._homing.running

    @property
    def command(self) -> int:
        """Return the command in force."""
        return self._command.command

    # -- changes from outside ----------------------------------------------------------------------------------------

    def slip(self, joint: int, steps: float) -> None:
        """Turn a motor by microsteps that its counter does not count."""
        self._motors.offset[joint] += steps
        self._slipped[joint] += steps

    def shift_counter(self, joint: int, steps: float) -> None:
        """Change a counter by so many microsteps, and turn the motor with it."""
        self._motors.counters[joint] += steps

    def recover(self) -> None:
        """Turn the motors back by the steps lost since the joints were homed, as another homing would."""
        self._motors.offset -= self._slipped
        self._slipped[:] = 0.0

    def feel(self, joints: Array) -> None:
        """Set the true joint angles in rad, shape (6,), by which the limit switches act.

        Until the next call the difference between joints and motors stays as it is now; before the first it is zero.
        """
        self._bend = joints * STEPS_PER_RAD - self.motor

    def set_homed(self) -> None:
        """Home the arm at once and without moving it: the counters become what they should be here."""
        self._motors.counters, self._motors.offset = self.motor, np.zeros(NUM_JOINTS)
        self._slipped[:] = 0.0
        self._homing.homed[:] = True

    def lose_homing(self) -> None:
        """Forget that the joints are homed."""
        self._homing.homed[:] = False

    def reboot(self, motor: ArrayLike | None = None) -> None:
        """Switch the power of the board and the gripper off and on.

        Args:
            motor: Physical motor angles in microsteps then, shape (6,): without power the arm falls. As before by
                default.
        """
        self.gripper.power_cycle()
        self._boot(self.motor if motor is None else motor)

    def receive(self, data: bytes) -> list[bytes]:
        """Take bytes from the serial line; return one reply of 60 bytes to each packet that is accepted."""
        return [self._accept(packet) for packet in self._parser.feed(data)]

    def advance(self, dt: float, joints: Array | None = None) -> None:
        """Advance the firmware's loop.

        Args:
            dt: Duration in s.
            joints: True joint angles in rad at its beginning, shape (6,), as for :meth:`feel`.
        """
        if joints is not None:
            self.feel(joints)
        self._time += dt
        command, motors = self._command, self._motors
        if command.command == Command.JOG and not self.disabled:
            motors.run(command.speed, dt)
        elif command.command == Command.MOVE and not self.disabled:
            motors.pursue(command.position, command.speed, dt)
        elif self._homing.running and command.command in (Command.HOME, Command.IDLE):
            self._home(dt)
        elif command.command == Command.IDLE:
            motors.set_speed(command.speed)

    def _home(self, dt: float) -> None:
        self._slipped[:] = 0.0  # the switches show where the joints are
        left = self._homing.advance(dt, self._bend)
        if not self._homing.running and self.command == Command.HOME:
            self._homing.start()
            self._homing.advance(left, self._bend)

    # -- packets -----------------------------------------------------------------------------------------------------

    def _accept(self, packet: CommandFrame) -> bytes:
        self._command = packet
        self.outputs = Line(packet.lines) & (Line.OUT1 | Line.OUT2)
        answer = self._state().pack()
        self._last_packet = self._time
        self.gripper.set_valve(Line.OUT1 in self.outputs)
        self._bridge(packet.gripper)
        self._obey()
        return answer

    def _state(self) -> StateFrame:
        lines = 0x07 | self.inputs | self.outputs | (0 if self.estop_pressed else Line.ESTOP_RELEASED)
        return StateFrame(
            position=_report(self._motors.counters),
            speed=_report(self._motors.speed),
            homed=0x03 | sum(0x80 >> joint for joint in np.flatnonzero(self._homing.homed).tolist()),
            lines=int(lines),
            timing=round((self._time - self._last_packet) * TIMER_HZ) & 0xFFFF,
            command=self._command.command,
            gripper=self._gripper_status,
        )

    def _obey(self) -> None:
        """Carry out what takes no time."""
        match self.command:
            case Command.HOME if not self.disabled:
                if not self._homing.running:
                    self._homing.start()
            case Command.ENABLE:
                self.disabled = False
                self._homing.cancel()
            case Command.DISABLE:
                self.disabled = True
                self._homing.cancel()
            case Command.CLEAR:
                self._homing.cancel()
            case Command.JOG | Command.MOVE if not self.disabled:
                self._homing.cancel()
        if not self._homing.running:
            self.advance(0.0)

    def _bridge(self, command: GripperCommand) -> None:
        """Pass the gripper's part of a packet on to the CAN bus, and keep its answer for the next reply."""
        if command.mode == GripperMode.CALIBRATE:
            self.gripper.on_can(command.can_id, Can.CALIBRATE, b"")
            return
        if command.mode == GripperMode.CLEAR_ERROR:
            self.gripper.on_can(command.can_id, Can.CLEAR_ERROR, b"")
            return
        data = b""
        command = replace(command, mode=GripperMode.OPERATE)
        if command != self._gripper_sent:
            self._gripper_sent = command
            data = struct.pack(">BBhB", command.position & 0xFF, command.speed & 0xFF, command.current, command.flags)
        answer = self.gripper.on_can(command.can_id, Can.OPERATE, data)
        if answer is not None:
            position, current, status = struct.unpack(">BhB", answer)
            self._gripper_status = GripperStatus(position=position, current=current, status=status)


class _Parser:
    """The firmware's parser of packets.

    Three FF, a length, that many bytes; good if the last two are 01 02. The length is not compared with that of a
    packet, whose fields are read from a buffer that still holds what came before. So an FF too many makes a length of
    255, which swallows the next four packets, and a length of 0 is never reached again.
    """

    _SIZE = 255
    _FIELDS = 50

    def __init__(self) -> None:
        self._buffer = bytearray(self._SIZE)
        self._marks = 0
        self._length: int | None = None
        self._filled = 0

    def feed(self, data: bytes) -> list[CommandFrame]:
        """Take bytes; return the packets that they complete."""
        packets = []
        for byte in data:
            if self._marks < len(HEADER):
                self._marks = self._marks + 1 if byte == 0xFF else 0
            elif self._length is None:
                self._length, self._filled = byte, 0
            else:
                self._buffer[self._filled % self._SIZE] = byte
                self._filled += 1
                if self._filled == self._length:
                    if self._buffer[: self._length].endswith(TRAILER):
                        packets.append(self._packet())
                    self._marks, self._length = 0, None
        return packets

    def _packet(self) -> CommandFrame:
        fields = bytes(self._buffer[: self._FIELDS]) + TRAILER
        return CommandFrame.unpack(HEADER + bytes([len(fields)]) + fields)


def _report(values: Array) -> Steps:
    j1, j2, j3, j4, j5, j6 = (wrap24(round(value)) for value in values.tolist())
    return j1, j2, j3, j4, j5, j6
