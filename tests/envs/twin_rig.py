"""PAROL6Real-v0 on its twin, with a record of the serial frames and of the physics."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

import smolvla_gym
from smolvla_gym.drivers.board.state import TICK
from smolvla_gym.parol6 import HOME, JOINT_LOWER, JOINT_UPPER, MAX_ACCELERATION, MAX_SPEED, STEPS_PER_RAD
from smolvla_gym.parol6.protocol import Command, CommandFrame, CommandParser

SOUND = {"homed": True, "noise": 0.0}

QUICK = {"gripper": "pneumatic", "realtime": True}
"""Options of a twin in real time, whose gripper needs no calibration when the arm is enabled."""

TARGET = np.array([*HOME + np.array([-1.5, 0.3, 0.2, 0.8, 0.5, -1.5]), 1.0], np.float32)
"""Far from HOME in every joint, and free of obstacles."""

STILL = 0.01
"""Speed in rad/s below which a joint counts as standing: half a degree a second."""

_ALLOWED = {Command.MOVE, Command.ENABLE, Command.DISABLE, Command.HOME, Command.IDLE}


def make_twin(**options) -> gym.Env:
    """The env on a sound twin in lockstep; the options replace these."""
    defaults = {"port": "twin", "camera": "twin", "realtime": False, "cameras": (), "log": None, "twin_options": SOUND}
    return gym.make(smolvla_gym.REAL_ID, **{**defaults, **options})


class Tap:
    """Recorder of every frame that reaches the board, and of the true joint angles after every physics step.

    Attributes:
        frames: Moment in s of the physics, and frame.
        path: Moment in s of the physics, and joint angles in rad.
    """

    def __init__(self, env: gym.Env) -> None:
        self.backend = env.unwrapped.backend
        self.twin = self.backend.twin
        self.frames: list[tuple[float, CommandFrame]] = []
        self.path: list[tuple[float, np.ndarray]] = []
        self._parser, self._due = CommandParser(), []
        firmware, world = self.twin.board.firmware, self.twin.world
        self._receive, self._drive = firmware.receive, world.drive
        firmware.receive, world.drive = self._record_frames, self._record_joints

    @property
    def now(self) -> float:
        """The moment that the physics has reached, in s."""
        return self.twin.time

    def _record_frames(self, data: bytes) -> list[bytes]:
        self.frames += [(self.now, frame) for frame in self._parser.feed(data)]
        return self._receive(data)

    def _record_joints(self, motors, opening) -> None:
        self._drive(motors, opening)
        self.path.append((self.now, self.twin.world.measured_joints))
        while self._due and self.now >= self._due[0][0]:
            self._due.pop(0)[1]()

    def at(self, seconds: float, do) -> None:
        """Schedule a call in a number of s of the physics."""
        self._due.append((self.now + seconds, do))

    def wait(self, seconds: float) -> None:
        """Let time pass without actions."""
        clock = self.backend.clock
        clock.sleep_until(clock.now() + seconds)

    def moved_until(self, begin: float) -> float:
        """For how long after a moment any joint went on moving, in s."""
        with self.twin.lock:
            times, joints = (np.array(column) for column in zip(*self.path, strict=True))
        speed = np.abs(np.diff(joints, axis=0)).max(axis=1) / np.diff(times)
        moving = times[1:][(times[1:] > begin) & (speed > STILL)]
        return float(moving[-1] - begin) if moving.size else 0.0

    def rest(self, seconds: float, still: float) -> None:
        """Let up to so many s pass, until nothing has moved for ``still`` s."""
        end, quiet = self.now + seconds, self.now
        while self.now < min(end, quiet + still):
            self.wait(0.02)
            quiet = self.now if self.moving() else quiet

    def moving(self) -> bool:
        """Whether any joint moved in the last step of the physics."""
        with self.twin.lock:
            (before, here), (after, there) = self.path[-2:]
        return bool(np.abs(there - here).max() / (after - before) > STILL)

    def strokes(self) -> list[np.ndarray]:
        """Return the setpoints of each motion: positions and speeds in rad and rad/s, shape (n, 2, 6)."""
        runs: list[list[CommandFrame]] = [[]]
        last = None
        for _, frame in dict.fromkeys(self.frames):
            # A copy, which the driver sends right behind its frame, moves nothing. At rest all frames are alike.
            copied, last = frame == last and any(frame.speed), frame
            if copied:
                continue
            if frame.command == Command.MOVE:
                runs[-1].append(frame)
            elif runs[-1]:
                runs.append([])
        return [np.array([(f.position, f.speed) for f in run]) / STEPS_PER_RAD for run in runs if run]

    def check_limits(self) -> int:
        """Check that no setpoint was outside the limits; return the number of setpoints."""
        assert {frame.command for _, frame in self.frames} <= _ALLOWED
        step = 1 / STEPS_PER_RAD  # positions and speeds are whole steps, and none that would end with FF
        strokes = self.strokes()
        for stroke in strokes:
            position, speed = stroke[:, 0], stroke[:, 1]
            assert (position >= JOINT_LOWER - step).all()
            assert (position <= JOINT_UPPER + step).all()
            assert (np.abs(speed) <= 1.001 * MAX_SPEED + 2 * step).all()
            # It begins at rest.
            position = np.concatenate([position[:1], position[:1], position])
            assert (np.abs(np.diff(position, axis=0)) <= 1.001 * MAX_SPEED * TICK + 2 * step).all()
            assert (np.abs(np.diff(position, 2, axis=0)) <= 1.05 * MAX_ACCELERATION * TICK**2 + 4 * step).all()
        return sum(map(len, strokes))


def drive(env: gym.Env, seconds: float, action=TARGET) -> dict:
    """Step with one action for a number of s, or until a fault; return the last info."""
    info = {}
    for _ in range(round(seconds * env.unwrapped.control_hz)):
        _, _, _, truncated, info = env.step(np.asarray(action, np.float32))
        if truncated:
            break
    return info
