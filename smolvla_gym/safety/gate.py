"""Safety gate between actions and the arm: each setpoint that it returns is finite and within all limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from ruckig import ControlInterface, InputParameter, Ruckig, RuckigError, Synchronization, Trajectory

from smolvla_gym.errors import ActionError
from smolvla_gym.parol6 import (
    ACTION_NAMES,
    JOINT_LOWER,
    JOINT_UPPER,
    MAX_ACCELERATION,
    MAX_JERK,
    MAX_SPEED,
    NUM_JOINTS,
    Array,
)
from smolvla_gym.safety.report import GateReport, Intervention, Shaping, Violation, stop_intervention

# For six joints plain floats are faster than numpy, and the gate runs in every control step.
_LOWER = (*JOINT_LOWER.tolist(), 0.0)
_UPPER = (*JOINT_UPPER.tolist(), 1.0)
# Float32 actions at a limit round to either side of it; that is no intervention.
_TOLERANCE = 1e-5

_Floats = list[float]


class Guard(Protocol):
    """Check of poses that must not be commanded."""

    def violations(self, joints: Sequence[float], opening: float) -> dict[Violation, float]:
        """Return the reasons why a pose must not be commanded.

        Args:
            joints: Six joint angles in rad.
            opening: Opening of the gripper, 0..1.

        Returns:
            Depth in m of each; empty for a pose that is allowed.
        """


def check_action(action: object, names: Sequence[str] = ACTION_NAMES) -> Array:
    """Return an action as float64.

    Args:
        action: The unchecked action.
        names: Names of its components.

    Returns:
        The action, shape (n,).

    Raises:
        ActionError: It is not an array of finite floating-point numbers, one for each name.
    """
    shape = (len(names),)
    if not isinstance(action, np.ndarray):
        raise ActionError(f"An action is a numpy array of shape {shape}, float32; got {type(action).__name__}.")
    if action.shape != shape:
        raise ActionError(f"An action has shape {shape}: {', '.join(names)}; got {action.shape}.")
    if not np.issubdtype(action.dtype, np.floating):
        raise ActionError(f"An action is float32, not {action.dtype}; convert it with .astype('float32').")
    values = action.astype(np.float64)
    if not np.isfinite(values).all():
        bad = ", ".join(f"{names[i]}={values[i]}" for i in np.flatnonzero(~np.isfinite(values)))
        raise ActionError(f"An action has to be finite; got {bad}. The arm did not move.")
    return values


class SafetyGate:
    """Gate between actions and the arm: it clamps targets, limits motions and refuses malformed actions.

    Targets may jump. The commanded motion starts at the last commanded state, keeps the limits of speed, acceleration
    and jerk, arrives with all joints together and comes to rest there. At any moment the fastest stop stays within the
    joint limits and causes no violation that the guard checks for.
    """

    def __init__(self, period: float, *, speed_scale: float = 1.0, guard: Guard | None = None) -> None:
        """Prepare the gate.

        Args:
            period: Time in s in which a target is expected to be reached; only the counters of shaping depend on it.
            speed_scale: Share of the speed limits that may be used, in (0, 1].
            guard: Check of poses that must not be commanded; None allows all.
        """
        self._period, self._guard = period, guard
        self._max_speed: _Floats = (speed_scale * MAX_SPEED).tolist()
        self._otg = Ruckig(NUM_JOINTS)
        self._input = InputParameter(NUM_JOINTS)
        self._input.max_velocity = self._max_speed
        self._braking = InputParameter(NUM_JOINTS)
        self._braking.control_interface = ControlInterface.Velocity
        self._braking.synchronization = Synchronization.No
        self._braking.target_velocity = [0.0] * NUM_JOINTS
        for limits in (self._input, self._braking):
            limits.max_acceleration, limits.max_jerk = MAX_ACCELERATION.tolist(), MAX_JERK.tolist()
        self._stop = Trajectory(NUM_JOINTS)
        self.reset(0.5 * (JOINT_LOWER + JOINT_UPPER))

    # -- the commanded state ---------------------------------------------------------------------------------------

    @property
    def position(self) -> Array:
        """Commanded joint angles in rad, shape (6,)."""
        return np.array(self._position)

    @property
    def velocity(self) -> Array:
        """Commanded joint speeds in rad/s, shape (6,)."""
        return np.array(self._velocity)

    @property
    def opening(self) -> float:
        """Commanded opening of the gripper, 0 closed to 1 open."""
        return self._opening

    @property
    def at_rest(self) -> bool:
        """True after the end of the commanded motion."""
        return self._plan is None or self._time >= self._plan.duration

    def reset(self, joints: Array, opening: float = 1.0) -> None:
        """Start at rest.

        Args:
            joints: Measured joint angles in rad, shape (6,); where they lie outside the limits the arm may only come
                back.
            opening: Measured opening of the gripper, 0..1.
        """
        self._position: _Floats = np.asarray(joints, dtype=np.float64).tolist()
        self._velocity, self._acceleration = [0.0] * NUM_JOINTS, [0.0] * NUM_JOINTS
        self._opening = min(max(float(opening), 0.0), 1.0)
        self._plan: Trajectory | None = None
        self._target: _Floats | None = None
        self._time = 0.0
        self._set_bounds()

    def violations(self, joints: Array, opening: float) -> dict[Violation, float]:
        """Check a pose as the gate checks the poses that it commands.

        Args:
            joints: Six joint angles in rad, shape (6,).
            opening: Opening of the gripper, 0..1.

        Returns:
            Depth in m of each violation; empty for a pose that is allowed, and without a guard.
        """
        return {} if self._guard is None else self._guard.violations(joints.tolist(), opening)

    # -- motion ----------------------------------------------------------------------------------------------------

    def aim(self, action: object, ago: float = 0.0) -> GateReport:
        """Start a motion to a new target from the present commanded state.

        Args:
            action: Absolute joint targets in rad and gripper opening 0..1, shape (7,), any floating-point type.
            ago: Age of the action in s: a few ms, in which the motion already commanded and the new one have not yet
                parted. The new motion then begins at the state of that moment.

        Returns:
            What was changed, and which limits shape the motion.

        Raises:
            ActionError: As from :func:`check_action`; the gate's state is unchanged.
        """
        requested: _Floats = check_action(action).tolist()
        target = [min(max(value, low), high) for value, low, high in zip(requested, _LOWER, _UPPER, strict=True)]
        clamped = tuple(
            _clamped(i, value, allowed)
            for i, (value, allowed) in enumerate(zip(requested, target, strict=True))
            if abs(value - allowed) > _TOLERANCE
        )
        self._opening = target.pop()
        # Several motions may take the same time, and rounding decides between them: a motion that runs is kept.
        if target != self._target:
            self._replan(target, ago)
        return GateReport(clamped, self._shaping(target))

    def hold(self) -> None:
        """Bring the arm to rest as fast as its limits allow."""
        stop = Trajectory(NUM_JOINTS)
        self._brake(self._position, self._velocity, self._acceleration, stop)
        self._plan, self._time, self._target = stop, 0.0, None

    def advance(self, dt: float) -> tuple[Intervention, ...]:
        """Move the commanded state along its motion.

        Args:
            dt: Time that passes in s.

        Returns:
            An intervention where the guard turned the motion into a stop.
        """
        if self.at_rest or self._plan is None:
            return ()
        stops = self._guarded(dt)
        self._time += dt
        self._take(self._plan.at_time(self._time))
        return stops

    def travel(self, dt: float, steps: int) -> tuple[Array, Array, tuple[Intervention, ...]]:
        """Move the commanded state along its motion, and return samples of that.

        Args:
            dt: Time that passes in s.
            steps: Number of equal parts of it.

        Returns:
            Joint angles in rad and speeds in rad/s in the middle of each part, shape (steps, 6) each, and an
            intervention where the guard turned the motion into a stop.
        """
        stops = () if self.at_rest else self._guarded(dt)
        if self.at_rest or self._plan is None:
            return np.tile(self._position, (steps, 1)), np.zeros((steps, NUM_JOINTS)), stops
        middles = [self._plan.at_time(self._time + (i + 0.5) * dt / steps) for i in range(steps)]
        positions = np.clip([middle[0] for middle in middles], self._lower, self._upper)
        self._time += dt
        self._take(self._plan.at_time(self._time))
        return positions, np.array([middle[1] for middle in middles]), stops

    def _set_bounds(self) -> None:
        """Set the bounds in rad that setpoints keep: the joint limits, or where the arm is if that is farther out."""
        self._lower = [min(a, b) for a, b in zip(self._position, _LOWER, strict=False)]
        self._upper = [max(a, b) for a, b in zip(self._position, _UPPER, strict=False)]
        self._outside = self._lower != list(_LOWER[:NUM_JOINTS]) or self._upper != list(_UPPER[:NUM_JOINTS])

    def _take(self, state: tuple[_Floats, _Floats, _Floats]) -> None:
        position, self._velocity, self._acceleration = state
        self._position = [min(max(p, a), b) for p, a, b in zip(position, self._lower, self._upper, strict=True)]
        if self._outside:  # An arm that has come back towards its limits does not go out again.
            self._set_bounds()

    def _replan(self, target: _Floats, ago: float) -> None:
        """Start a motion to joint angles in rad from the state of ``ago`` s before; see :meth:`aim`."""
        old = self._plan
        if old is not None:
            ago = min(ago, self._time)
            self._take(old.at_time(self._time - ago))
        plan = self._plan_to(target)
        if plan is not None:
            self._plan, self._time, self._target = plan, 0.0 if old is None else ago, target
        # Otherwise, after a numerical failure, the old plan goes on: it ends at rest too.
        if self._plan is not None:
            self._take(self._plan.at_time(self._time))

    def _shaping(self, target: _Floats) -> Shaping:
        """Return how many joints each limit keeps from being at their targets in a period."""
        if self._plan is None:
            return {}
        speed = acceleration = 0
        reached = self._plan.at_time(self._time + self._period)[0]
        for i, alone in enumerate(self._plan.independent_min_durations):
            needed = (target[i] - self._position[i]) / self._period
            allowed = min(max(needed, -self._max_speed[i]), self._max_speed[i])
            speed += abs(needed) > self._max_speed[i] * (1.0 + _TOLERANCE)
            # A joint that only keeps pace with a slower one does not count; the slower one does.
            mean = (reached[i] - self._position[i]) / self._period
            late = alone - self._time > self._period
            acceleration += late and abs(allowed - mean) > _TOLERANCE * self._max_speed[i]
        counts = {"speed": speed, "acceleration": acceleration}
        return {limit: count for limit, count in counts.items() if count}

    def _plan_to(self, target: _Floats) -> Trajectory | None:
        """Return a motion to rest at joint angles in rad, or None where none could be computed."""
        request = self._input
        request.current_position, request.current_velocity = self._position, self._velocity
        request.current_acceleration, request.target_position = self._acceleration, target
        # Waiting for a slower joint may swing a joint out and back; where that would leave the limits no joint waits.
        for synchronization in (Synchronization.Time, Synchronization.No):
            request.synchronization = synchronization
            plan = Trajectory(NUM_JOINTS)
            try:
                self._otg.calculate(request, plan)
            except RuckigError:
                continue
            if synchronization == Synchronization.No or self._stays_inside(plan):
                return plan
        return None

    def _stays_inside(self, plan: Trajectory) -> bool:
        return all(
            bound.min >= low - _TOLERANCE and bound.max <= high + _TOLERANCE
            for bound, low, high in zip(plan.position_extrema, self._lower, self._upper, strict=True)
        )

    def _guarded(self, dt: float) -> tuple[Intervention, ...]:
        """Turn the plan into a stop where the state after dt, or the fastest stop from there, has a violation.

        The stop is checked in its middle and at its end: joints that brake for different times do not go straight.
        """
        if self._guard is None or self._plan is None:
            return ()
        position, velocity, acceleration = self._plan.at_time(self._time + dt)
        self._brake(position, velocity, acceleration, self._stop)
        stop = self._stop
        for pose in (position, *(stop.at_time(share * stop.duration)[0] for share in (0.5, 1.0))):
            found = self._guard.violations(pose, self._opening)
            if not found:
                continue
            # An arm that is in a violation already may come out of it, and not go deeper.
            here = self._guard.violations(self._position, self._opening)
            for violation, depth in found.items():
                if depth > here.get(violation, 0.0):
                    self.hold()
                    return (stop_intervention(violation, depth),)
        return ()

    def _brake(self, position: _Floats, velocity: _Floats, acceleration: _Floats, stop: Trajectory) -> None:
        request = self._braking
        request.current_position, request.current_velocity = position, velocity
        request.current_acceleration = acceleration
        self._otg.calculate(request, stop)


def _clamped(index: int, requested: float, allowed: float) -> Intervention:
    limits = f"{_LOWER[index]:.4g} to {_UPPER[index]:.4g}{' rad' if index < NUM_JOINTS else ''}"
    why = f"the target {requested:.4g} is outside {limits}: clamped to {allowed:.4g}"
    return {"rule": "position", "where": ACTION_NAMES[index], "why": why}
