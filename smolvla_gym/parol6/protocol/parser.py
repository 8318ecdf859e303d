"""Parsers that find frames in a stream of bytes."""

from __future__ import annotations

from collections.abc import Callable

from smolvla_gym.parol6.protocol.constants import COMMAND_LENGTH, HEADER, STATE_LENGTH, TRAILER
from smolvla_gym.parol6.protocol.frames import CommandFrame, StateFrame


class FrameParser[Frame: (CommandFrame, StateFrame)]:
    """Parser that finds the frames in a stream of bytes, whatever else is in it.

    It never raises and keeps less than one frame between calls. A frame is returned as soon as its last byte is there.
    Of bytes that only begin like a frame a single one is dropped, so that a good frame behind it is not lost.

    Attributes:
        dropped: Bytes so far that belonged to no frame.
    """

    def __init__(self, unpack: Callable[[bytes], Frame], length: int) -> None:
        """Start with nothing received.

        Args:
            unpack: Reads a whole frame.
            length: Bytes of a whole frame.
        """
        self.dropped: int = 0
        self._unpack: Callable[[bytes], Frame] = unpack
        self._length = length
        # Sought together: within a longer run of FF only the last three are followed by the length.
        self._start = HEADER + bytes([length - len(HEADER) - 1])
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take received bytes, in pieces of any size, and return the frames that are complete now."""
        buffer, length, frames = self._buffer, self._length, list[Frame]()
        buffer += data
        done = 0  # All before it is either in a frame or dropped.
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
    """Parser of what the board sends."""

    def __init__(self) -> None:
        super().__init__(StateFrame.unpack, STATE_LENGTH)


class CommandParser(FrameParser[CommandFrame]):
    """Parser of what a PC sends."""

    def __init__(self) -> None:
        super().__init__(CommandFrame.unpack, COMMAND_LENGTH)
