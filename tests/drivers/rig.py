"""The driver on a virtual board behind a real pseudo-terminal and pyserial, in simulated time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from smolvla_gym.drivers.board.driver import Board
from smolvla_gym.drivers.board.state import TICK, BoardSettings, BoardState, Mode
from smolvla_gym.parol6 import HOME, STEPS_PER_RAD, rad_from_steps, steps_from_rad
from smolvla_gym.parol6.protocol import COMMAND_LENGTH, CommandFrame
from smolvla_gym.safety import SafetyGate
from smolvla_gym.twin.faults import Faults
from smolvla_gym.twin.firmware import Firmware
from smolvla_gym.twin.gripper import SSG48, NoGripper, make_gripper
from smolvla_gym.twin.lockstep import LockstepPort
from smolvla_gym.twin.virtual_board import VirtualBoard

POSE = np.array([0.0, -1.5, 3.1, 0.1, -0.2, 3.0])


def homed_firmware(joints=POSE, gripper: NoGripper | None = None) -> Firmware:
    firmware = Firmware(steps_from_rad(joints), gripper)
    firmware.set_homed()
    return firmware


def kill_switch(firmware: Firmware, joint: int) -> None:
    """Have the homing program never find the switch of a joint."""
    program, motors = firmware._homing, firmware._motors
    approach = program._approach

    def search_on(moved: int, speed: float, dt: float, edge: float) -> float | None:
        if moved != joint:
            return approach(moved, speed, dt, edge)
        motors.speed[joint] = speed
        motors.counters[joint] += speed * dt
        return None

    program._approach = search_on


class Rig:
    """Time passes in :meth:`run`; ``frames`` holds what went over the wire."""

    def __init__(self, *, gripper="ssg48", homed=True, joints=POSE, calibrated=True, **settings) -> None:
        mounted = make_gripper(gripper) if gripper else NoGripper()
        if calibrated and isinstance(mounted, SSG48):
            mounted.set_calibrated()
        if homed:
            self.firmware = homed_firmware(joints, mounted)
        else:
            self.firmware = Firmware(np.asarray(joints) * STEPS_PER_RAD, mounted)
        self.now = self._world = 100.0
        self.faults = Faults()
        self.virtual = VirtualBoard(self.firmware, self.faults, self._advance, now=lambda: self.now)
        self.frames: list[tuple[float, CommandFrame]] = []
        self.gate = SafetyGate(1 / 30)
        self.settings = replace(BoardSettings(gripper=gripper or "ssg48", reply_timeout=0.001), **settings)
        self.board = Board(lambda: _Port(self), self.gate, self.settings)
        self.firmware.gripper.target_opening = 1.0

    def close(self) -> None:
        self.board.close()
        self.virtual.close()

    def _advance(self, moment: float) -> None:
        dt, self._world = moment - self._world, moment
        self.firmware.advance(dt)
        self.firmware.gripper.advance(dt, self.firmware.gripper.target_opening)

    @property
    def joints(self) -> np.ndarray:
        return rad_from_steps(self.firmware.counters)

    @property
    def state(self) -> BoardState:
        return self.board.state

    def tick(self) -> None:
        self.board.tick(self.now)
        self.now += TICK
        self.virtual.service()

    def run(self, seconds: float, until=None) -> float:
        """Runs for so many s, or until something is true; returns how long it took."""
        begin = self.now
        while self.now < begin + seconds - 1e-9 and not (until is not None and until()):
            self.tick()
        return self.now - begin

    def start(self) -> Rig:
        self.board.connect(self.now)
        self.run(0.05)
        return self

    def ready(self) -> Rig:
        self.start()
        self.board.enable(self.now)
        self.run(5.0, lambda: self.state.mode is not Mode.ENABLING)
        assert self.state.mode is Mode.READY, self.state
        return self

    def aim(self, joints, opening=1.0) -> None:
        self.board.aim(np.array([*joints, opening]), self.now)

    def move(self, seconds=0.5, joints=HOME) -> Rig:
        """Is on its way to a pose that is far."""
        for _ in range(round(seconds / 0.03)):
            self.aim(joints)
            self.run(0.03)
        assert np.abs(self.state.velocity).max() > 0.1
        return self

    def until_still(self, seconds=5.0) -> float:
        """Runs until the joints stand still; returns for how long they still moved."""
        begin = moved = self.now
        before = self.firmware.counters
        while self.now < begin + seconds:
            self.tick()
            if np.abs(self.firmware.counters - before).max() > 0.6:  # reports are rounded to whole steps
                moved = self.now
            before = self.firmware.counters
        return moved - begin

    def events(self, key: str) -> list[str]:
        return [event[key] for event in self.board.drain_events() if key in event]


class _Port(LockstepPort):
    """A real port on the virtual board, which serves it whenever it is used."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig.virtual)
        self._rig = rig

    def write(self, data: bytes) -> None:
        for begin in range(0, len(data), COMMAND_LENGTH):
            self._rig.frames.append((self._rig.now, CommandFrame.unpack(data[begin : begin + COMMAND_LENGTH])))
        super().write(data)

    def read(self, timeout: float) -> bytes:
        self._rig.virtual.service()
        return super().read(timeout)
