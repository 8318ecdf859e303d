"""One homing of the arm: the commands to send, and the proof that the board searched its switches."""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Final

from smolvla_gym.parol6 import JOINT_NAMES
from smolvla_gym.parol6.protocol import Command, StateFrame, Steps

HOMED_BITS = 0xFC
"""The bits of all six joints in the state frame."""

SECOND_APPROACH: Steps = (-750, -750, -750, 4050, -4050, -8050)
"""Speeds in microsteps/s at which J1 to J6 approach their switches the second time."""

FIRST_APPROACH: Steps = (-2050, -2550, -2550, 5550, -5050, -9550)
"""Speeds in microsteps/s at which J1 to J6 approach their switches the first time."""

_STRAY = 2500
"""Distance in microsteps that no joint moves at another speed before it finds its switch. Between the two approaches
it moves back by 850 to 1550. The distance is 7 deg of J2 and 35 deg of J4."""

_LONGEST_SEARCH: Steps = (36_000, 53_000, 62_000, 22_000, 18_000, 66_000)
"""Largest distance in microsteps that J1 to J6 move in search of their switches, from any pose of a sound arm."""

_SEARCH_MARGIN = 1.1
"""Multiple of that distance at which a switch counts as not found."""

_JUMP = 1000
"""Change of a counter in microsteps between two replies that is no motion: the board sets counters at the switches."""

_HOME_FRAMES = 10
"""Number of times the command is sent: a lost frame does no harm. Sent until the end, it would start homing again."""


_REST_FRAMES = 3
"""How often speeds of zero are sent before: the board goes on reporting those of the homing before."""


_SLIP_SPEED = 2000
"""Speed in microsteps/s above which a motor may lose steps where its pulses end at once: an assumption, as it is likely
from 5,000 on."""

SLIPPED = " The arm was stopped while it moved, and its motors may have slipped, which the board does not notice."


def may_have_slipped(reply: StateFrame) -> bool:
    """Return whether an e-stop at the speeds of a reply can make the step counters wrong."""
    return max(map(abs, reply.speed)) > _SLIP_SPEED


class _Phase(IntEnum):
    ENABLE = auto()
    REST = auto()
    REQUEST = auto()
    SEARCH = auto()
    DONE = auto()


_REQUESTS: Final = {
    _Phase.ENABLE: (Command.ENABLE, 1),
    _Phase.REST: (Command.IDLE, _REST_FRAMES),
    _Phase.REQUEST: (Command.HOME, _HOME_FRAMES),
}
"""Command of each phase that ends once the board has echoed it, and how often it is sent at least."""


class Homing:
    """One homing.

    A homing that was cancelled makes the firmware skip the search for some switches the next time, and report joint
    angles that are wrong by whatever the arm moved since. The replies
    must therefore show each joint at the speed of its second approach; a joint that moves off without that follows a
    counter without meaning, and is stopped early. So is one that searches on where its switch cannot be: with a
    broken sensor or wire the board turns it for as long as the homing lasts.
    """

    def __init__(self) -> None:
        self._phase = _Phase.ENABLE
        self._sent = 0  # frames in this phase
        self._forgot = False
        self._other = [False] * len(SECOND_APPROACH)  # reported at another speed, so that the expected one is new
        self._searched = [False] * len(SECOND_APPROACH)
        self._before: StateFrame | None = None
        self._search = [0] * len(SECOND_APPROACH)  # distances in microsteps before the second approaches
        self._stray = [0] * len(SECOND_APPROACH)  # distances in microsteps that belong to no search

    def command(self) -> Command:
        """Return the command of the next frame."""
        self._sent += 1
        return _REQUESTS.get(self._phase, (Command.IDLE, 0))[0]

    def observe(self, reply: StateFrame) -> None:
        """Take note of a reply."""
        command, frames = _REQUESTS.get(self._phase, (None, 0))
        if reply.command == command and self._sent >= frames:
            self._phase, self._sent = _Phase(self._phase + 1), 0
        homed = reply.homed & HOMED_BITS
        self._forgot |= self._phase in (_Phase.REQUEST, _Phase.SEARCH) and homed == 0
        if not self._forgot:
            return
        for joint, (speed, wanted) in enumerate(zip(reply.speed, SECOND_APPROACH, strict=True)):
            self._searched[joint] |= self._other[joint] and speed == wanted
            self._other[joint] |= speed != wanted
        self._measure(reply)
        if self._phase is _Phase.SEARCH and homed == HOMED_BITS:
            self._phase = _Phase.DONE

    def _measure(self, reply: StateFrame) -> None:
        before, self._before = self._before, reply
        if before is None:
            return
        for joint, approaches in enumerate(zip(FIRST_APPROACH, SECOND_APPROACH, strict=True)):
            way = abs(reply.position[joint] - before.position[joint])
            if self._searched[joint] or way >= _JUMP:
                continue
            searching = reply.speed[joint] in approaches or before.speed[joint] in approaches
            (self._search if searching else self._stray)[joint] += way

    @property
    def skipping(self) -> list[str]:
        """Return the names of the joints that the board moves without a search for their switches."""
        return [name for name, stray in zip(JOINT_NAMES, self._stray, strict=True) if stray > _STRAY]

    @property
    def missing(self) -> list[str]:
        """Return the names of the joints that search for their switches farther than these can be away."""
        searches = zip(JOINT_NAMES, self._search, _LONGEST_SEARCH, strict=True)
        return [name for name, way, longest in searches if way > _SEARCH_MARGIN * longest]

    @property
    def done(self) -> bool:
        """Return whether the board reports that all joints are homed, after it had reported that none is."""
        return self._phase is _Phase.DONE

    @property
    def unsearched(self) -> list[str]:
        """Return the names of the joints of which no reply showed the approach to the switch."""
        return [name for name, seen in zip(JOINT_NAMES, self._searched, strict=True) if not seen]
