"""The exchange of frames with the control board: commands out, replies in, and how old the newest reply is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from smolvla_gym.drivers.board.reply_matcher import ReplyMatcher, SentFrame
from smolvla_gym.drivers.board.serial_port import SerialPort
from smolvla_gym.drivers.board.state import BoardSettings
from smolvla_gym.errors import DeviceError
from smolvla_gym.parol6 import STEPS_PER_RAD, Array, steps_from_rad
from smolvla_gym.parol6.protocol import (
    ZEROS,
    Command,
    CommandFrame,
    GripperCommand,
    GripperMode,
    StateFrame,
    StateParser,
    Steps,
    avoid_header_byte,
)

_CONSTANT: Final = (StateFrame().check, 0x03, 0x07)
"""The check byte and the low bits of the homed joints and of the lines, in every reply."""


class Exchange:
    """Frames and replies on a port.

    Attributes:
        reply: The newest reply since the port was opened, None before the first; it stays when the port is closed.
        sent: The command of the last frame.
        disobeyed: Replies in a row that echo another command than that of the frame which they answer.
        repeats: Replies in a row with the same joint angles.
    """

    def __init__(self, open_port: Callable[[], SerialPort], settings: BoardSettings) -> None:
        """Prepare the exchange; no port is opened yet.

        Args:
            open_port: Opens the port; raises DeviceError.
            settings: How the board is judged.
        """
        self._open_port, self._settings = open_port, settings
        self._port: SerialPort | None = None
        self.sent: Command = Command.DISABLE
        self._begin(-math.inf)

    def _begin(self, now: float) -> None:
        self.reply: StateFrame | None = None
        self.disobeyed: int = 0
        self.repeats: int = 0
        self._parser, self._matcher = StateParser(), ReplyMatcher()
        self._answered: SentFrame | None = None  # the frame that the newest reply answers
        self._came = -math.inf  # when that reply came
        self._opened = self._awake = now  # since when the port is open, and since when this driver is punctual

    def open(self, now: float) -> None:
        """Open the port anew.

        Raises:
            DeviceError: The port cannot be opened.
        """
        self.close()
        self._port = self._open_port()
        self._begin(now)

    def close(self) -> None:
        """Give the port back."""
        if self._port is not None:
            self._port.close()
            self._port = None

    @property
    def is_open(self) -> bool:
        """Return whether there is a port."""
        return self._port is not None

    def excuse(self, now: float) -> None:
        """Count the age of replies from ``now`` on, as this driver itself stood still before."""
        self._awake = now

    # -- frames ----------------------------------------------------------------------------------------------------

    def send(
        self,
        command: Command,
        now: float,
        gripper: GripperCommand,
        lines: int,
        joints: Array | None = None,
        velocity: Array | None = None,
    ) -> None:
        """Send a frame, where there is a port.

        Args:
            command: The command.
            now: In s.
            gripper: Command to an electric gripper.
            lines: Output lines.
            joints: Setpoint in rad, shape (6,); None: those of the newest reply.
            velocity: Speed of the setpoint in rad/s, shape (6,); None: zero.

        Raises:
            DeviceError: The port is lost.
        """
        if self._port is None:
            return
        # Other commands ignore the position. Were one taken for a move, the arm should stay: there is no checksum.
        here = self.reply.position if self.reply is not None else ZEROS
        position = _steps(here if joints is None else steps_from_rad(joints).tolist())
        speed = ZEROS if velocity is None else _steps(np.rint(velocity * STEPS_PER_RAD).astype(int).tolist())
        frame = CommandFrame(command, position, speed, lines=lines, gripper=gripper)
        # A gripper must not receive the command to calibrate twice.
        copies = 2 if self._matcher.doubtful and gripper.mode == GripperMode.OPERATE else 1
        self._port.write(frame.pack() * copies)
        self.sent = command
        for _ in range(copies):
            self._matcher.send(command, now)

    def read(self, timeout: float) -> list[StateFrame]:
        """Return the replies that came, waiting for the first byte up to ``timeout`` s.

        Frames without the bits that never change are dropped: there is no checksum.

        Raises:
            DeviceError: The port is lost.
        """
        if self._port is None:
            return []
        frames = self._parser.feed(self._port.read(timeout))
        replies = [frame for frame in frames if (frame.check, frame.homed & 0x03, frame.lines & 0x07) == _CONSTANT]
        for reply in replies:
            self._answered = self._matcher.answer(reply)
        return replies

    def receive(self) -> list[StateFrame]:
        """Wait for replies up to the reply timeout; the rest of a later one is read in the next tick.

        Raises:
            DeviceError: The port is lost.
        """
        deadline = time.monotonic() + self._settings.reply_timeout
        while (left := deadline - time.monotonic()) > 0.0:
            if frames := self.read(left):
                return frames
        return []

    def take(self, reply: StateFrame, now: float) -> None:
        """Make a reply that came at the moment ``now`` in s the newest one."""
        same = self.reply is not None and self.reply.position == reply.position
        self.repeats = self.repeats + 1 if same else 0
        self.reply, self._came = reply, now
        obeyed = self._answered is not None and reply.command == self._answered.command
        self.disobeyed = 0 if obeyed else self.disobeyed + 1

    # -- age -------------------------------------------------------------------------------------------------------

    @property
    def reply_time(self) -> float:
        """Return when the frame was sent that the newest reply answers, in s: its values cannot be older."""
        return -math.inf if self._answered is None else self._answered.moment

    def check_answering(self, now: float) -> None:
        """Check that a port that was opened is answered.

        Raises:
            DeviceError: No reply has come within the connect timeout.
        """
        if self.reply is None and now - self._opened > self._settings.connect_timeout:
            raise DeviceError(
                f"Nothing answers on {self._port and self._port.url}: is it a PAROL6, and powered? A board that hangs "
                "answers again once its power was switched off and on."
            )

    def overdue(self, now: float) -> str | None:
        """Return in words why the newest reply is too old, None where it is not."""
        limit = self._settings.feedback_timeout
        age = now - max(self.reply_time, self._awake)
        if age <= limit:
            return None
        if now - self._came > limit:
            return f"The board has not answered for {limit:g} s: is it powered? Switch its power off and on."
        return f"The board's answers come {age:.2g} s late, more than {limit:g} s: is the computer or USB overloaded?"


def _steps(values: Iterable[int]) -> Steps:
    j1, j2, j3, j4, j5, j6 = map(avoid_header_byte, values)
    return j1, j2, j3, j4, j5, j6
