"""The real body: the arm on its serial line and RealSense cameras."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final, override

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.board.client import BoardClient
from smolvla_gym.drivers.board.state import TICK, BoardState, Fault, Mode
from smolvla_gym.drivers.cameras.framing import Framing
from smolvla_gym.drivers.cameras.realsense import Frame, RealSenseCamera
from smolvla_gym.drivers.clock import Clock
from smolvla_gym.drivers.scheduling import request_low_latency_scheduling
from smolvla_gym.envs.backends.approach import Approach
from smolvla_gym.envs.backends.base import OPERATOR_STOP, Backend, Image, Reading
from smolvla_gym.envs.backends.scene_view import SceneView
from smolvla_gym.envs.reset_options import ARM_OPTIONS, STANDS, ResetOptions
from smolvla_gym.errors import FaultError, NotHomedError
from smolvla_gym.parol6 import HOME, Array, Gripper
from smolvla_gym.safety import Guard, Intervention, Shaping
from smolvla_gym.safety.report import add_shaping, fault_intervention

CAMERA_STALE: Final = "camera_stale"
"""Fault: a camera gave no new picture for ``MAX_FRAME_AGE``."""

CAMERA_LOST: Final = "camera_lost"
"""Fault: a camera is gone."""

MAX_FRAME_AGE: Final = 0.25
"""Age of a picture in s at which the arm is held: seven pictures at 30 Hz, in which a joint can turn by half a rad."""

_FIRST_FRAME: Final = 5.0  # s
_START_TIMEOUT: Final = 60.0  # s
_LONGEST_WAY: Final = 10.0  # s at full speed; 5 are needed


class CameraRig:
    """A camera whose pictures are brought to the contract's size.

    Attributes:
        camera: The camera.
    """

    def __init__(self, camera: RealSenseCamera, framing: Framing) -> None:
        """Sets what the camera's thread prepares.

        Args:
            camera: The camera; it is started.
            framing: The view of the simulation's camera in its pictures.
        """
        self.camera, self._framing = camera, framing
        camera.framing = framing

    def colour(self, frame: Frame) -> Image:
        """Returns the colour picture of a frame, shape (H, W, 3)."""
        # A copy: the next step may give the same frame again, and what an env gives belongs to the caller.
        return self._framing.colour(frame.pixels) if frame.view is None else frame.view.copy()

    def depth(self, frame: Frame) -> NDArray[np.uint16] | None:
        """Returns the depth of a frame in 0.1 mm, shape (H, W, 1), or None where it has none."""
        if frame.depth is None:
            return None
        return self._framing.depth(frame.depth) if frame.depth_view is None else frame.depth_view.copy()


class RealBackend(Backend):
    """A body in real time: a step ends one control period after the one before, whatever happened in between."""

    realtime = True
    reset_options: tuple[str, ...] = ARM_OPTIONS

    def __init__(
        self,
        link: BoardClient,
        cameras: Mapping[str, CameraRig],
        clock: Clock,
        *,
        gripper: Gripper,
        depth: bool,
        instruction: str,
        home: bool,
        period: float,
        view: SceneView,
        guard: Guard | None = None,
        speed_scale: float = 1.0,
    ) -> None:
        """Takes over an arm and its cameras.

        Args:
            link: The arm; it is connected.
            cameras: The cameras by name; they are started.
            clock: The clock of both.
            gripper: The gripper that is mounted.
            depth: Whether the cameras measure depth.
            instruction: What to do; ``reset(options={"instruction": ...})`` replaces it.
            home: Whether ``reset`` homes an arm that does not know its joint angles.
            period: Duration of a control step in s.
            view: What ``render`` draws.
            guard: Collision check of the link's gate, for what is checked before the arm moves; None: nothing is.
            speed_scale: Share of the speed limits that the link's gate uses.
        """
        self.approach = Approach(gripper, guard, speed_scale)
        self._start_timeout = max(_START_TIMEOUT, _LONGEST_WAY / speed_scale)
        self._link, self._cameras, self._clock = link, cameras, clock
        self._gripper, self._depth, self._home, self._period = gripper, depth, home, period
        self._default_instruction = self._instruction = instruction
        self._view = view
        self._deadline: float | None = None
        self._last_end = 0.0

    @property
    @override
    def instruction(self) -> str:
        return self._instruction

    @property
    @override
    def commanded(self) -> Array:
        return self._link.state().commanded

    @property
    def link(self) -> BoardClient:
        """The arm."""
        return self._link

    # -- episodes --------------------------------------------------------------------------------------------------

    @override
    def reset(self, rng: np.random.Generator, options: ResetOptions) -> Reading:
        # Checked first: nothing moves for a bad option.
        self.approach.refuse_contact(self._link.state(), options)
        self._plan(rng, options)
        if self.realtime:
            request_low_latency_scheduling()  # the thread that resets is the one that will step
        before, after = self._find_ways(options)
        self._wake(before)
        self._link.events()
        for pose in after[:-1]:
            self._go(pose, self._link.state().opening)
        self._go(options.joints, options.opening)
        self._instruction = self._default_instruction
        self._begin(rng)
        self._instruction = self._instruction if options.instruction is None else options.instruction
        self._await_pictures()
        self._deadline = None
        self._last_end = self._clock.now()
        self._link.events()  # of the drive to the start pose: what fails there raises
        reading = self._reading(self._last_end)
        if reading.fault is not None:
            raise FaultError(f"The episode cannot begin: the arm is held by the fault {reading.fault!r}.")
        return reading

    def _find_ways(self, options: ResetOptions) -> tuple[list[Array] | None, list[Array]]:
        """Find the ways to homing, where the arm is to be homed, and to the start pose, before anything moves.

        Returns:
            Poses to drive to before homing, None for no homing; and those after it, the start pose last.

        Raises:
            FaultError: A fault holds the arm, or something stands in each way.
            NotHomedError: The arm has to be homed and nobody allowed it.
        """
        self._refuse_fault()
        state = self._rest()
        if not state.homed:
            if not (options.home or self._home):
                raise NotHomedError(
                    "The arm does not know its joint angles: after power-up it has to be homed. It moves by itself for "
                    "half a minute then: clear its surroundings, keep the emergency stop at hand, and call "
                    'env.reset(options={"home": True}), or make the env with home=True.'
                )
            # Nobody knows where it is, so nothing can be checked before the search.
            return [], self.approach.way_to_start(HOME, state.opening, options)
        if not options.home:
            return None, self.approach.way_to_start(state.commanded, state.opening, options)
        return self.approach.way_to_homing(state), self.approach.way_to_start(HOME, state.opening, options)

    def _rest(self) -> BoardState:
        """Bring a moving arm to rest and return its state; ways are looked for from standstill."""
        state = self._link.state()
        if state.mode is Mode.READY and not state.at_rest:
            self._link.finish()
            end = self._clock.now() + self._link.settings.stop_timeout
            while not (state := self._link.state()).at_rest and state.fault is None and self._clock.now() < end:
                self._clock.sleep_until(self._clock.now() + TICK)
        return state

    def _plan(self, rng: np.random.Generator, options: ResetOptions) -> None:
        """Decides what the episode is, before anything moves; on the real table that is up to its owner."""

    def _begin(self, rng: np.random.Generator) -> None:
        """Prepares what is not the arm; on the real table that is up to its owner."""

    def _await_pictures(self) -> None:
        """Waits for pictures that were begun after this moment; the next one may have been on its way."""
        for eyes in self._cameras.values():
            latest = eyes.camera.latest()
            first = eyes.camera.wait_newer(-1 if latest is None else latest.number, _FIRST_FRAME)
            eyes.camera.wait_newer(first.number, _FIRST_FRAME)

    def _refuse_fault(self) -> None:
        """Refuse an arm that a fault holds; the fault of a pause between two episodes is cleared.

        Raises:
            FaultError: A fault holds it.
        """
        state = self._link.state()
        if state.fault == Fault.COMMAND_TIMEOUT:
            # Between two episodes nobody acts; the arm was put to rest for it and may be woken.
            self._link.clear()
            state = self._link.state()
        if state.fault is not None:
            raise FaultError(
                f"The arm is held by the fault {state.fault!r}: {state.detail} Remove its cause, then "
                "env.unwrapped.clear_fault()."
            )

    def _wake(self, before_homing: list[Array] | None) -> None:
        """Home the arm where that is wanted, and enable it.

        Args:
            before_homing: Poses to drive to before homing; None: it is not homed.
        """
        if before_homing:
            if self._link.state().mode is not Mode.READY:
                self._link.enable()
            for pose in before_homing:
                self._go(pose, self._link.state().opening)
        if before_homing is not None:
            if self._link.state().mode is Mode.READY:
                self._link.disable()
            self._link.home()
        if self._link.state().mode is not Mode.READY:
            self._link.enable()

    def _go(self, joints: Array, opening: float) -> None:
        """Drives to where the episode begins, and waits there."""
        action = np.append(joints, opening)
        end = self._clock.now() + self._start_timeout
        still = 0
        while True:
            self._link.aim(action)
            self._clock.sleep_until(self._clock.now() + self._period)
            state = self._link.state()
            if state.fault is not None:
                raise FaultError(f"On the way to the start pose the fault {state.fault!r} came up: {state.detail}")
            far = float(np.abs(state.joints - joints).max())
            still = still + 1 if state.at_rest else 0
            if state.at_rest and far < STANDS and abs(state.opening - opening) < 0.05:
                break
            stops = [event for event in self._link.events() if event.get("rule") in ("collision", "workspace")]
            if self._clock.now() > end or (still * self._period > 1.0 and far >= STANDS):
                self._link.finish()
                why = f": the safety gate keeps {stops[-1]['where']} apart" if stops else ""
                raise FaultError(
                    f"The arm cannot go straight to its start pose from where it stands{why}. Move it away first, or "
                    'begin elsewhere with reset(options={"joints": ...}).'
                )
            if still * self._period > 2.0:
                break  # the jaws hold something: they cannot open or close any farther
        self._link.finish()

    @override
    def step(self, action: object, dt: float) -> Reading:
        called = self._clock.now()
        with contextlib.suppress(FaultError):  # the reading tells of it
            self._link.aim(action)
        due = called + dt if self._deadline is None else self._deadline + dt
        late = self._clock.now() - due
        # The first step, and one that is called when it should have ended, set the beat; nothing is made up for.
        self._deadline = called + dt if called > due else due
        self._clock.sleep_until(self._deadline)
        now = self._clock.now()
        reading = self._reading(now)
        spent = {"step": now - self._last_end, "agent": called - self._last_end, "late": max(late, 0.0)}
        reading.timing = {phase: round(seconds, 9) for phase, seconds in spent.items()}
        self._last_end = now
        return reading

    def _reading(self, now: float) -> Reading:
        state = self._link.state()
        observation: dict[str, Any] = {"agent_pos": np.append(state.joints_at(now), state.opening).astype(np.float32)}
        frames = {name: self._frame(name) for name in self._cameras}
        if frames:
            observation["pixels"] = {n: self._cameras[n].colour(f) for n, f in frames.items()}
        if frames and self._depth:
            observation["depth"] = {
                n: depth for n, f in frames.items() if (depth := self._cameras[n].depth(f)) is not None
            }
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
        latest = self._cameras[name].camera.latest()
        assert latest is not None  # noqa: S101 - reset has waited for it
        return latest

    def _reports(self) -> tuple[tuple[Intervention, ...], Shaping]:
        """Return the interventions since the last call, but for faults, and the counters of shaping."""
        safety, shaping = list[Intervention](), Shaping()
        for event in self._link.events():
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
            fault = CAMERA_LOST if any(rig.camera.lost for rig in self._cameras.values()) else CAMERA_STALE
            self._link.hold(fault)
            return fault, f"the newest image is {age:.2f} s old (limit {MAX_FRAME_AGE:g} s): check the camera's cable"
        return (None, "") if state.mode is Mode.READY else (str(state.mode), "The arm is not enabled.")

    # -- the rest --------------------------------------------------------------------------------------------------

    @override
    def expert(self) -> Array:
        raise NotImplementedError("An expert needs to know where the objects are; only the simulation and the twin do.")

    @override
    def render(self) -> Image:
        return self._view.draw(self._link.state())

    @override
    def show(self) -> None:
        self._view.show(self._link.state())

    @override
    def stop(self) -> None:
        self._link.hold(OPERATOR_STOP)

    @override
    def clear_fault(self) -> None:
        for name, eyes in self._cameras.items():
            if eyes.camera.lost or eyes.camera.age() > MAX_FRAME_AGE:
                raise FaultError(f"The camera {name!r} still gives no new pictures: look at its cable, then try again.")
        self._link.clear()

    @override
    def close(self) -> None:
        with contextlib.ExitStack() as each:  # in reverse: the arm first, and whatever fails, the rest is freed
            each.callback(self._view.close)
            for eyes in self._cameras.values():
                each.callback(eyes.camera.close)
            each.callback(self._link.close)
