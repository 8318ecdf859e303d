"""How far behind the board's replies are: which of the frames that were sent each one answers.

The board answers every frame, in order, and names none. Counted off one by one, the replies tell how late they are,
until a frame or its answer gets lost: from then on they would seem to be later than they are. Which of both it is shows
when a frame is sent twice in a row: the board reports the time between the last two frames, and for the second copy,
which changes nothing, that is next to nothing.
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
"""Frames that are remembered: 10 s. What is later than that is much too late anyway."""


@dataclass(frozen=True)
class SentFrame:
    """A frame that went to the board.

    Attributes:
        moment: When, in s.
        command: Its command.
        close: Whether it came so soon after the one before that the board's answer tells it from others.
    """

    moment: float
    command: int
    close: bool


class ReplyMatcher:
    """The frames that are not answered yet.

    Where replies got lost, the next ones are taken for older than they are, until a copy is answered; never for newer.
    """

    def __init__(self) -> None:
        """Begins with nothing sent."""
        self._waiting: deque[SentFrame] = deque(maxlen=_MOST)
        self._last_sent: SentFrame | None = None
        self._answered: SentFrame | None = None
        self._heard = False  # since the last frame was sent

    def send(self, command: int, moment: float) -> None:
        """Takes note that a frame was sent.

        Args:
            command: Its command.
            moment: When, in s.
        """
        before = self._last_sent
        self._last_sent = SentFrame(moment, command, before is not None and moment - before.moment < _CLOSE)
        self._waiting.append(self._last_sent)
        self._heard = False

    def answer(self, reply: StateFrame) -> SentFrame | None:
        """Returns the frame that a new reply answers, as far as is known; None where no frame was sent."""
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
        """Whether replies come, but not for all frames, and no copy is on its way that will show why."""
        return self._heard and bool(self._waiting) and not any(frame.close for frame in self._waiting)
