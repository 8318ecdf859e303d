"""One homing of the arm: what to send, and proof that the board really searched its switches."""

from __future__ import annotations

from enum import Enum, auto

from smolvla_gym.hardware.protocol import Command, StateFrame, Steps
from smolvla_gym.parol6 import JOINT_NAMES

HOMED_BITS = 0xFC
"""The bits of all six joints in the state frame."""

SECOND_APPROACH: Steps = (-750, -750, -750, 4050, -4050, -8050)
"""Speeds in microsteps/s at which J1 to J6 approach their switches the second time."""

_HOME_FRAMES = 10
"""How often the command is sent: a lost frame does no harm. Sent to the end, homing would start again."""


class _Phase(Enum):
    ENABLE = auto()
    REQUEST = auto()
    SEARCH = auto()
    DONE = auto()


class Homing:
    """Homes once.

    A homing that was cancelled makes the firmware skip the search for some switches the next time, and report joint
    angles that are wrong by whatever the arm moved since. Each joint must therefore have been seen at the speed of its
    second approach.
    """

    def __init__(self) -> None:
        self._phase = _Phase.ENABLE
        self._requests = 0
        self._forgot = False
        self._searched = [False] * len(SECOND_APPROACH)

    def command(self) -> Command:
        """Returns the command of the next frame."""
        if self._phase is _Phase.ENABLE:
            return Command.ENABLE
        if self._phase is _Phase.REQUEST:
            self._requests += 1
            return Command.HOME
        return Command.IDLE

    def observe(self, reply: StateFrame) -> None:
        """Takes note of a reply."""
        if self._phase is _Phase.ENABLE:
            if reply.command == Command.ENABLE:
                self._phase = _Phase.REQUEST
            return
        if self._phase is _Phase.REQUEST and self._requests >= _HOME_FRAMES and reply.command == Command.HOME:
            self._phase = _Phase.SEARCH
        homed = reply.homed & HOMED_BITS
        self._forgot |= homed == 0
        if self._forgot:
            pairs = zip(self._searched, reply.speed, SECOND_APPROACH, strict=True)
            self._searched = [seen or speed == wanted for seen, speed, wanted in pairs]
            if self._phase is _Phase.SEARCH and homed == HOMED_BITS:
                self._phase = _Phase.DONE

    @property
    def done(self) -> bool:
        """Whether the board says that all joints are homed, after it had said that none is."""
        return self._phase is _Phase.DONE

    @property
    def unsearched(self) -> list[str]:
        """Names of the joints whose switches were not seen being approached."""
        return [name for name, seen in zip(JOINT_NAMES, self._searched, strict=True) if not seen]
