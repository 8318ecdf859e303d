"""Setpoints that follow the actions: made by the safety gate, and checked again by the setpoint monitor."""

from __future__ import annotations

import numpy as np

from smolvla_gym.drivers.board.state import TICK, BoardSettings, Event, Fault
from smolvla_gym.parol6 import JOINT_NAMES, Array
from smolvla_gym.safety import SafetyGate
from smolvla_gym.safety.setpoint_monitor import SetpointMonitor


class Setpoints:
    """The setpoint of the present tick, and the actions that the next one follows."""

    def __init__(self, gate: SafetyGate, settings: BoardSettings) -> None:
        """Prepare; :meth:`begin` sets the first setpoint."""
        self._gate, self._settings = gate, settings
        self._monitor = SetpointMonitor()
        self._aims = list[tuple[Array, float]]()

    @property
    def position(self) -> Array:
        """Return the setpoint in rad, shape (6,)."""
        return self._monitor.position

    @property
    def velocity(self) -> Array:
        """Return its speed in rad/s, shape (6,)."""
        return self._gate.velocity

    @property
    def opening(self) -> float:
        """Opening of the gripper, 0 closed to 1 open."""
        return self._gate.opening

    @property
    def at_rest(self) -> bool:
        """Return whether the setpoint has nowhere to go."""
        return self._gate.at_rest

    def begin(self, joints: Array, opening: float) -> None:
        """Begin at rest at joint angles in rad, shape (6,), and an opening 0..1."""
        self._monitor.reset(joints)
        self._gate.reset(joints, opening)
        self._aims.clear()

    def aim(self, target: Array, now: float) -> None:
        """Follow an action, shape (7,), that arrived at the moment ``now`` in s."""
        self._aims.append((target, now))

    def hold(self) -> None:
        """Brake within the limits, and forget the actions."""
        self._aims.clear()
        self._gate.hold()

    def resume(self, now: float) -> None:
        """Go on after the driver stood still until ``now`` in s: the board has come to rest at the last setpoint."""
        self._monitor.rest()
        self._gate.reset(self.position, self.opening)
        self._aims = [(target, now) for target, _ in self._aims[-1:]]

    def advance(self, now: float) -> tuple[list[Event], str | None]:
        """Move the setpoint by one tick.

        The board holds a setpoint until the next one, so each is the gate's state half a tick ahead, and a target
        takes effect when it came. Setpoints are a tick of the gate's time apart however late the ticks are.

        Args:
            now: In s.

        Returns:
            What the gate limited, and the limit that the setpoint breaks; None where it may be sent.
        """
        done, events = 0.0, list[Event]()
        for target, arrived in self._aims:
            moment = min(round(arrived - now, 9) + TICK / 2, TICK)
            if moment > done:
                events += [dict(intervention) for intervention in self._gate.advance(moment - done)]
                done = moment
            report = self._gate.aim(target, ago=min(done - moment, TICK / 2))
            events += [dict(intervention) for intervention in report.interventions]
            if report.shaping:
                events.append({"event": "shaping", "limits": report.shaping})
        self._aims.clear()
        events += [dict(intervention) for intervention in self._gate.advance(TICK - done)]
        return events, self._monitor.take(self._gate.position, self._gate.velocity, TICK)

    def problem(self, joints: Array) -> tuple[Fault, str] | None:
        """Return the fault that reported joint angles in rad, shape (6,), show, with a sentence; None for no fault."""
        error: Array = np.abs(joints - self.position)
        if error.max() > self._settings.max_following_error:
            joint = int(error.argmax())
            return Fault.FOLLOWING_ERROR, f"{JOINT_NAMES[joint]} is {error[joint]:.3f} rad away from its setpoint."
        outside = self._monitor.outside(joints)
        if outside.max() > self._settings.position_tolerance:
            joint = int(outside.argmax())
            return Fault.POSITION_LIMIT, f"{JOINT_NAMES[joint]} is {outside[joint]:.3f} rad outside its limits."
        return None
