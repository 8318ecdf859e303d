"""What stands between an action and the arm: every setpoint that leaves here is finite and within all limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

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

SafetyEvent = dict[str, Any]
"""One intervention: ``rule`` (position, speed, acceleration or collision), ``joint``, ``requested`` and ``allowed``.
The action wrappers add the rules ``lead`` and ``reach``.

Positions are in rad (the gripper: 0..1), speeds in rad/s, accelerations in rad/s^2. A collision has no joint: it was
requested that the parts named there touch.
"""

# Six joints are too few for numpy to pay: the gate runs in every control step and works on plain floats.
_LOWER = (*JOINT_LOWER.tolist(), 0.0)
_UPPER = (*JOINT_UPPER.tolist(), 1.0)
# Float32 actions at a limit round to either side of it; that is no event.
_TOLERANCE = 1e-5

_Floats = list[float]


class Guard(Protocol):
    """Knows which poses must not be commanded."""

    def touched(self, joints: Sequence[float], opening: float) -> dict[str, float]:
        """Tells what a pose is in that it must not touch.

        Args:
            joints: Six joint angles in rad.
            opening: Opening of the gripper, 0..1.

        Returns:
            How deep in m, by what touches what; empty where nothing does.
        """


def check_action(action: object, names: Sequence[str] = ACTION_NAMES) -> Array:
    """Returns an action as float64.

    Args:
        action: What the caller gave.
        names: What its components are called.

    Returns:
        The action, shape (n,).

    Raises:
        ActionError: It is no array of as many finite floating-point numbers as there are names.
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
    """Clamps, limits and refuses.

    Targets may jump; the commanded motion goes for them within the limits of speed, acceleration and jerk, counted
    from the last commanded state, arrives with all joints together and comes to rest there. At any moment the fastest
    stop stays within the joint limits and touches nothing that the guard knows.
    """

    def __init__(self, period: float, *, speed_scale: float = 1.0, guard: Guard | None = None) -> None:
        """Prepares the gate.

        Args:
            period: Time in s in which a target is expected to be reached; only what events tell depends on it.
            speed_scale: Share of the speed limits that may be used, in (0, 1].
            guard: Knows which poses must not be commanded; None: all may.
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
        """Whether the commanded motion has come to its end."""
        return self._plan is None or self._time >= self._plan.duration

    def reset(self, joints: Array, opening: float = 1.0) -> None:
        """Starts at rest.

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

    def touched(self, joints: Array, opening: float) -> dict[str, float]:
        """Check a pose as the gate checks the poses that it commands.

        Args:
            joints: Six joint angles in rad, shape (6,).
            opening: Opening of the gripper, 0..1.

        Returns:
            Penetration in m by what touches what; empty where nothing does or the gate has no guard.
        """
        return {} if self._guard is None else self._guard.touched(joints.tolist(), opening)

    # -- motion ----------------------------------------------------------------------------------------------------

    def aim(self, action: object, ago: float = 0.0) -> tuple[SafetyEvent, ...]:
        """Goes for a new target from the present commanded state.

        Args:
            action: Absolute joint targets in rad and gripper opening 0..1, shape (7,), any floating-point type.
            ago: How long ago in s it came: a few ms, after which the way already commanded and the new one have not
                yet parted. The new way then begins at the state of that moment.

        Returns:
            What was changed and why.

        Raises:
            ActionError: As from :func:`check_action`; the gate's state is unchanged.
        """
        requested: _Floats = check_action(action).tolist()
        target = [min(max(value, low), high) for value, low, high in zip(requested, _LOWER, _UPPER, strict=True)]
        events = [
            _event("position", ACTION_NAMES[i], value, allowed)
            for i, (value, allowed) in enumerate(zip(requested, target, strict=True))
            if abs(value - allowed) > _TOLERANCE
        ]
        self._opening = target.pop()
        # Among motions of the same duration the planner's choice hangs on the last digit: one that is made is kept.
        if target != self._target:
            self._replan(target, ago)
        return (*events, *self._slowed(target))

    def hold(self) -> None:
        """Brings the arm to rest as fast as its limits allow."""
        stop = Trajectory(NUM_JOINTS)
        self._brake(self._position, self._velocity, self._acceleration, stop)
        self._plan, self._time, self._target = stop, 0.0, None

    def advance(self, dt: float) -> tuple[SafetyEvent, ...]:
        """Moves the commanded state along its way.

        Args:
            dt: Time that passes in s.

        Returns:
            An event where the guard turned the motion into a stop.
        """
        if self.at_rest or self._plan is None:
            return ()
        events = self._guarded(dt)
        self._time += dt
        self._take(self._plan.at_time(self._time))
        return events

    def travel(self, dt: float, steps: int) -> tuple[Array, Array, tuple[SafetyEvent, ...]]:
        """Moves the commanded state along its way, and returns the way.

        Args:
            dt: Time that passes in s.
            steps: How many equal parts of it are wanted.

        Returns:
            Joint angles in rad and speeds in rad/s in the middle of each part, shape (steps, 6) each, and events.
        """
        events = () if self.at_rest else self._guarded(dt)
        if self.at_rest or self._plan is None:
            return np.tile(self._position, (steps, 1)), np.zeros((steps, NUM_JOINTS)), events
        middles = [self._plan.at_time(self._time + (i + 0.5) * dt / steps) for i in range(steps)]
        positions = np.clip([middle[0] for middle in middles], self._lower, self._upper)
        self._time += dt
        self._take(self._plan.at_time(self._time))
        return positions, np.array([middle[1] for middle in middles]), events

    def _set_bounds(self) -> None:
        """Sets the bounds in rad that setpoints keep: the joint limits, or where the arm is if that is farther out."""
        self._lower = [min(a, b) for a, b in zip(self._position, _LOWER, strict=False)]
        self._upper = [max(a, b) for a, b in zip(self._position, _UPPER, strict=False)]
        self._outside = self._lower != list(_LOWER[:NUM_JOINTS]) or self._upper != list(_UPPER[:NUM_JOINTS])

    def _take(self, state: tuple[_Floats, _Floats, _Floats]) -> None:
        position, self._velocity, self._acceleration = state
        self._position = [min(max(p, a), b) for p, a, b in zip(position, self._lower, self._upper, strict=True)]
        if self._outside:  # What an arm has come back it does not go out again.
            self._set_bounds()

    def _replan(self, target: _Floats, ago: float) -> None:
        """Goes for joint angles in rad from the state of ``ago`` s before; see :meth:`aim`."""
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

    def _slowed(self, target: _Floats) -> list[SafetyEvent]:
        """Returns an event for each joint that the limits keep from being at its target in a period."""
        events: list[SafetyEvent] = []
        if self._plan is None:
            return events
        reached = self._plan.at_time(self._time + self._period)[0]
        for i, alone in enumerate(self._plan.independent_min_durations):
            wanted = (target[i] - self._position[i]) / self._period
            allowed = min(max(wanted, -self._max_speed[i]), self._max_speed[i])
            if abs(wanted) > self._max_speed[i] * (1.0 + _TOLERANCE):
                events.append(_event("speed", ACTION_NAMES[i], wanted, allowed))
            # A joint that only keeps pace with a slower one is not told of; the slower one is.
            mean, before = (reached[i] - self._position[i]) / self._period, self._velocity[i]
            if alone - self._time > self._period and abs(allowed - mean) > _TOLERANCE * self._max_speed[i]:
                rates = (allowed - before) / self._period, (mean - before) / self._period
                events.append(_event("acceleration", ACTION_NAMES[i], *rates))
        return events

    def _plan_to(self, target: _Floats) -> Trajectory | None:
        """Returns a motion to rest at joint angles in rad, or None where none could be computed."""
        way = self._input
        way.current_position, way.current_velocity = self._position, self._velocity
        way.current_acceleration, way.target_position = self._acceleration, target
        # Waiting for a slower joint may swing a joint out and back; where that would leave the limits nobody waits.
        for synchronization in (Synchronization.Time, Synchronization.No):
            way.synchronization = synchronization
            plan = Trajectory(NUM_JOINTS)
            try:
                self._otg.calculate(way, plan)
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

    def _guarded(self, dt: float) -> tuple[SafetyEvent, ...]:
        """Turns the plan into a stop where the state after dt, or the fastest stop from there, would touch anything.

        Of the stop its middle and its end are looked at: joints that brake for different times do not go straight.
        """
        if self._guard is None or self._plan is None:
            return ()
        position, velocity, acceleration = self._plan.at_time(self._time + dt)
        self._brake(position, velocity, acceleration, self._stop)
        stop = self._stop
        for pose in (position, *(stop.at_time(share * stop.duration)[0] for share in (0.5, 1.0))):
            touched = self._guard.touched(pose, self._opening)
            if not touched:
                continue
            # An arm that touches something already may come out of it, and not go deeper.
            here = self._guard.touched(self._position, self._opening)
            for what, depth in touched.items():
                if depth > here.get(what, 0.0):
                    self.hold()
                    return ({"rule": "collision", "joint": None, "requested": what, "allowed": "no contact"},)
        return ()

    def _brake(self, position: _Floats, velocity: _Floats, acceleration: _Floats, stop: Trajectory) -> None:
        way = self._braking
        way.current_position, way.current_velocity, way.current_acceleration = position, velocity, acceleration
        self._otg.calculate(way, stop)


def _event(rule: str, joint: str, requested: float, allowed: float) -> SafetyEvent:
    return {"rule": rule, "joint": joint, "requested": requested, "allowed": allowed}
