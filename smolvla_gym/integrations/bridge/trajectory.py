"""Interpolation of a ``trajectory_msgs/JointTrajectory`` in time."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

import numpy as np

from smolvla_gym.errors import ActionError
from smolvla_gym.integrations.bridge.joint_command import SLACK
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_NAMES, JOINT_UPPER, MAX_SPEED, NUM_JOINTS, Array
from smolvla_gym.utils.untrusted import printable

MAX_POINTS: Final = 10_000
"""Points of the longest trajectory that is accepted."""

MAX_SECONDS: Final = 3600.0
"""Duration of the longest trajectory that is accepted, in s."""

MAX_AHEAD_S: Final = 10.0
"""Longest accepted wait for a trajectory whose ``header.stamp`` lies ahead, in s."""

START_TOLERANCE: Final = 0.1
"""Largest distance in rad of a joint from the trajectory's beginning, or from its present point."""


class ResultCode(IntEnum):
    """``error_code`` of ``control_msgs/action/FollowJointTrajectory``."""

    SUCCESSFUL = 0
    INVALID_GOAL = -1
    INVALID_JOINTS = -2
    OLD_HEADER_TIMESTAMP = -3
    PATH_TOLERANCE_VIOLATED = -4
    GOAL_TOLERANCE_VIOLATED = -5


class TrajectoryError(ActionError):
    """Trajectory that is refused as a whole. Nothing moved."""

    def __init__(self, message: str, code: ResultCode = ResultCode.INVALID_GOAL) -> None:
        """Build the error.

        Args:
            message: Message of the error.
            code: Error code for the client of an action.
        """
        super().__init__(message)
        self.code = code


class Trajectory:
    """Trajectory with linear interpolation between its points; joints that it does not name keep their position.

    Velocities and accelerations of points are checked for their number and are not followed: the safety gate limits
    the motion between the positions.
    """

    def __init__(self, message: Mapping[str, Any], begin: Array, now: float = 0.0) -> None:
        """Check the whole trajectory: nothing moves for one that cannot be followed to its end.

        As in ros2_control, a trajectory with a ``header.stamp`` of zero starts at once, and one with a stamp in the
        future, at most ``MAX_AHEAD_S`` ahead, at that time. Of a trajectory that began already the rest is followed, if
        the arm is at its present point.

        Args:
            message: The trajectory.
            begin: Present joint angles in rad, shape (6,).
            now: Present time in s on the clock of the stamps.

        Raises:
            TrajectoryError: The trajectory cannot be followed; the message names the point.
        """
        begin = np.asarray(begin, np.float64)
        columns = _columns(message["joint_names"])
        times, rows = _points(message["points"], columns, begin)
        self.delay: float = _delay(message["header"]["stamp"], now, times[-1])
        """Time in s from now to the beginning; negative where it began already."""
        late = -self.delay
        if late > 0.0 and times[0] <= late:  # the rest, from its present point
            present = np.array([np.interp(late, times, column) for column in np.stack(rows).T])
            rest = next(index for index, moment in enumerate(times) if moment > late)
            times, rows = [late, *times[rest:]], [present, *rows[rest:]]
        elif times[0] > 0.0:  # from the arm's position
            times, rows = [max(late, 0.0), *times], [begin, *rows]
        apart = np.abs(rows[0] - begin)
        if (apart > START_TOLERANCE).any():
            joint = int(apart.argmax())
            raise TrajectoryError(
                f"The trajectory has {JOINT_NAMES[joint]} at {rows[0][joint]:.4f} rad at {times[0]:g} s, and the arm "
                f"has it at {begin[joint]:.4f} rad (tolerance {START_TOLERANCE:g} rad): begin where the arm is.",
                ResultCode.INVALID_GOAL if late <= 0.0 else ResultCode.OLD_HEADER_TIMESTAMP,
            )
        self._times, self._rows, self._now = np.array(times), np.stack(rows), times[0]
        self.columns = columns
        """Indices of the joints that the trajectory names."""
        self.duration: float = float(times[-1])
        """Duration in s."""

    @property
    def end(self) -> Array:
        """Joint angles at the end in rad, shape (6,)."""
        return np.array(self._rows[-1])

    @property
    def desired(self) -> Array:
        """Desired joint angles now in rad, shape (6,)."""
        return np.array([np.interp(self._now, self._times, column) for column in self._rows.T])

    @property
    def now(self) -> float:
        """Time since the beginning in s."""
        return float(self._now)

    @property
    def done(self) -> bool:
        """Return whether the end was reached."""
        return bool(self._now > self.duration - 1e-6)

    def advance(self, seconds: float) -> Array:
        """Advance by a time in s and return the desired joint angles then, in rad, shape (6,)."""
        self._now = min(self._now + seconds, self.duration)
        return self.desired

    def lateness(self) -> float:
        """Return the least delay in s of the arm at the end, which its joints' largest speeds cause."""
        needed = (np.abs(np.diff(self._rows, axis=0)) / MAX_SPEED).max(axis=1)
        late = 0.0
        for more in (needed - np.diff(self._times)).tolist():
            late = max(late + more, 0.0)
        return late


def _columns(given: Any) -> list[int]:
    names = [str(name) for name in given]
    unknown = [name for name in names if name not in JOINT_NAMES]
    if unknown or not names or len(set(names)) != len(names):
        raise TrajectoryError(
            f"A trajectory for {printable(names, 100)}; the arm's joints are {', '.join(JOINT_NAMES)}, each once.",
            ResultCode.INVALID_JOINTS,
        )
    return [JOINT_NAMES.index(name) for name in names]


def _points(points: Any, columns: list[int], begin: Array) -> tuple[list[float], list[Array]]:
    """Return times in s and positions in rad, shape (6,) each."""
    if not points:
        raise TrajectoryError("A trajectory without points.")
    if len(points) > MAX_POINTS:
        raise TrajectoryError(f"A trajectory of {len(points)} points; up to {MAX_POINTS} are accepted.")
    times: list[float] = []
    rows: list[Array] = []
    for number, point in enumerate(points):
        row, values = begin.copy(), np.asarray(point["positions"], np.float64)
        if values.shape != (len(columns),) or not np.isfinite(values).all():
            raise TrajectoryError(
                f"Point {number} has the positions {printable(values.tolist(), 100)}; {len(columns)} finite ones are "
                "needed, one of each joint that the trajectory names."
            )
        for field in ("velocities", "accelerations"):
            others = np.asarray(point[field], np.float64)
            if others.size and (others.shape != values.shape or not np.isfinite(others).all()):
                raise TrajectoryError(
                    f"Point {number} has the {field} {printable(others.tolist(), 100)}, for {len(columns)} joints."
                )
        if len(point["effort"]):
            raise TrajectoryError(f"Point {number} has efforts, which this arm cannot follow; leave them empty.")
        row[columns] = values
        outside = (row < JOINT_LOWER - SLACK) | (row > JOINT_UPPER + SLACK)
        outside[[joint for joint in range(NUM_JOINTS) if joint not in columns]] = False
        if outside.any():
            joint = int(np.flatnonzero(outside)[0])
            raise TrajectoryError(
                f"Point {number} sends {JOINT_NAMES[joint]} to {row[joint]:.4f} rad, outside its limits "
                f"{JOINT_LOWER[joint]:.4f} to {JOINT_UPPER[joint]:.4f}."
            )
        moment = seconds_of(point["time_from_start"], f"time_from_start of point {number}")
        if moment < 0.0 or moment > MAX_SECONDS:
            raise TrajectoryError(f"Point {number} comes at {moment:g} s; from 0 to {MAX_SECONDS:g} s are accepted.")
        if times and moment <= times[-1]:
            raise TrajectoryError(f"Point {number} comes at {moment:g} s, not after the one before it.")
        times.append(moment)
        rows.append(row)
    return times, rows


def _delay(stamp: Mapping[str, Any], now: float, duration: float) -> float:
    """Return the time in s from now to a stamp; 0 for a stamp of zero."""
    begin = seconds_of(stamp, "header.stamp")
    if begin == 0.0:
        return 0.0
    delay = begin - now
    if delay + duration <= 0.0:
        raise TrajectoryError(
            f"The trajectory ended {-delay - duration:.3g} s ago (header.stamp {begin:.3f} s, the clock says "
            f"{now:.3f} s): stamp it anew, or leave the stamp zero to begin at once.",
            ResultCode.OLD_HEADER_TIMESTAMP,
        )
    if delay > MAX_AHEAD_S:
        raise TrajectoryError(
            f"The trajectory begins in {delay:.3g} s (header.stamp {begin:.3f} s, the clock says {now:.3f} s); up to "
            f"{MAX_AHEAD_S:g} s ahead are accepted."
        )
    return delay


def seconds_of(value: Mapping[str, Any], what: str) -> float:
    """Return a ``builtin_interfaces`` time or duration in s.

    Args:
        value: The time or duration.
        what: Name of the value in the error.

    Raises:
        TrajectoryError: The nanoseconds make a second or more.
    """
    if not 0 <= int(value["nanosec"]) < 10**9:
        raise TrajectoryError(f"{what} has {value['nanosec']} nanoseconds; below 1000000000 are allowed.")
    return float(value["sec"]) + 1e-9 * float(value["nanosec"])
