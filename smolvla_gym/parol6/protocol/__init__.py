"""The control board's serial protocol: frames to bytes and back. Pure: no port, no clock.

The PC sends 56-byte command frames and the board answers each valid one with one 60-byte state frame; it never sends
unasked. Numbers are big-endian, positions and speeds signed 24-bit counts of microsteps, flags begin at 0x80.

``constants`` has the codes and lengths, ``frames`` the two frames, ``parser`` finds them in a stream of bytes.
"""

from smolvla_gym.parol6.protocol.constants import (
    COMMAND_LENGTH,
    HEADER,
    NUM_JOINTS,
    STATE_LENGTH,
    TIMER_HZ,
    TRAILER,
    ZEROS,
    Command,
    GripperFlag,
    GripperMode,
    GripperObject,
    Line,
    Steps,
    avoid_header_byte,
    wrap24,
)
from smolvla_gym.parol6.protocol.frames import CommandFrame, GripperCommand, GripperStatus, StateFrame
from smolvla_gym.parol6.protocol.parser import CommandParser, FrameParser, StateParser

__all__ = [
    "COMMAND_LENGTH", "HEADER", "NUM_JOINTS", "STATE_LENGTH", "TIMER_HZ", "TRAILER", "ZEROS", "Command",
    "CommandFrame", "CommandParser", "FrameParser", "GripperCommand", "GripperFlag", "GripperMode", "GripperObject",
    "GripperStatus", "Line", "StateFrame", "StateParser", "Steps", "avoid_header_byte", "wrap24",
]  # fmt: skip
