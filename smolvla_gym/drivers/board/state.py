"""Settings and state of the board's driver: plain data that also travels between processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final

import numpy as np

from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import GRIPPERS, Array
from smolvla_gym.parol6.protocol import NUM_JOINTS, Command, GripperObject
from smolvla_gym.utils.option_values import check_number, check_switch

Event = dict[str, Any]
"""An event, with its ``time`` in s.

An intervention has the fields of :class:`~smolvla_gym.safety.Intervention`: ``rule``, ``where`` and ``why``. All else
has an ``event``; the event ``shaping`` has ``limits``, the number of joints that each limit slowed down.
"""

TICK: Final = 0.01
"""Time between two exchanges with the board in s: the rate that the firmware's position loop is made for."""

_MAX_EXTRAPOLATION = 2 * TICK


class Mode(StrEnum):
    """Mode of the driver."""

    DISABLED = "disabled"
    """The board takes no motion commands; its motors stay energised. The driver goes on reading its state."""

    ENABLING = "enabling"
    """The board is enabled; the gripper is being woken and, where necessary, calibrated."""

    HOMING = "homing"
    """The board moves the arm to find its limit switches."""

    READY = "ready"
    """The arm follows the setpoints of the safety gate."""

    STOPPING = "stopping"
    """The arm brakes within its limits and is disabled once it rests."""

    LOST = "lost"
    """There is no port."""


class Fault(StrEnum):
    """Latched fault of the arm. Besides these, ``hold(reason)`` latches a fault of any name."""

    ESTOP = "estop"
    """The e-stop is pressed, or its wire broken."""

    HOMING_LOST = "homing_lost"
    """The board no longer knows its joint angles: it restarted, or another program homed it."""

    FOLLOWING_ERROR = "following_error"
    """The board's step counters are too far from the setpoint."""

    POSITION_LIMIT = "position_limit"
    """A joint is outside its limits."""

    FEEDBACK_TIMEOUT = "feedback_timeout"
    """The board does not reply, or its replies come too late."""

    PORT_LOST = "port_lost"
    """The port failed: it was unplugged, or the board lost its power."""

    COMMAND_TIMEOUT = "command_timeout"
    """No action came for so long that the arm was disabled."""

    COMMAND_LIMIT = "command_limit"
    """A setpoint broke a limit behind the safety gate; it was not sent. This is a defect of this program."""

    HOMING_FAILED = "homing_failed"
    """Homing did not end in time, or a joint moved farther than its switch can be."""

    HOMING_UNVERIFIED = "homing_unverified"
    """The board reports that it is homed, but did not search all of its switches."""

    NOT_OBEYING = "not_obeying"
    """The board replies, but does not echo the command that was sent."""

    GRIPPER_FAILED = "gripper_failed"
    """The electric gripper does not answer, could not be calibrated, or reports an error."""

    OPERATOR_STOP = "operator_stop"
    """The program stopped the arm on request of a person."""

    LINK_LOST = "link_lost"
    """The process that owns the port ended or does not answer."""


@dataclass(frozen=True)
class BoardSettings:
    """Limits by which the driver judges the board.

    Attributes:
        gripper: The gripper that is mounted, a name in ``GRIPPERS``.
        invert_output: For an air gripper whose two tubes are swapped: OUT1 closes it.
        reply_timeout: How long a tick waits for the reply in s. The round trip takes about 0.4 ms; what is later is
            read in the next tick.
        connect_timeout: How long a newly opened port may stay silent in s.
        feedback_timeout: Age in s of the newest reply at which the arm is stopped, as replies are missing or late. The
            driver may read a press of the e-stop this late. Ten ticks are far above what a busy computer loses, and
            less than 0.1 rad of travel for the base joint.
        hold_after: Time without an action in s after which the arm brakes: several steps of any control rate above
            10 Hz, and short against what a person can react to.
        disable_after: Time without an action in s after which the arm is disabled: the program that steers it hangs.
        max_following_error: Distance in rad between sent and reported joints at which the arm is stopped. The
            firmware lags by 10 ms of travel and a tick by 10 more: at full speed 0.05 rad.
        position_tolerance: How far in rad the reported joints may lie outside the soft limits: 1 deg, still inside
            the mechanical stops.
        obey_timeout: How long the board may echo another command than the one sent, in s.
        homing_timeout: In s; the board's own sequence takes about 30, and up to 53 from awkward poses.
        gripper_timeout: Time in s for an electric gripper to answer and be calibrated; it takes about 3.
        stop_timeout: In s; a controlled stop from full speed takes less than 1, after this it is disabled as it is.
    """

    gripper: str = "ssg48"
    invert_output: bool = False
    reply_timeout: float = 0.004
    connect_timeout: float = 1.0
    feedback_timeout: float = 0.1
    hold_after: float = 0.25
    disable_after: float = 3.0
    max_following_error: float = 0.15
    position_tolerance: float = math.radians(1.0)
    obey_timeout: float = 0.2
    homing_timeout: float = 75.0
    gripper_timeout: float = 15.0
    stop_timeout: float = 3.0

    def __post_init__(self) -> None:
        if self.gripper not in GRIPPERS:
            raise OptionError("gripper", self.gripper, f"one of {', '.join(GRIPPERS)}")
        for setting in fields(self):
            value = getattr(self, setting.name)
            if isinstance(setting.default, float):
                value = check_number(setting.name, value, "a finite number above 0", above=0.0)
            elif isinstance(setting.default, bool):
                value = check_switch(setting.name, value)
            # Plain values: they travel to another process as JSON.
            object.__setattr__(self, setting.name, value)


def _no_joints() -> Array:
    return np.zeros(NUM_JOINTS)


@dataclass(frozen=True, eq=False)
class BoardState:
    """State of the arm, as far as the driver knows it; by default the state before the first reply.

    Attributes:
        time: Moment in s on the driver's clock (``time.monotonic()`` on the real arm) at which the frame was sent that
            the newest reply answers: no value here is older; -inf before the first reply.
        joints: Joint angles that the board reported in rad, shape (6,).
        velocity: Speeds that it runs the joints at in rad/s, shape (6,).
        opening: Opening of the gripper, 0 closed to 1 open; an air gripper's is its last command.
        homed_joints: Which joints are homed, as the board reports.
        homed: Whether the arm may be enabled: all joints are homed, and no homing is unverified.
        estop: Whether the emergency stop is pressed.
        mode: Mode of the driver.
        fault: Name of what stopped the arm, or None.
        detail: A sentence on the fault; empty without one.
        commanded: Joint angles last sent in rad, shape (6,); those reported where none are being sent.
        at_rest: Whether the setpoint stands still.
        gripper_object: Object detection of an electric gripper.
        gripper_ready: Whether the gripper takes commands: an electric one answers and is calibrated.
        echo: The command that the board last received.
        ticks: Ticks so far.
        replies: Ticks in which a reply came.
    """

    time: float = -math.inf
    joints: Array = field(default_factory=_no_joints)
    velocity: Array = field(default_factory=_no_joints)
    opening: float = 1.0
    homed_joints: tuple[bool, ...] = (False,) * NUM_JOINTS
    homed: bool = False
    estop: bool = False
    mode: Mode = Mode.LOST
    fault: str | None = None
    detail: str = ""
    commanded: Array = field(default_factory=_no_joints)
    at_rest: bool = True
    gripper_object: GripperObject = GripperObject.MOVING
    gripper_ready: bool = False
    echo: int = int(Command.IDLE)
    ticks: int = 0
    replies: int = 0

    def joints_at(self, now: float) -> Array:
        """Return the joint angles in rad, shape (6,), at a moment in s shortly after the reply.

        The angles go on at the reported speed, but only for two ticks, and only while the board follows setpoints: at
        other times the speed it reports is an old one.
        """
        if self.echo != Command.MOVE:
            return self.joints
        ahead: float = min(max(now - self.time, 0.0), _MAX_EXTRAPOLATION)
        return self.joints + self.velocity * ahead

    def to_json(self) -> dict[str, Any]:
        """Return the state as values that JSON can carry."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> BoardState:
        """Build a state from the values of :meth:`to_json`."""
        arrays = {name: np.array(values[name], dtype=np.float64) for name in ("joints", "velocity", "commanded")}
        return cls(
            **{
                **values,
                **arrays,
                "homed_joints": tuple(values["homed_joints"]),
                "mode": Mode(values["mode"]),
                "gripper_object": GripperObject(values["gripper_object"]),
            }
        )
