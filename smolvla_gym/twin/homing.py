"""Homing of the virtual board: each joint runs onto its limit switch twice and moves away by a known number of steps.

The order is J1, J2 and J3 together, each stage of all three before the next one, then J4, J6, J5, and at last J5 and J6
together to standby. The motion is exact in continuous time, so that it does not depend on how the time is cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.parol6 import NUM_JOINTS, Array
from smolvla_gym.sim.motion import STEP_RATE_CAP
from smolvla_gym.twin.motors import Motors

J5_MOVE: Final = 8900
"""Steps of J5 from its switch to its zero."""

J5_MOVE_SSG48: Final = 8035
"""The same with the SSG-48 mounted."""


@dataclass(frozen=True)
class Axis:
    """Homing parameters of one joint; counters in microsteps, speeds in microsteps/s.

    Attributes:
        approach: Speed towards the switch at first.
        back_off: Counter to which it then moves away.
        approach_again: Speed of the second time.
        away: Counter to which it moves from the switch.
        acceleration: Acceleration of the moves away, in microsteps/s^2.
        final: Value of the counter at the end.
        window: How far past its edge the switch stays pressed. A micro switch does so for ever. For the inductive
            sensors this is an assumption: it is the way by which they back off, which then always leaves the target.
        period: Steps after which the switch comes again; None where the joint does not turn endlessly.
    """

    approach: float
    back_off: float
    approach_again: float
    away: float
    acceleration: float
    final: float
    window: float = np.inf
    period: float | None = None


def axes(j5_move: int = J5_MOVE) -> tuple[Axis, ...]:
    """Return the axes J1 to J6, with J5 moving by so many steps from its switch to its zero."""
    return (
        Axis(-2050, 850, -750, 13500, 4500, 10240, window=850),
        Axis(-2550, 1050, -750, 19588, 3000, -32000),
        Axis(-2550, 1050, -750, 23020, 5000, 57905),
        Axis(5550, -1550, 4050, -10200, 5500, 0, window=1550),
        Axis(-5050, 1550, -4050, j5_move, 5500, 0),
        Axis(-9550, 1550, -8050, 15900, 10500, 32000, window=1550, period=64000),
    )


_LAST_J6_ACCELERATION = 5500.0


def switches(j5_move: int = J5_MOVE) -> Array:
    """Return where the limit switches are, in microsteps of a homed arm, shape (6,).

    They are not measured: they follow from the program, if the arm ends where its counters say.
    """
    edges = np.array([axis.final - axis.away for axis in axes(j5_move)], dtype=np.float64)
    edges[5] = axes(j5_move)[5].final  # J6 comes back to its switch.
    return edges


class _Stage(Enum):
    """What a joint does."""

    APPROACH = auto()
    BACK_OFF = auto()
    APPROACH_AGAIN = auto()
    MOVE_AWAY = auto()
    STANDBY = auto()


_SEARCH: Final = (_Stage.APPROACH, _Stage.BACK_OFF, _Stage.APPROACH_AGAIN)


@dataclass
class _Move:
    """A move from standstill to standstill; counters in microsteps, times in s."""

    start: float
    target: float
    acceleration: float
    elapsed: float = 0.0

    def __post_init__(self) -> None:
        self._way = abs(self.target - self.start)
        self._ramp = min(float(np.sqrt(self._way / self.acceleration)), STEP_RATE_CAP / self.acceleration)
        peak = self.acceleration * self._ramp
        self.duration = self._ramp + (self._way / peak if peak else 0.0)

    def counter(self) -> float:
        """Return the counter now."""
        done = min(self.elapsed, self.duration)
        left = self.duration - done
        if done < self._ramp:
            covered = 0.5 * self.acceleration * done**2
        elif left < self._ramp:
            covered = self._way - 0.5 * self.acceleration * left**2
        else:
            covered = self.acceleration * self._ramp * (done - 0.5 * self._ramp)
        return self.start + float(np.copysign(covered, self.target - self.start))


class Homing:
    """The homing program, run after run.

    The real program has a fault that is kept: a run that is broken off forgets its stage but not which switches its
    joints had found. The next run does not search for those again; it moves these joints by their counters and then
    calls them homed, wherever they are.

    Attributes:
        running: Whether a run is under way.
        homed: Whether the joints count as homed, shape (6,).
    """

    # Joints that move together, what they do, and which are homed then.
    _STAGES = (
        *(((0, 1, 2), stage, ()) for stage in _SEARCH),
        ((0, 1, 2), _Stage.MOVE_AWAY, (0, 1, 2)),
        *(((3,), stage, ()) for stage in _SEARCH),
        ((3,), _Stage.MOVE_AWAY, (3,)),
        *(((5,), stage, ()) for stage in (*_SEARCH, _Stage.MOVE_AWAY)),
        *(((4,), stage, ()) for stage in _SEARCH),
        ((4, 5), _Stage.STANDBY, (4, 5)),
    )

    def __init__(self, motors: Motors, j5_move: int = J5_MOVE) -> None:
        """Prepare the program.

        Args:
            motors: The motors that it drives.
            j5_move: Steps of J5 from its switch to its zero.
        """
        self.running: bool = False
        self.homed: NDArray[np.bool_] = np.zeros(NUM_JOINTS, dtype=np.bool_)
        self._motors = motors
        self._axes = axes(j5_move)
        self._edges = switches(j5_move)
        self._found = np.zeros((2, NUM_JOINTS), dtype=np.bool_)
        self._forget()

    def _forget(self) -> None:
        self._stage = 0
        self._moves: dict[int, _Move] = {}

    def start(self) -> None:
        """Begin a run: no joint is homed any more."""
        self.running = True
        self.homed[:] = False
        self._forget()
        for joint in (3, 4, 5):  # they report the speed that they will have
            self._motors.speed[joint] = self._axes[joint].approach

    def cancel(self) -> None:
        """Break a run off."""
        self.running = False
        self._forget()

    def advance(self, dt: float, bend: Array) -> float:
        """Advance a run.

        Args:
            dt: Duration in s.
            bend: How far the true joints are from the motors at its beginning, in microsteps, shape (6,); taken to stay
                so during dt.

        Returns:
            Time that is left of dt after the end of the run, in s.
        """
        edges = self._edges - bend
        while self.running:
            joints, stage, homed = self._STAGES[self._stage]
            left = [self._turn(joint, dt, edges[joint], stage) for joint in joints]
            remaining = [seconds for seconds in left if seconds is not None]
            if len(remaining) < len(joints):
                return 0.0
            dt = min(remaining)
            for joint in homed:
                self._motors.set_counter(joint, self._axes[joint].final)
                self.homed[joint] = True
            self._moves.clear()
            self._stage += 1
            if self._stage == len(self._STAGES):
                self._found[:] = False
                self.cancel()
        return dt

    # Each of the following takes the time in s and returns how much of it is left, None while it is not done.

    def _turn(self, joint: int, dt: float, edge: float, stage: _Stage) -> float | None:
        """Advance one joint in a stage."""
        axis, (first, second) = self._axes[joint], self._found
        if stage in (_Stage.APPROACH, _Stage.APPROACH_AGAIN):
            found, speed = (first, axis.approach) if stage is _Stage.APPROACH else (second, axis.approach_again)
            left: float | None = dt
            if not found[joint]:
                left = self._approach(joint, speed, dt, edge)
                found[joint] = left is not None
            return left
        if stage is _Stage.BACK_OFF:
            return dt if second[joint] else self._move(joint, axis.back_off, axis.acceleration, dt)
        if stage is _Stage.STANDBY and joint == 5:
            return self._move(joint, 0.0, _LAST_J6_ACCELERATION, dt)
        return self._move(joint, axis.away, axis.acceleration, dt)

    def _approach(self, joint: int, speed: float, dt: float, edge: float) -> float | None:
        """Run onto the switch, and set the counter to zero there."""
        motors, axis = self._motors, self._axes[joint]
        motors.speed[joint] = speed
        past = float((motors.position[joint] - edge) * np.sign(speed))
        if axis.period is not None:
            past %= axis.period
            past -= axis.period if past > axis.window else 0.0
        way = -past if past < 0.0 else 0.0 if past <= axis.window else np.inf
        if way > abs(speed) * dt:
            motors.counters[joint] += speed * dt
            return None
        motors.counters[joint] += np.copysign(way, speed)
        motors.set_counter(joint, 0.0)
        return dt - way / abs(speed)

    def _move(self, joint: int, target: float, acceleration: float, dt: float) -> float | None:
        """Move to a counter with ramps."""
        move = self._moves.get(joint)
        if move is None:
            move = self._moves[joint] = _Move(float(self._motors.counters[joint]), target, acceleration)
        left = move.elapsed + dt - move.duration
        move.elapsed = min(move.elapsed + dt, move.duration)
        self._motors.counters[joint] = move.counter()
        return left if left >= 0.0 else None
