"""A ``trajectory_msgs/JointTrajectory`` in time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from smolvla_gym.bridge.joint_command import SLACK
from smolvla_gym.errors import ActionError
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_NAMES, JOINT_UPPER, Array


class Trajectory:
    """Positions between points, straight from one to the next; joints that are not named stay where they are."""

    def __init__(self, message: Mapping[str, Any], begin: Array) -> None:
        """Checks the whole of it: nothing moves for one that cannot be followed to its end.

        Args:
            message: The trajectory.
            begin: Joint angles in rad that it begins at, shape (6,).

        Raises:
            ActionError: What is wrong, with the point.
        """
        names, points = list(message["joint_names"]), list(message["points"])
        unknown = [name for name in names if name not in JOINT_NAMES]
        if unknown or not names or len(set(names)) != len(names):
            raise ActionError(f"A trajectory for {names}; the arm's joints are {', '.join(JOINT_NAMES)}.")
        if not points:
            raise ActionError("A trajectory without points.")
        columns = [JOINT_NAMES.index(name) for name in names]
        times, rows = [0.0], [np.asarray(begin, np.float64)]
        for number, point in enumerate(points):
            row, values = rows[-1].copy(), np.asarray(point["positions"], np.float64)
            if values.shape != (len(names),) or not np.isfinite(values).all():
                raise ActionError(f"Point {number} has the positions {values.tolist()}, for {len(names)} joints.")
            row[columns] = values
            outside = (row < JOINT_LOWER - SLACK) | (row > JOINT_UPPER + SLACK)
            if outside.any():
                joint = int(np.flatnonzero(outside)[0])
                raise ActionError(
                    f"Point {number} sends {JOINT_NAMES[joint]} to {row[joint]:.4f} rad, outside its limits "
                    f"{JOINT_LOWER[joint]:.4f} to {JOINT_UPPER[joint]:.4f}."
                )
            after = point["time_from_start"]
            moment = float(after["sec"]) + 1e-9 * float(after["nanosec"])
            if moment < times[-1] or (number and moment == times[-1]):
                raise ActionError(f"Point {number} comes at {moment:g} s, not after the one before it.")
            if moment == 0.0:  # where it begins; the arm drives there within its limits
                rows[0] = row
                continue
            times.append(moment)
            rows.append(row)
        self._times, self._rows, self._now = np.array(times), np.stack(rows), 0.0
        self.duration = float(times[-1])
        """Seconds from its beginning to its end."""

    @property
    def end(self) -> Array:
        """Where it ends, in rad, shape (6,)."""
        return np.array(self._rows[-1])

    @property
    def done(self) -> bool:
        """Whether its end was reached."""
        return bool(self._now > self.duration - 1e-6)

    def advance(self, seconds: float) -> Array:
        """Goes on for some time and returns where the joints are to be then, in rad, shape (6,)."""
        self._now = min(self._now + seconds, self.duration)
        return np.array([np.interp(self._now, self._times, column) for column in self._rows.T])
