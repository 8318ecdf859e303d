"""The driver of the control board: one exchange a tick, and every reason to stop.

The firmware has no watchdog, no limits and does not react to its emergency stop; it repeats its last command for ever.
All of that is done here. The driver has no thread and no clock: its owner calls :meth:`Board.tick` every ``TICK``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from smolvla_gym.drivers.board.gripper import make_gripper_driver
from smolvla_gym.drivers.board.homing import HOMED_BITS, Homing
from smolvla_gym.drivers.board.reply_matcher import ReplyMatcher, SentFrame
from smolvla_gym.drivers.board.serial_port import Port
from smolvla_gym.drivers.board.state import TICK, UNKNOWN, BoardSettings, BoardState, Fault, Mode
from smolvla_gym.errors import DeviceError, FaultError, NotHomedError
from smolvla_gym.parol6 import (
    JOINT_NAMES,
    STEPS_PER_RAD,
    Array,
    rad_from_steps,
    steps_from_rad,
)
from smolvla_gym.parol6.protocol import (
    ZEROS,
    Command,
    CommandFrame,
    GripperMode,
    Line,
    StateFrame,
    StateParser,
    Steps,
    avoid_header_byte,
)
from smolvla_gym.safety import SafetyGate, check_action
from smolvla_gym.safety.report import fault_intervention
from smolvla_gym.safety.setpoint_monitor import SetpointMonitor

Event = dict[str, Any]

_SETTLE_TICKS: Final = 10
"""Ticks to hold still before disabling: five time constants of the firmware's position loop."""

_CONSTANT: Final = (StateFrame().check, 0x03, 0x07)
"""The check byte and the low bits of the homed joints and of the lines, in every reply."""

_STALL: Final = 3 * TICK
"""How late a tick may be in s before the setpoint's motion no longer fits the arm, whose time constant is 0.02."""

_SURE: Final = 3
"""Equal replies in a row that make the pose known: there is no checksum, and the arm takes its setpoints from there."""

_MOVING_MODES: Final = (Mode.READY, Mode.STOPPING)


class Board:
    """The control board on a port.

    Times are those of the owner, in s, and never go back. A fault stays until :meth:`clear`.
    """

    def __init__(self, open_port: Callable[[], Port], gate: SafetyGate, settings: BoardSettings) -> None:
        """Prepares the driver; nothing is opened yet.

        Args:
            open_port: Opens the port; raises DeviceError.
            gate: What turns actions into motion.
            settings: How the board is judged.
        """
        self._open_port, self._gate, self._settings = open_port, gate, settings
        self._gripper = make_gripper_driver(settings)
        self._homing = Homing()
        self._port: Port | None = None
        self._parser = StateParser()
        self._mode = Mode.LOST
        self._fault: str | None = None
        self._detail = ""
        self._events = list[Event]()
        self._reply: StateFrame | None = None
        self._reply_matcher = ReplyMatcher()
        self._answered: SentFrame | None = None  # the frame that the newest reply answers
        self._came = -math.inf  # when that reply came
        self._opened = self._awake = -math.inf  # since when the port is open, and since when this driver is punctual
        self._sent = Command.DISABLE
        self._disobeyed = 0  # replies in a row with the echo of another command
        self._doubtful = False  # the homed bits are set, but the search was not seen
        self._aims = list[tuple[Array, float]]()
        self._last_aim: float | None = None  # None: no actions are expected
        self._held = False  # the watchdog has braked the arm
        self._stop_began = 0.0
        self._settled = 0
        self._setpoint_monitor = SetpointMonitor()
        self._ticks = self._replies = 0
        self._last_tick = math.inf
        self._repeats = 0  # replies in a row with the same joint angles

    # -- what the owner asks for -----------------------------------------------------------------------------------

    def connect(self, now: float) -> None:
        """Opens the port. Whether the board answers is seen in the ticks that follow.

        Raises:
            DeviceError: The port cannot be opened.
        """
        self.close()
        self._port = self._open_port()
        self._parser = StateParser()
        self._reply_matcher, self._answered, self._reply = ReplyMatcher(), None, None
        self._came, self._opened, self._awake = -math.inf, now, now
        self._disobeyed = 0
        # A program before may have left a jog in force; disabling ends it.
        self._enter(Mode.DISABLED, now)

    def close(self) -> None:
        """Gives the port back as things are."""
        if self._port is not None:
            self._port.close()
            self._port = None
        self._mode = Mode.LOST

    def enable(self, now: float) -> None:
        """Begins to wake the arm: mode ENABLING, then READY. It holds the pose it is found in.

        Raises:
            FaultError: A fault is latched, or the arm is busy.
            NotHomedError: It does not know its joint angles.
        """
        if self._mode is Mode.READY and self._fault is None:
            return
        self._refuse_unless_free()
        if not self.state.homed:
            raise NotHomedError("The arm does not know its joint angles; home it first.")
        self._gripper.wake(now)
        self._enter(Mode.ENABLING, now)

    def home(self, now: float) -> None:
        """Begins to home: mode HOMING, then DISABLED.

        Raises:
            FaultError: A fault is latched, or the arm is busy.
        """
        self._refuse_unless_free()
        self._homing, self._homing_began = Homing(), now
        self._doubtful = True
        self._enter(Mode.HOMING, now)

    def calibrate_gripper(self, now: float) -> None:
        """Begins to calibrate the gripper.

        Raises:
            FaultError: A fault is latched.
        """
        self._refuse_fault()
        self._gripper.calibrate(now)
        self._note(now, {"event": "calibrate"})

    def aim(self, action: object, now: float) -> None:
        """Takes a new target that arrived at the moment ``now``.

        Args:
            action: Absolute joint targets in rad and gripper opening 0..1, shape (7,).
            now: In s.

        Raises:
            ActionError: It is no such array of finite numbers.
            FaultError: The arm is not enabled.
        """
        target = check_action(action)
        self._refuse_fault()
        if self._mode is not Mode.READY:
            raise FaultError(f"The arm is not enabled (it is {self._mode}).")
        self._aims.append((target, now))
        self._last_aim, self._held = now, False

    def finish(self) -> None:
        """Ends an episode: the arm brakes and holds, and no actions are expected until the next one."""
        self._aims.clear()
        self._last_aim = None
        if self._mode is Mode.READY:
            self._gate.hold()

    def hold(self, reason: str, now: float) -> None:
        """Brakes, disables and latches a fault of the name ``reason``."""
        self._latch(reason, "The arm was stopped from outside.", now, brake=True)

    def disable(self, now: float) -> None:
        """Brakes where the arm is moving on our setpoints, then disables."""
        if self._mode is Mode.READY:
            self._brake(now)
        elif self._mode in (Mode.ENABLING, Mode.HOMING):
            self._enter(Mode.DISABLED, now)

    def clear(self, now: float) -> None:
        """Acknowledges a fault whose cause is gone; the arm stays disabled.

        Raises:
            FaultError: The cause is still there.
            DeviceError: The port was lost and cannot be opened.
        """
        if self._port is None:
            self.connect(now)
        elif self._mode is Mode.STOPPING:
            raise FaultError(f"The arm is still braking after the fault {self._fault!r}.")
        elif self._reply is not None and not self._reply.lines & Line.ESTOP_RELEASED:
            raise FaultError("The emergency stop is still pressed; release it first.")
        elif (problem := self._overdue(now)) is not None:
            raise FaultError(f"The cause is still there: {problem}")
        elif self._disobeyed:
            raise FaultError("The board still does not echo the command it is sent.")
        if self._fault is not None:
            self._note(now, {"event": "clear", "fault": self._fault})
        self._fault, self._detail = None, ""

    def cut(self) -> None:
        """Disables at once, without the gate and whatever the state: the last resort of the owner. Never raises."""
        self._mode = Mode.DISABLED if self._port is not None else Mode.LOST
        try:
            self._write(Command.DISABLE, self._last_tick)
        except DeviceError:
            self.close()

    def drain_events(self) -> list[Event]:
        """Returns what happened since the last call, oldest first."""
        events, self._events = self._events, []
        return events

    @property
    def state(self) -> BoardState:
        """What is known of the arm."""
        state = replace(UNKNOWN, mode=self._mode, fault=self._fault, detail=self._detail, ticks=self._ticks)
        reply = self._reply
        if reply is None:
            return state
        homed = tuple(bool(reply.homed & 0x80 >> joint) for joint in range(6))
        joints = rad_from_steps(reply.position)
        # With any other command the board repeats a speed that it no longer runs at.
        runs = reply.command == Command.MOVE or self._mode is Mode.HOMING
        moving = self._mode in _MOVING_MODES
        return replace(
            state,
            time=self._reply_time,
            joints=joints,
            velocity=rad_from_steps(reply.speed) if runs else np.zeros(6),
            opening=self._gripper.opening,
            homed_joints=homed,
            homed=all(homed) and not self._doubtful,
            estop=not reply.lines & Line.ESTOP_RELEASED,
            commanded=self._setpoint_monitor.position.copy() if moving else joints,
            at_rest=self._gate.at_rest if moving else self._mode is not Mode.HOMING,
            gripper_object=self._gripper.object,
            gripper_ready=self._gripper.ready,
            echo=reply.command,
            replies=self._replies,
        )

    # -- the tick --------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Sends one frame, takes the reply and reacts; to be called every ``TICK`` s."""
        self._ticks += 1
        behind, self._last_tick = now - self._last_tick - TICK, now
        if self._port is None:
            return
        try:
            if behind > _STALL:
                self._awake = now
                if self._mode in _MOVING_MODES:
                    self._resume(behind, now)
            self._watch(now)
            # What came too late for the last tick answers a frame before the one of this tick.
            late = self._read(0.0)
            self._send(now)
            self._judge([*late, *self._receive()], now)
            if self._mode is Mode.DISABLED and self._sent != Command.DISABLE:
                self._write(Command.DISABLE, now)
        except DeviceError as error:
            self._lose(str(error), now)

    def _resume(self, behind: float, now: float) -> None:
        """Goes on after this driver itself stood still: the board has come to rest at the last setpoint meanwhile."""
        self._setpoint_monitor.rest()
        self._gate.reset(self._setpoint_monitor.position, self._gate.opening)
        self._aims = [(action, now) for action, _ in self._aims[-1:]]
        if behind > self._settings.hold_after:
            detail = f"The driver stood still for {behind:.2g} s: the computer was suspended or overloaded."
            self._latch(Fault.FEEDBACK_TIMEOUT, detail, now, brake=True)

    def _watch(self, now: float) -> None:
        """Brakes where no actions come."""
        if self._mode is not Mode.READY or self._last_aim is None:
            return
        silence = now - self._last_aim
        if silence > self._settings.disable_after:
            detail = f"No action came for {silence:.2g} s: the program that steers the arm hangs or has ended."
            self._latch(Fault.COMMAND_TIMEOUT, detail, now, brake=True)
        elif silence > self._settings.hold_after and not self._held:
            self._held = True
            self._gate.hold()
            why = f"no action came for {silence:.2g} s (limit {self._settings.hold_after:g} s): the driver brakes"
            self._note(now, {"rule": "watchdog", "where": "arm", "why": why})

    def _send(self, now: float) -> None:
        if self._mode is Mode.STOPPING:
            self._settled = self._settled + 1 if self._gate.at_rest else 0
            if self._settled > _SETTLE_TICKS or now - self._stop_began > self._settings.stop_timeout:
                self._enter(Mode.DISABLED, now)
        if self._mode in _MOVING_MODES and self._advance(now):
            self._write(Command.MOVE, now, self._setpoint_monitor.position, self._gate.velocity, self._gate.opening)
        elif self._mode is Mode.ENABLING:
            self._write(Command.ENABLE, now)
        elif self._mode is Mode.HOMING:
            self._write(self._homing.command(), now)
        else:
            self._write(Command.DISABLE, now)

    def _advance(self, now: float) -> bool:
        """Moves the setpoint by one tick; returns whether it may be sent.

        The board holds a setpoint until the next one, so each is the gate's state half a tick ahead, and a target
        takes effect when it came. Setpoints are a tick of the gate's time apart however late the ticks are.
        """
        done = 0.0
        for action, arrived in self._aims:
            moment = min(round(arrived - now, 9) + TICK / 2, TICK)
            if moment > done:
                self._note(now, *self._gate.advance(moment - done))
                done = moment
            report = self._gate.aim(action, ago=min(done - moment, TICK / 2))
            self._note(now, *report.interventions)
            if report.shaping:
                self._note(now, {"event": "shaping", "limits": report.shaping})
        self._aims.clear()
        self._note(now, *self._gate.advance(TICK - done))
        broken = self._setpoint_monitor.take(self._gate.position, self._gate.velocity, TICK)
        if broken is not None:
            detail = f"A setpoint broke {broken} behind the safety gate; it was not sent."
            self._latch(Fault.COMMAND_LIMIT, detail, now)
        return broken is None

    def _write(
        self,
        command: Command,
        now: float,
        joints: Array | None = None,
        velocity: Array | None = None,
        opening: float | None = None,
    ) -> None:
        if self._port is None:
            return
        gripper, lines = self._gripper.part(opening)
        # Other commands ignore the position. Were one taken for a move, the arm should stay: there is no checksum.
        here = self._reply.position if self._reply is not None else ZEROS
        position = _steps(here if joints is None else steps_from_rad(joints).tolist())
        speed = ZEROS if velocity is None else _steps(np.rint(velocity * STEPS_PER_RAD).astype(int).tolist())
        frame = CommandFrame(command, position, speed, lines=lines, gripper=gripper)
        # A gripper must not be told twice to calibrate.
        copies = 2 if self._reply_matcher.doubtful and gripper.mode == GripperMode.OPERATE else 1
        self._port.write(frame.pack() * copies)
        self._sent = command
        for _ in range(copies):
            self._reply_matcher.send(command, now)

    def _receive(self) -> list[StateFrame]:
        # The rest of a reply that comes later than this is found at the beginning of the next tick.
        deadline = time.monotonic() + self._settings.reply_timeout
        while (left := deadline - time.monotonic()) > 0.0:
            if frames := self._read(left):
                return frames
        return []

    def _read(self, timeout: float) -> list[StateFrame]:
        """Returns what came and is a reply of this board: there is no checksum, but some bits never change."""
        if self._port is None:
            return []
        frames = self._parser.feed(self._port.read(timeout))
        replies = [frame for frame in frames if (frame.check, frame.homed & 0x03, frame.lines & 0x07) == _CONSTANT]
        for reply in replies:
            self._answered = self._reply_matcher.answer(reply)
        return replies

    # -- reactions -------------------------------------------------------------------------------------------------

    def _judge(self, replies: list[StateFrame], now: float) -> None:
        """Takes note of the replies of a tick and reacts to what they show."""
        for reply in replies:
            if not reply.lines & Line.ESTOP_RELEASED:
                self._latch(Fault.ESTOP, "The emergency stop is pressed.", now)
        if replies:
            before, reply = self._reply, replies[-1]
            self._repeats = self._repeats + 1 if before is not None and before.position == reply.position else 0
            self._reply = reply
            self._came = now
            self._replies += 1
            obeyed = self._answered is not None and reply.command == self._answered.command
            self._disobeyed = 0 if obeyed else self._disobeyed + 1
            self._gripper.observe(reply, now)
            self._check_reply(reply, now)
        elif self._reply is None and now - self._opened > self._settings.connect_timeout:
            raise DeviceError(f"Nothing answers on {self._port and self._port.url}: is it a PAROL6, and powered?")
        # A disabled arm needs no stopping, and enabling it needs answers.
        if self._reply is not None and self._mode is not Mode.DISABLED and (problem := self._overdue(now)) is not None:
            self._latch(Fault.FEEDBACK_TIMEOUT, problem, now, brake=True)

    @property
    def _reply_time(self) -> float:
        """When the frame was sent that the newest reply answers, in s: what it tells cannot be older."""
        return -math.inf if self._answered is None else self._answered.moment

    def _overdue(self, now: float) -> str | None:
        """Returns in words why too little is known of the arm, where that is so."""
        limit = self._settings.feedback_timeout
        age = now - max(self._reply_time, self._awake)
        if age <= limit:
            return None
        if now - self._came > limit:
            return f"The board has not answered for {limit:g} s: is it powered?"
        return f"The board's answers come {age:.2g} s late, more than {limit:g} s: is the computer or USB overloaded?"

    def _check_reply(self, reply: StateFrame, now: float) -> None:
        homed = reply.homed & HOMED_BITS == HOMED_BITS
        if not homed and self._mode is not Mode.HOMING:
            self._doubtful = False
        if self._disobeyed * TICK > self._settings.obey_timeout:
            detail = f"The board was sent the command {self._sent} and echoes {reply.command}."
            self._latch(Fault.NOT_OBEYING, detail, now)
        problem = self._gripper.problem(now)
        if problem is not None:
            self._latch(Fault.GRIPPER_FAILED, problem, now, brake=True)
        if self._mode is Mode.HOMING:
            self._check_homing(reply, now)
        elif self._mode in (Mode.ENABLING, *_MOVING_MODES) and not homed:
            self._latch(Fault.HOMING_LOST, "The board lost its joint angles: it restarted. Home it again.", now)
        elif (
            self._mode is Mode.ENABLING
            and reply.command == Command.ENABLE
            and self._repeats >= _SURE
            and self._gripper.ready
        ):
            self._setpoint_monitor.reset(rad_from_steps(reply.position))
            self._gate.reset(self._setpoint_monitor.start, self._gripper.opening)
            self._last_aim, self._held = None, False
            self._aims.clear()
            self._enter(Mode.READY, now)
        elif self._mode in _MOVING_MODES:
            self._check_motion(rad_from_steps(reply.position), now)

    def _check_motion(self, joints: Array, now: float) -> None:
        error: Array = np.abs(joints - self._setpoint_monitor.position)
        if error.max() > self._settings.max_following_error:
            joint = int(error.argmax())
            detail = f"{JOINT_NAMES[joint]} is {error[joint]:.3f} rad away from where it was sent."
            self._latch(Fault.FOLLOWING_ERROR, detail, now)
        outside = self._setpoint_monitor.outside(joints)
        if outside.max() > self._settings.position_tolerance:
            joint = int(outside.argmax())
            detail = f"{JOINT_NAMES[joint]} is {outside[joint]:.3f} rad outside its limits."
            self._latch(Fault.POSITION_LIMIT, detail, now)

    def _check_homing(self, reply: StateFrame, now: float) -> None:
        self._homing.observe(reply)
        if skipping := ", ".join(self._homing.skipping):
            detail = (
                f"The board moves {skipping} without a search for the switch, as after a homing that was broken off. "
                "Switch its power off and on, home again."
            )
            self._latch(Fault.HOMING_UNVERIFIED, detail, now)
        elif self._homing.done:
            missing = ", ".join(self._homing.unsearched)
            if missing:
                # The board's claim to be homed would outlive this driver; a homing that is ended at once clears it.
                self._write(Command.HOME, now)
                detail = f"The board did not search the switches of {missing}. Switch its power off and on, home again."
                self._latch(Fault.HOMING_UNVERIFIED, detail, now)
            else:
                self._doubtful = False
                self._enter(Mode.DISABLED, now)
        elif now - self._homing_began > self._settings.homing_timeout:
            detail = (
                f"Homing took longer than {self._settings.homing_timeout:g} s. Switch the board's power off and on."
            )
            self._latch(Fault.HOMING_FAILED, detail, now)

    def _latch(self, fault: str, detail: str, now: float, brake: bool = False) -> None:
        """Latches a fault and disables: at once, or after braking within the limits."""
        self._gripper.sleep(now)
        graver = fault in (Fault.ESTOP, Fault.PORT_LOST, Fault.OPERATOR_STOP) or self._fault == Fault.COMMAND_TIMEOUT
        if self._fault is None or (self._fault != fault and graver):
            self._fault, self._detail = str(fault), detail
            self._note(now, {**fault_intervention(fault, detail), "fault": str(fault)})
        if brake and self._mode is Mode.READY:
            self._brake(now)
        elif self._mode is not Mode.LOST and not (brake and self._mode is Mode.STOPPING):
            # The tick sends the command still before it ends.
            self._enter(Mode.DISABLED, now)

    def _brake(self, now: float) -> None:
        self._aims.clear()
        self._gate.hold()
        self._stop_began, self._settled = now, 0
        self._enter(Mode.STOPPING, now)

    def _lose(self, detail: str, now: float) -> None:
        self.close()
        self._latch(Fault.PORT_LOST, detail, now)

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
        if self._reply is None or self._mode is not Mode.DISABLED:
            raise FaultError(f"The arm cannot be woken now: it is {self._mode}.")


def _steps(values: Iterable[int]) -> Steps:
    j1, j2, j3, j4, j5, j6 = map(avoid_header_byte, values)
    return j1, j2, j3, j4, j5, j6
