"""A virtual board in real time, for the tests of the process that owns the port."""

from __future__ import annotations

import time

import numpy as np

from smolvla_gym.drivers.board.inline import InlineBoard
from smolvla_gym.drivers.board.state import BoardSettings
from smolvla_gym.parol6 import HOME
from smolvla_gym.parol6.protocol import Command
from smolvla_gym.twin.faults import Faults
from smolvla_gym.twin.firmware import Firmware
from smolvla_gym.twin.virtual_board import VirtualBoard
from tests.drivers.rig import Rig

SETTINGS = BoardSettings(gripper="pneumatic")
STOP = 1.1
TARGET = np.array([*HOME, 1.0])


class Arm:
    """A virtual board in real time."""

    def __init__(self, firmware: Firmware) -> None:
        self.firmware, self.faults = firmware, Faults()
        self._world = time.monotonic()
        self.virtual = VirtualBoard(firmware, self.faults, self._advance)
        self.virtual.start()

    def _advance(self, moment: float) -> None:
        self.firmware.advance(moment - self._world)
        self._world = moment

    def counters(self) -> np.ndarray:
        with self.virtual.lock:
            return self.firmware.counters

    def moving(self) -> bool:
        before = self.counters()
        time.sleep(0.03)
        return bool(np.abs(self.counters() - before).max() > 1.0)

    def until(self, done, timeout: float) -> float:
        """Waits; returns how long it took in s."""
        begin = time.monotonic()
        while not done():
            assert time.monotonic() < begin + timeout
            time.sleep(0.002)
        return time.monotonic() - begin

    def disabled_within(self, timeout: float) -> float:
        took = self.until(lambda: self.firmware.disabled, timeout)
        assert self.firmware.command == Command.DISABLE
        assert not self.moving()
        return took


def drive(link, arm, seconds=0.4) -> None:
    for _ in range(round(seconds / 0.03)):
        link.aim(TARGET)
        time.sleep(0.03)
    assert arm.moving()


class LockstepClock:
    """Waiting on it lets the virtual arm run."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.link: InlineBoard | None = None

    def now(self) -> float:
        return self._rig.now

    def sleep_until(self, moment: float) -> None:
        while self._rig.now < moment - 1e-9:
            self._rig.now = min(self._rig.now + 0.002, moment)
            self.link.run_until(self._rig.now)
            self._rig.virtual.service()
