"""Latency of the board's replies: which of the frames that were sent each one answers.

The board answers every frame, in order, and replies have no number. Counted off one by one they show their latency,
until a frame or its reply gets lost: from then on the estimate is too high. A frame that is sent twice in a row
resynchronises it: the board reports the time between the last two frames, and for the second copy, which changes
nothing, that time is nearly zero.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from smolvla_gym.drivers.board.state import TICK
from smolvla_gym.parol6.protocol import StateFrame

_TOGETHER: Final = TICK / 4
"""Time in s that the board may report between a frame and its copy: USB hands them on within a millisecond."""

_CLOSE: Final = TICK / 2
"""Time in s between two frames of which the board may report so little."""

_MOST: Final = 1000
"""Frames that are remembered: 10 s. A later reply is much too late anyway."""


@dataclass(frozen=True)
class SentFrame:
    """A frame that went to the board.

    Attributes:
        moment: When, in s.
        command: Its command.
        close: Whether it followed the frame before so soon that the board's reply to it can be recognised.
    """

    moment: float
    command: int
    close: bool


class ReplyMatcher:
    """Matcher of replies to the frames that are not answered yet.

    After a lost reply the estimated latency is too high, never too low, until a duplicated frame resynchronises it.
    """

    def __init__(self) -> None:
        """Begin without a frame."""
        self._waiting: deque[SentFrame] = deque(maxlen=_MOST)
        self._last_sent: SentFrame | None = None
        self._answered: SentFrame | None = None
        self._heard = False  # since the last frame was sent

    def send(self, command: int, moment: float) -> None:
        """Note that a frame was sent.

        Args:
            command: Its command.
            moment: When, in s.
        """
        before = self._last_sent
        self._last_sent = SentFrame(moment, command, before is not None and moment - before.moment < _CLOSE)
        self._waiting.append(self._last_sent)
        self._heard = False

    def answer(self, reply: StateFrame) -> SentFrame | None:
        """Return the frame that a new reply answers, by the estimate; None where no frame was sent."""
        self._heard = True
        waiting = self._waiting
        if reply.period_s < _TOGETHER and any(frame.close for frame in waiting):
            while not waiting[0].close:
                waiting.popleft()
        if waiting:
            self._answered = waiting.popleft()
        return self._answered

    @property
    def doubtful(self) -> bool:
        """Return whether replies come, but not for all frames, and no copy is on its way to resynchronise them."""
        return self._heard and bool(self._waiting) and not any(frame.close for frame in self._waiting)
