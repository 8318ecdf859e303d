"""The driver of the control board: one exchange of frames a tick, and every reason to stop the arm.

The firmware has no watchdog, no limits and does not react to its emergency stop; it repeats its last command for ever.
So the driver does all of that, in this file:

- the e-stop: ``Board._judge`` latches ``Fault.ESTOP`` and disables the board in the tick whose reply shows it;
- the watchdog of the actions: ``Board._watch`` brakes after ``hold_after`` and latches a fault after ``disable_after``;
- protective stops by what the board reports: ``Board._check_reply``, ``Board._check_homing`` and ``Setpoints.problem``;
- a setpoint behind the safety gate that breaks a limit is not sent: ``Board._advance``;
- a fault stays latched until ``Board.clear``.

The driver has no thread and no clock: its owner calls :meth:`Board.tick` every ``TICK``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from smolvla_gym.drivers.board.exchange import Exchange
from smolvla_gym.drivers.board.gripper import make_gripper_driver
from smolvla_gym.drivers.board.homing import SLIPPED, Homing, may_have_slipped
from smolvla_gym.drivers.board.serial_port import SerialPort
from smolvla_gym.drivers.board.setpoints import Setpoints
from smolvla_gym.drivers.board.state import TICK, BoardSettings, BoardState, Event, Fault, Mode
from smolvla_gym.errors import DeviceError, FaultError, NotHomedError
from smolvla_gym.parol6 import rad_from_steps
from smolvla_gym.parol6.protocol import Command, StateFrame
from smolvla_gym.safety import SafetyGate, check_action
from smolvla_gym.safety.report import fault_intervention

_SETTLE_TICKS: Final = 10
"""Ticks to hold still before disabling: five time constants of the firmware's position loop."""

_STALL: Final = 3 * TICK
"""Delay of a tick in s beyond which the setpoint's motion no longer fits the arm (time constant 0.02 s)."""

_SURE: Final = 3
"""Equal replies in a row that make the pose known: there is no checksum, and setpoints begin there."""

_MOVING_MODES: Final = (Mode.READY, Mode.STOPPING)


class Board:
    """The control board on a port.

    Times are those of the owner, in s, and never go back. A fault stays until :meth:`clear`.
    """

    def __init__(self, open_port: Callable[[], SerialPort], gate: SafetyGate, settings: BoardSettings) -> None:
        """Prepare the driver; no port is opened yet.

        Args:
            open_port: Opens the port; raises DeviceError.
            gate: Turns actions into setpoints within the limits.
            settings: How the board is judged.
        """
        self._settings = settings
        self._setpoints = Setpoints(gate, settings)
        self._exchange = Exchange(open_port, settings)
        self._gripper = make_gripper_driver(settings)
        self._homing = Homing()
        self._mode = Mode.LOST
        self._fault: str | None = None
        self._detail = ""
        self._events = list[Event]()
        self._doubtful = False  # a homing was begun and has not been verified
        self._last_aim: float | None = None  # None: no actions are expected
        self._held = False  # the watchdog has braked the arm
        self._stop_began, self._settled = 0.0, 0
        self._ticks = self._replies = 0
        self._last_tick = math.inf

    # -- requests --------------------------------------------------------------------------------------------------

    def connect(self, now: float) -> None:
        """Open the port. The ticks that follow show whether the board answers.

        Raises:
            DeviceError: The port cannot be opened.
        """
        self.close()
        self._exchange.open(now)
        # An earlier program may have left a jog in force; disabling ends it.
        self._enter(Mode.DISABLED, now)

    def close(self) -> None:
        """Give the port back without another frame."""
        self._exchange.close()
        self._mode = Mode.LOST

    def enable(self, now: float) -> None:
        """Begin to enable the arm: mode ENABLING, then READY. It holds the pose that the board reports.

        Raises:
            FaultError: A fault is latched, or the arm is busy.
            NotHomedError: The board does not know its joint angles.
        """
        if self._mode is Mode.READY and self._fault is None:
            return
        self._refuse_unless_free()
        if not self.state.homed:
            raise NotHomedError(f"The arm does not know its joint angles; home it first.{SLIPPED * self._doubtful}")
        self._gripper.wake(now)
        self._enter(Mode.ENABLING, now)

    def home(self, now: float) -> None:
        """Begin to home: mode HOMING, then DISABLED.

        Raises:
            FaultError: A fault is latched, or the arm is busy.
        """
        self._refuse_unless_free()
        self._homing, self._homing_began = Homing(), now
        self._doubtful = True
        self._enter(Mode.HOMING, now)

    def calibrate_gripper(self, now: float) -> None:
        """Begin to calibrate the gripper.

        Raises:
            FaultError: A fault is latched.
        """
        self._refuse_fault()
        self._gripper.calibrate(now)
        self._note(now, {"event": "calibrate"})

    def aim(self, action: object, now: float) -> None:
        """Take a new target that arrived at the moment ``now``.

        Args:
            action: Absolute joint targets in rad and gripper opening 0..1, shape (7,).
            now: In s.

        Raises:
            ActionError: The action is no such array of finite numbers.
            FaultError: The arm is not enabled.
        """
        target = check_action(action)
        self._refuse_fault()
        if self._mode is not Mode.READY:
            raise FaultError(f"The arm is not enabled (it is {self._mode}).")
        self._setpoints.aim(target, now)
        self._last_aim, self._held = now, False

    def finish(self) -> None:
        """End an episode: the arm brakes and holds, and no actions are expected until the next one."""
        self._last_aim = None
        if self._mode is Mode.READY:
            self._setpoints.hold()

    def hold(self, reason: str, now: float) -> None:
        """Brake, disable and latch a fault of the name ``reason``."""
        self._latch(reason, "The arm was stopped from outside.", now, brake=True)

    def disable(self, now: float) -> None:
        """Brake where the arm follows setpoints, then disable."""
        if self._mode is Mode.READY:
            self._brake(now)
        elif self._mode in (Mode.ENABLING, Mode.HOMING):
            self._enter(Mode.DISABLED, now)

    def clear(self, now: float) -> None:
        """Acknowledge a fault whose cause is gone; the arm stays disabled.

        Raises:
            FaultError: The cause is still there.
            DeviceError: The port was lost and cannot be opened.
        """
        reply = self._exchange.reply
        if not self._exchange.is_open:
            self.connect(now)
        elif self._mode is Mode.STOPPING:
            raise FaultError(f"The arm is still braking after the fault {self._fault!r}.")
        elif reply is not None and reply.estop_pressed:
            raise FaultError("The emergency stop is still pressed; release it first.")
        elif (problem := self._exchange.overdue(now)) is not None:
            raise FaultError(f"The cause is still there: {problem}")
        elif self._exchange.disobeyed:
            raise FaultError("The board still does not echo the command it is sent.")
        if self._fault is not None:
            self._note(now, {"event": "clear", "fault": self._fault})
        self._fault, self._detail = None, ""

    def cut(self) -> None:
        """Disable at once, without braking and in any state: for an owner that ends by a defect. Never raises."""
        self._mode = Mode.DISABLED if self._exchange.is_open else Mode.LOST
        try:
            self._write(Command.DISABLE, self._last_tick)
        except DeviceError:
            self.close()

    def drain_events(self) -> list[Event]:
        """Return what happened since the last call, oldest first."""
        events, self._events = self._events, []
        return events

    @property
    def state(self) -> BoardState:
        """Return the newest state of the arm."""
        state = BoardState(mode=self._mode, fault=self._fault, detail=self._detail, ticks=self._ticks)
        reply = self._exchange.reply
        if reply is None:
            return state
        joints = rad_from_steps(reply.position)
        # With any other command the board repeats a speed that it no longer runs at.
        runs = reply.command == Command.MOVE or self._mode is Mode.HOMING
        moving = self._mode in _MOVING_MODES
        return replace(
            state,
            time=self._exchange.reply_time,
            joints=joints,
            velocity=rad_from_steps(reply.speed) if runs else np.zeros(6),
            opening=self._gripper.opening,
            homed_joints=reply.is_homed,
            homed=reply.all_homed and not self._doubtful,
            estop=reply.estop_pressed,
            commanded=self._setpoints.position.copy() if moving else joints,
            at_rest=self._setpoints.at_rest if moving else self._mode is not Mode.HOMING,
            gripper_object=self._gripper.object,
            gripper_ready=self._gripper.ready,
            echo=reply.command,
            replies=self._replies,
        )

    # -- the tick --------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Send one frame, take the reply and react; the owner calls it every ``TICK`` s."""
        self._ticks += 1
        behind, self._last_tick = now - self._last_tick - TICK, now
        if not self._exchange.is_open:
            return
        try:
            if behind > _STALL:
                self._exchange.excuse(now)
                if self._mode in _MOVING_MODES:
                    self._setpoints.resume(now)
                if self._mode in _MOVING_MODES and behind > self._settings.hold_after:
                    detail = f"The driver stood still for {behind:.2g} s: the computer was suspended or overloaded."
                    self._latch(Fault.FEEDBACK_TIMEOUT, detail, now, brake=True)
            self._watch(now)
            # A reply that came after the last tick answers an earlier frame than that of this tick.
            late = self._exchange.read(0.0)
            self._send(now)
            self._judge([*late, *self._exchange.receive()], now)
            if self._mode is Mode.DISABLED and self._exchange.sent != Command.DISABLE:
                self._write(Command.DISABLE, now)
        except DeviceError as error:
            self.close()
            self._latch(Fault.PORT_LOST, str(error), now)

    def _watch(self, now: float) -> None:
        """Stop the arm where no actions come: the watchdog."""
        if self._mode is not Mode.READY or self._last_aim is None:
            return
        silence = now - self._last_aim
        if silence > self._settings.disable_after:
            detail = f"No action came for {silence:.2g} s: the program that steers the arm hangs or has ended."
            self._latch(Fault.COMMAND_TIMEOUT, detail, now, brake=True)
        elif silence > self._settings.hold_after and not self._held:
            self._held = True
            self._setpoints.hold()
            why = f"no action came for {silence:.2g} s (limit {self._settings.hold_after:g} s): the driver brakes"
            self._note(now, {"rule": "watchdog", "where": "arm", "why": why})

    def _send(self, now: float) -> None:
        if self._mode is Mode.STOPPING:
            self._settled = self._settled + 1 if self._setpoints.at_rest else 0
            if self._settled > _SETTLE_TICKS or now - self._stop_began > self._settings.stop_timeout:
                self._enter(Mode.DISABLED, now)
        if self._mode in _MOVING_MODES and self._advance(now):
            self._write(Command.MOVE, now)
        elif self._mode is Mode.ENABLING:
            self._write(Command.ENABLE, now)
        elif self._mode is Mode.HOMING:
            self._write(self._homing.command(), now)
        else:
            self._write(Command.DISABLE, now)

    def _advance(self, now: float) -> bool:
        """Move the setpoint by one tick; return whether it may be sent."""
        events, broken = self._setpoints.advance(now)
        self._note(now, *events)
        if broken is not None:
            detail = f"A setpoint broke {broken} behind the safety gate; it was not sent."
            self._latch(Fault.COMMAND_LIMIT, detail, now)
        return broken is None

    def _write(self, command: Command, now: float) -> None:
        """Send a frame, with the present setpoint where the command is to move."""
        setpoints = self._setpoints
        if command is Command.MOVE:
            gripper, lines = self._gripper.part(setpoints.opening)
            self._exchange.send(command, now, gripper, lines, setpoints.position, setpoints.velocity)
        else:
            gripper, lines = self._gripper.part(None)
            self._exchange.send(command, now, gripper, lines)

    # -- reactions -------------------------------------------------------------------------------------------------

    def _judge(self, replies: list[StateFrame], now: float) -> None:
        """Take the replies of a tick, and latch the faults that they show; the e-stop first."""
        for reply in replies:
            if reply.estop_pressed:
                self._doubtful |= self._mode in _MOVING_MODES and may_have_slipped(reply)
                self._latch(Fault.ESTOP, f"The emergency stop is pressed.{SLIPPED * self._doubtful}", now)
        if replies:
            reply = replies[-1]
            self._exchange.take(reply, now)
            self._replies += 1
            self._gripper.observe(reply, now)
            self._check_reply(reply, now)
        else:
            self._exchange.check_answering(now)
        # A disabled arm need not be stopped, and enabling it needs replies.
        judged = self._exchange.reply is not None and self._mode is not Mode.DISABLED
        if judged and (problem := self._exchange.overdue(now)) is not None:
            self._latch(Fault.FEEDBACK_TIMEOUT, problem, now, brake=True)

    def _check_reply(self, reply: StateFrame, now: float) -> None:
        if not reply.all_homed and self._mode is not Mode.HOMING:
            self._doubtful = False
        if self._exchange.disobeyed * TICK > self._settings.obey_timeout:
            heard = f"The board echoes the command {reply.command}, not {self._exchange.sent}"
            self._latch(Fault.NOT_OBEYING, f"{heard}: switch its power off and on.", now)
        if (problem := self._gripper.problem(now)) is not None:
            self._latch(Fault.GRIPPER_FAILED, problem, now, brake=True)
        if self._mode is Mode.HOMING:
            self._check_homing(reply, now)
        elif self._mode in (Mode.ENABLING, *_MOVING_MODES) and not reply.all_homed:
            self._latch(Fault.HOMING_LOST, "The board lost its joint angles: it restarted. Home it again.", now)
        elif self._mode is Mode.ENABLING:
            if reply.command != Command.ENABLE or self._exchange.repeats < _SURE or not self._gripper.ready:
                return
            self._setpoints.begin(rad_from_steps(reply.position), self._gripper.opening)
            self._last_aim, self._held = None, False
            self._enter(Mode.READY, now)
        elif self._mode in _MOVING_MODES and (found := self._setpoints.problem(rad_from_steps(reply.position))):
            self._latch(*found, now)

    def _check_homing(self, reply: StateFrame, now: float) -> None:
        self._homing.observe(reply)
        cure = "Switch the board's power off and on, and home again."
        if skipping := ", ".join(self._homing.skipping):
            detail = f"The board moves {skipping} without searching the switch, as after a homing that was broken off."
            self._latch(Fault.HOMING_UNVERIFIED, f"{detail} {cure}", now)
        elif lost := ", ".join(self._homing.missing):
            detail = f"The board moves {lost} farther than its switch can be: check the sensor and its wires."
            self._latch(Fault.HOMING_FAILED, f"{detail} {cure}", now)
        elif self._homing.done:
            if missing := ", ".join(self._homing.unsearched):
                # The board would go on reporting homed joints; a homing that ends at once clears them.
                self._write(Command.HOME, now)
                self._latch(Fault.HOMING_UNVERIFIED, f"The board did not search the switches of {missing}. {cure}", now)
            else:
                self._doubtful = False
                self._enter(Mode.DISABLED, now)
        elif now - self._homing_began > (limit := self._settings.homing_timeout):
            self._latch(Fault.HOMING_FAILED, f"Homing took longer than {limit:g} s. {cure}", now)

    def _latch(self, fault: str, detail: str, now: float, brake: bool = False) -> None:
        """Latch a fault and disable: at once, or after braking within the limits."""
        self._gripper.sleep(now)
        graver = fault in (Fault.ESTOP, Fault.PORT_LOST, Fault.OPERATOR_STOP) or self._fault == Fault.COMMAND_TIMEOUT
        if self._fault is None or (self._fault != fault and graver):
            self._fault, self._detail = str(fault), detail
            self._note(now, {**fault_intervention(fault, detail), "fault": str(fault)})
        if brake and self._mode is Mode.READY:
            self._brake(now)
        elif self._mode is not Mode.LOST and not (brake and self._mode is Mode.STOPPING):
            # The tick sends the command before it ends.
            self._enter(Mode.DISABLED, now)

    def _brake(self, now: float) -> None:
        self._setpoints.hold()
        self._stop_began, self._settled = now, 0
        self._enter(Mode.STOPPING, now)

    def _enter(self, mode: Mode, now: float) -> None:
        if mode is not self._mode:
            if self._mode is Mode.ENABLING and mode is not Mode.READY:
                self._gripper.sleep(now)
            self._mode = mode
            self._note(now, {"event": "mode", "mode": str(mode)})

    def _note(self, now: float, *events: Mapping[str, Any]) -> None:
        self._events.extend({"time": now, **event} for event in events)

    def _refuse_fault(self) -> None:
        if self._fault is not None:
            raise FaultError(f"The arm is held by the fault {self._fault!r}: {self._detail}")

    def _refuse_unless_free(self) -> None:
        self._refuse_fault()
        if self._exchange.reply is None or self._mode is not Mode.DISABLED:
            raise FaultError(f"The arm cannot be woken now: it is {self._mode}.")
