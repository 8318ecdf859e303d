"""Backend of the real arm: its control board on a serial port, and RealSense cameras.

The driver detects faults of the arm, the emergency stop among them, see :mod:`smolvla_gym.drivers.board.driver`; this
backend adds those of the cameras. Every fault holds the arm until ``clear_fault()``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final, override

import numpy as np

from smolvla_gym.drivers.board.client import BoardClient
from smolvla_gym.drivers.board.state import TICK, BoardState, Fault, Mode
from smolvla_gym.drivers.cameras.camera import Camera, Frame
from smolvla_gym.drivers.cameras.whole_image import WholeImage
from smolvla_gym.drivers.clock import Clock
from smolvla_gym.drivers.scheduling import request_low_latency_scheduling
from smolvla_gym.envs.backends.approach import Approach
from smolvla_gym.envs.backends.base import OPERATOR_STOP, Backend, Image, Reading
from smolvla_gym.envs.backends.whole_images import camera_serials, take_whole_images
from smolvla_gym.envs.env_options import EnvOptions
from smolvla_gym.envs.real_options import RealOptions
from smolvla_gym.envs.reset_options import ARM_OPTIONS, STANDS, ResetOptions
from smolvla_gym.errors import FaultError, NotHomedError
from smolvla_gym.parol6 import HOME, Array
from smolvla_gym.safety import Guard, Intervention, Shaping
from smolvla_gym.safety.report import add_shaping, fault_intervention
from smolvla_gym.sim.window import Window
from smolvla_gym.twin.snapshot_renderer import SnapshotRenderer

CAMERA_STALE: Final = "camera_stale"
"""Fault: a camera sent no new image for ``MAX_FRAME_AGE``."""

CAMERA_LOST: Final = "camera_lost"
"""Fault: a camera was disconnected."""

MAX_FRAME_AGE: Final = 0.25
"""Age of an image in s at which the arm is held: seven images at 30 Hz, in which a joint can turn by half a rad."""

_FIRST_FRAME: Final = 5.0  # s
_START_TIMEOUT: Final = 60.0  # s
_LONGEST_ROUTE: Final = 10.0  # s at full speed; 5 are needed


class RealBackend(Backend):
    """Real arm in real time: a step ends one control period after the one before, whatever happened in between.

    Attributes:
        link: Client of the board.
        approach: Planner of the routes to homing and to the start pose.
        clock: Clock of the arm and the cameras.
        start_timeout: Time in s within which the arm has to reach its start pose.
    """

    realtime = True
    reset_options: tuple[str, ...] = ARM_OPTIONS

    def __init__(
        self,
        link: BoardClient,
        cameras: Mapping[str, Camera],
        clock: Clock,
        overview: SnapshotRenderer,
        options: EnvOptions,
        arm: RealOptions,
        guard: Guard | None,
    ) -> None:
        """Keep an arm and its cameras; :meth:`close` closes them.

        Args:
            link: Client of the board; it is connected.
            cameras: The cameras by name; they are started, and frame their images.
            clock: Clock of both.
            overview: Renders the scene for people.
            options: Options of the environment.
            arm: Options of the arm.
            guard: Collision check of the start pose and the route to it; None checks nothing.
        """
        self.approach: Approach = Approach(options.gripper, guard, arm.speed_scale)
        self.start_timeout: float = max(_START_TIMEOUT, _LONGEST_ROUTE / arm.speed_scale)
        self.link: BoardClient = link
        self.clock: Clock = clock
        self._cameras, self._overview = cameras, overview
        self._window = Window(overview.model, overview.data)
        self._depth, self._home, self._period = options.depth, arm.home, options.period
        template = options.task.instruction_templates[0]
        self._default_instruction = arm.instruction or template.format(color="red", base="blue")
        self._instruction = self._default_instruction
        self._deadline: float | None = None
        self._last_end = 0.0

    @property
    @override
    def instruction(self) -> str:
        return self._instruction

    @property
    @override
    def commanded(self) -> Array:
        return self.link.state().commanded

    # -- episodes --------------------------------------------------------------------------------------------------

    @override
    def reset(self, rng: np.random.Generator, options: ResetOptions) -> Reading:
        # Checked first: a refused option moves nothing.
        self.approach.refuse_contact(self.link.state(), options)
        self._plan(rng, options)
        if self.realtime:
            request_low_latency_scheduling()  # the thread that resets is the one that will step
        before, after = self._find_routes(options)
        self._wake(before)
        self.link.events()
        for pose in after[:-1]:
            self._go(pose, self.link.state().opening)
        self._go(options.joints, options.opening)
        self._instruction = self._default_instruction
        self._begin(rng)
        self._instruction = self._instruction if options.instruction is None else options.instruction
        self._await_images()
        self._deadline = None
        self._last_end = self.clock.now()
        self.link.events()  # of the drive to the start pose: what fails there raises
        reading = self._reading(self._last_end)
        if reading.fault is not None:
            raise FaultError(f"The episode cannot begin: the arm is held by the fault {reading.fault!r}.")
        return reading

    def _find_routes(self, options: ResetOptions) -> tuple[list[Array] | None, list[Array]]:
        """Find the routes to homing, if the arm is to be homed, and to the start pose, before the arm moves.

        Returns:
            Poses to drive to before homing, None for no homing; and those after it, the start pose last.

        Raises:
            FaultError: A fault holds the arm, or each route is blocked.
            NotHomedError: The arm has to be homed, and neither the option ``home`` nor the reset option allows it.
        """
        self._refuse_fault()
        state = self._rest()
        if not state.homed:
            if not (options.home or self._home):
                raise NotHomedError(
                    "The arm does not know its joint angles: after power-up it has to be homed. Homing moves the arm "
                    "for half a minute: clear its surroundings, keep the emergency stop at hand, and call "
                    'env.reset(options={"home": True}), or make the env with home=True.'
                )
            # Its joint angles are unknown, so the homing search cannot be checked.
            return [], self.approach.route_to_start(HOME, state.opening, options)
        if not options.home:
            return None, self.approach.route_to_start(state.commanded, state.opening, options)
        return self.approach.route_to_homing(state), self.approach.route_to_start(HOME, state.opening, options)

    def _rest(self) -> BoardState:
        """Bring a moving arm to rest and return its state; routes start from rest."""
        state = self.link.state()
        if state.mode is Mode.READY and not state.at_rest:
            self.link.finish()
            end = self.clock.now() + self.link.settings.stop_timeout
            while not (state := self.link.state()).at_rest and state.fault is None and self.clock.now() < end:
                self.clock.sleep_until(self.clock.now() + TICK)
        return state

    def _plan(self, rng: np.random.Generator, options: ResetOptions) -> None:
        """Draw the scene of the episode before the arm moves; people lay out the real table."""

    def _begin(self, rng: np.random.Generator) -> None:
        """Lay out the drawn scene; people lay out the real table."""

    def _await_images(self) -> None:
        """Wait for images whose exposure began after this moment; the next one may have begun before."""
        for camera in self._cameras.values():
            latest = camera.latest()
            first = camera.wait_newer(-1 if latest is None else latest.number, _FIRST_FRAME)
            camera.wait_newer(first.number, _FIRST_FRAME)

    def _refuse_fault(self) -> None:
        """Raise if a fault holds the arm; clear the fault of a pause between two episodes.

        Raises:
            FaultError: A fault holds the arm.
        """
        state = self.link.state()
        if state.fault == Fault.COMMAND_TIMEOUT:
            # Between two episodes no actions come: the watchdog disabled the arm, which may be enabled again.
            self.link.clear()
            state = self.link.state()
        if state.fault is not None:
            raise FaultError(
                f"The arm is held by the fault {state.fault!r}: {state.detail} Remove its cause, then "
                "env.unwrapped.clear_fault()."
            )

    def _wake(self, before_homing: list[Array] | None) -> None:
        """Home the arm if needed, and enable it.

        Args:
            before_homing: Poses to drive to before homing; None for no homing.
        """
        if before_homing:
            if self.link.state().mode is not Mode.READY:
                self.link.enable()
            for pose in before_homing:
                self._go(pose, self.link.state().opening)
        if before_homing is not None:
            if self.link.state().mode is Mode.READY:
                self.link.disable()
            self.link.home()
        if self.link.state().mode is not Mode.READY:
            self.link.enable()

    def _go(self, joints: Array, opening: float) -> None:
        """Drive straight to a pose and wait until the arm is there.

        Raises:
            FaultError: A fault came up, or the safety gate stops the arm before it is there.
        """
        action = np.append(joints, opening)
        end = self.clock.now() + self.start_timeout
        still = 0
        while True:
            self.link.aim(action)
            self.clock.sleep_until(self.clock.now() + self._period)
            state = self.link.state()
            if state.fault is not None:
                raise FaultError(
                    f"The fault {state.fault!r} stopped the arm on its way to the start pose: {state.detail}"
                )
            far = float(np.abs(state.joints - joints).max())
            still = still + 1 if state.at_rest else 0
            if state.at_rest and far < STANDS and abs(state.opening - opening) < 0.05:
                break
            stops = [event for event in self.link.events() if event.get("rule") in ("collision", "workspace")]
            if self.clock.now() > end or (still * self._period > 1.0 and far >= STANDS):
                self.link.finish()
                why = f": the safety gate keeps {stops[-1]['where']} apart" if stops else ""
                raise FaultError(
                    f"The arm cannot go straight to its start pose from where it stands{why}. Move it away first, or "
                    'choose another start pose with reset(options={"joints": ...}).'
                )
            if still * self._period > 2.0:
                break  # an object between the jaws keeps the gripper from its opening
        self.link.finish()

    @override
    def step(self, action: object, dt: float) -> Reading:
        called = self.clock.now()
        with contextlib.suppress(FaultError):  # the reading has the fault
            self.link.aim(action)
        due = called + dt if self._deadline is None else self._deadline + dt
        late = self.clock.now() - due
        # The first step, and one that is called after its deadline, start the periods anew; no time is made up for.
        self._deadline = called + dt if called > due else due
        self.clock.sleep_until(self._deadline)
        now = self.clock.now()
        reading = self._reading(now)
        spent = {"step": now - self._last_end, "agent": called - self._last_end, "late": max(late, 0.0)}
        reading.timing = {phase: round(seconds, 9) for phase, seconds in spent.items()}
        self._last_end = now
        return reading

    def _reading(self, now: float) -> Reading:
        state = self.link.state()
        observation: dict[str, Any] = {"agent_pos": np.append(state.joints_at(now), state.opening).astype(np.float32)}
        frames = {name: self._frame(name) for name in self._cameras}
        # Copies: the next step may read the same frame again, and observations belong to the caller.
        if frames:
            observation["pixels"] = {name: frame.pixels.copy() for name, frame in frames.items()}
        if frames and self._depth:
            observation["depth"] = {name: f.depth.copy() for name, f in frames.items() if f.depth is not None}
        age = max((now - frame.time for frame in frames.values()), default=0.0)
        fault, why = self._fault(state, age)
        safety, shaping = self._reports()
        if fault is not None:
            safety += (fault_intervention(fault, why),)
        return Reading(
            observation,
            safety=safety,
            shaping=shaping,
            fault=fault,
            state_age_s=round(now - state.time, 9),
            frame_age_s=round(age, 9),
        )

    def _frame(self, name: str) -> Frame:
        latest = self._cameras[name].latest()
        assert latest is not None  # noqa: S101 - reset waited for an image
        return latest

    def _reports(self) -> tuple[tuple[Intervention, ...], Shaping]:
        """Return the interventions since the last call, but for faults, and the counters of shaping."""
        safety, shaping = list[Intervention](), Shaping()
        for event in self.link.events():
            if event.get("event") == "shaping":
                add_shaping(shaping, event["limits"])
            elif event.get("rule", "fault") != "fault":  # the state has the fault, also one of the link itself
                # The time is in the log: the same seed gives the same info.
                safety.append({"rule": event["rule"], "where": event["where"], "why": event["why"]})
        return tuple(safety), shaping

    def _fault(self, state: BoardState, age: float) -> tuple[str | None, str]:
        """Return the fault that holds the arm, or None, and what happened.

        Of two faults in one step this is the one that stopped the arm: the driver checks the arm in each of its ticks,
        the backend checks the cameras at the end of a step.
        """
        if state.fault is not None:
            return state.fault, state.detail
        if age > MAX_FRAME_AGE:
            fault = CAMERA_LOST if any(camera.lost for camera in self._cameras.values()) else CAMERA_STALE
            self.link.hold(fault)
            return fault, f"the newest image is {age:.2f} s old (limit {MAX_FRAME_AGE:g} s): check the camera's cable"
        return (None, "") if state.mode is Mode.READY else (str(state.mode), "The arm is not enabled.")

    # -- the rest --------------------------------------------------------------------------------------------------

    @override
    def expert(self) -> Array:
        raise NotImplementedError(
            "A real arm has no expert, as nothing measures the objects: use PAROL6Sim-v0 or port='twin'."
        )

    @property
    def camera_serials(self) -> dict[str, str]:
        """Serial number of each camera by name; empty for one whose driver knows none."""
        return camera_serials(self._cameras)

    def whole_images(self) -> dict[str, WholeImage]:
        """Return a new image of each camera by name, as the camera took it, without the crop of observations.

        The arm has to rest, between a reset and the first step: the images of observations pause for about 0.2 s.

        Raises:
            DeviceError: A camera sent no image.
        """
        return take_whole_images(self._cameras, self._renew_images)

    def _renew_images(self) -> None:
        """Wait for images that were taken, and cropped, after this moment."""
        self._await_images()

    @override
    def render(self) -> Image:
        return self._overview.render()[0]

    @override
    def show(self) -> None:
        self._overview.copy_state()
        self._window.sync()

    @override
    def stop(self) -> None:
        self.link.hold(OPERATOR_STOP)

    @override
    def clear_fault(self) -> None:
        for name, camera in self._cameras.items():
            if camera.lost or camera.age() > MAX_FRAME_AGE:
                raise FaultError(
                    f"The camera {name!r} still sends no new images (limit {MAX_FRAME_AGE:g} s): check its cable, then "
                    "call clear_fault() again."
                )
        self.link.clear()

    @override
    def close(self) -> None:
        with contextlib.ExitStack() as each:  # in reverse: the arm first; if one fails to close, the rest is freed
            each.callback(self._overview.close)
            each.callback(self._window.close)
            for camera in self._cameras.values():
                each.callback(camera.close)
            each.callback(self.link.close)
