"""The virtual arm: the board's firmware and RealSense cameras over one MuJoCo world."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np

from smolvla_gym.drivers.clock import Clock, SystemClock
from smolvla_gym.parol6 import HOME, NUM_JOINTS, STEPS_PER_RAD, Array, get_gripper, rad_from_steps, steps_from_rad
from smolvla_gym.sim.extras import NO_EXTRAS, Extras
from smolvla_gym.sim.rendering import QUALITIES, Quality
from smolvla_gym.sim.scene import CUBE, ObjectKind
from smolvla_gym.sim.world import World
from smolvla_gym.twin.faults import Faults
from smolvla_gym.twin.firmware import Firmware
from smolvla_gym.twin.gripper import make_gripper
from smolvla_gym.twin.joint_error import JointError
from smolvla_gym.twin.snapshot_renderer import OVERVIEW_SIZE, SnapshotRenderer
from smolvla_gym.twin.virtual_board import VirtualBoard
from smolvla_gym.twin.virtual_camera import MJPEG, REALSENSE, VirtualCamera
from smolvla_gym.twin.virtual_mjpeg import ServedCameras
from smolvla_gym.twin.virtual_realsense import MODELS, VirtualBus, VirtualRealSense, camera_size, named_camera

RESTING: Final = np.deg2rad([25.0, -105.0, 185.0, 10.0, 20.0, 210.0])
"""Pose of an arm that is switched on, in rad, shape (6,). Its board does not know it."""

# Two full steps, in microsteps: a rotor that is forced farther falls into the next stable place, four full steps on.
_STEP_LOSS, _STEP_PERIOD = 64, 128

# A joint that stalls for so long in s slips; a shorter stall, as in a knock, loses no step.
_STALL_TIME = 0.015

# The mechanical ends of J4 and J5 lie beyond their soft limits, where homing finds their switches; J6 turns endlessly.
_ENDS: Final = {"joint_4": (-110.0, 146.0), "joint_5": (-128.0, 95.0)}


def make_world(gripper: str, kind: ObjectKind, *, goal: bool, extras: Extras = NO_EXTRAS) -> World:
    """Build the scene of a twin.

    Args:
        gripper: Name of the gripper.
        kind: The kind of its objects.
        goal: Whether there is a goal mark.
        extras: A belt, and what level 2 of the domain randomization needs.
    """
    world = World(
        get_gripper(gripper), kind, goal=goal, control_hz=100.0, cameras=(), image_size=OVERVIEW_SIZE, depth=False,
        quality=QUALITIES["fast"], extras=extras,
    )  # fmt: skip
    for name, ends in _ENDS.items():
        world.model.joint(name).range[:] = np.deg2rad(ends)
    world.model.jnt_limited[world.model.joint("joint_6").id] = False
    return world


class Twin:
    """One virtual PAROL6 on its table.

    Attributes:
        world: The physics. Reading it while the twin runs needs ``lock``.
        board: The board behind its port.
        cameras: The cameras by name.
        served: The server of cameras that are no RealSense cameras, None without.
        bus: Makes the librealsense context with the cameras that are.
        faults: The injected faults.
        lock: Held while time passes.
        overview: Renders the scene for people.
    """

    def __init__(
        self,
        *,
        gripper: str = "ssg48",
        kind: ObjectKind = CUBE,
        goal: bool = False,
        cameras: Sequence[str] = (),
        depth: bool = False,
        quality: Quality = QUALITIES["fast"],
        homed: bool = False,
        noise: float = 1.0,
        faults: Faults | None = None,
        clock: Clock | None = None,
        extras: Extras = NO_EXTRAS,
        transport: str = REALSENSE,
        http_port: int = 0,
        joint_error: JointError | None = None,
    ) -> None:
        """Set the arm up; :meth:`start` runs it.

        Args:
            gripper: Name of the gripper.
            kind: The kind of its objects; they are parked.
            goal: Whether there is a goal mark.
            cameras: Names of its cameras.
            depth: Whether they measure depth.
            quality: Rendering quality of the cameras.
            homed: Whether the board was homed before; otherwise it was just switched on.
            noise: Standard deviation of the cameras' noise in grey levels.
            faults: The faults that are injected from the beginning.
            clock: The time that the world follows; the computer's by default.
            extras: A belt, and what level 2 of the domain randomization needs.
            transport: How drivers reach the cameras, one of ``TRANSPORTS``.
            http_port: TCP port of the server of MJPEG cameras; 0 takes any.
            joint_error: Errors of the joints that the board does not know; None: there are none.

        Raises:
            OptionError: The port is in use.
        """
        self.faults: Faults = Faults() if faults is None else faults
        self.lock: threading.RLock = threading.RLock()
        self._clock: Clock = SystemClock() if clock is None else clock
        self.world: World = make_world(gripper, kind, goal=goal, extras=extras)
        joints = HOME if homed else RESTING
        self._firmware = Firmware(steps_from_rad(joints), make_gripper(gripper))
        if homed:
            self._firmware.set_homed()
        self._joint_error = joint_error
        self._reset_world(joints)
        self.world.settle()
        self._started = self._clock.now()
        self._steps = 0
        self._firmware_time = 0.0
        self._stalling: Array = np.zeros(NUM_JOINTS)
        self._depth, self._quality = depth, quality
        self.board: VirtualBoard = VirtualBoard(
            self._firmware, self.faults, self.advance, lock=self.lock, now=self._clock.now
        )
        self.cameras: Mapping[str, VirtualCamera]
        self.served: ServedCameras | None = None
        self._renderers: list[SnapshotRenderer] = [self.snapshot_renderer(name) for name in cameras]
        renders = {name: renderer.render for name, renderer in zip(cameras, self._renderers, strict=True)}
        sensors: dict[str, VirtualRealSense] = {}
        if transport == MJPEG and renders:
            self.served = ServedCameras(renders, noise=noise, faults=self.faults, port=http_port)
            self.cameras = self.served.cameras
        else:
            for seed, (name, render) in enumerate(renders.items()):
                sensors[name] = named_camera(name, render, noise=noise, seed=seed, faults=self.faults)
            self.cameras = sensors
        self.bus: VirtualBus = VirtualBus(list(sensors.values()))
        self.overview: SnapshotRenderer = SnapshotRenderer(self.world, self.lock)

    def snapshot_renderer(self, camera: str) -> SnapshotRenderer:
        """Return a renderer of the view of one of the cameras."""
        colour, depth = MODELS[camera].colour[0], MODELS[camera].depth[0]
        return SnapshotRenderer(
            self.world, self.lock, camera=camera, quality=self._quality, size=camera_size(camera), colour=colour,
            depth=depth if self._depth else None, update=self.board.service,
        )  # fmt: skip

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def port(self) -> str:
        """Return the serial port of the board."""
        return self.board.path

    @contextmanager
    def present(self) -> Iterator[World]:
        """Yield the world as it is now; no time passes in it meanwhile."""
        with self.lock:
            yield self.world

    @property
    def time(self) -> float:
        """Return the moment in s that the physics has reached since the start."""
        return self._steps * self.world.timestep

    @property
    def joints(self) -> Array:
        """Return the true joint angles in rad, shape (6,); the arm has no encoders."""
        with self.lock:
            return self.world.measured_joints

    @property
    def disabled(self) -> bool:
        """Return whether the board ignores motion commands."""
        return self._firmware.disabled

    @property
    def command(self) -> int:
        """Return the command in force."""
        return self._firmware.command

    @property
    def homed(self) -> bool:
        """Return whether all joints are homed."""
        return bool(self._firmware.homed.all())

    # -- time --------------------------------------------------------------------------------------------------------

    def advance(self, moment: float | None = None) -> None:
        """Advance the time to a moment in s of the twin's clock, or to now."""
        with self.lock:
            now = (self._clock.now() if moment is None else moment) - self._started
            timestep, world, firmware = self.world.timestep, self.world, self._firmware
            while (self._steps + 1) * timestep <= now + 1e-9:
                self._steps += 1
                due = self._steps * timestep
                firmware.advance(self._since(due))
                self._firmware_time = due
                firmware.gripper.advance(timestep, world.opening)
                motors = rad_from_steps(firmware.motor)
                if self._joint_error is not None:
                    world.zero_error = self._joint_error.at(motors)
                world.drive(motors[None], firmware.gripper.target_opening)
                firmware.feel(world.measured_joints - world.zero_error)
                self._lose_steps()
            # The firmware's loop runs on between two steps of the physics.
            if now > self._firmware_time:
                firmware.advance(self._since(now))
                self._firmware_time = now

    def _since(self, moment: float) -> float:
        """Return how long in s the firmware has to run until a moment, rounded: the clock's offset has no effect."""
        return round(moment - self._firmware_time, 9)

    def _lose_steps(self) -> None:
        stalled = self.world.stalled
        if not stalled.any():  # nearly always
            self._stalling[:] = 0.0
            return
        self._stalling = np.where(stalled, self._stalling + self.world.timestep, 0.0)
        bend = (self.world.measured_joints - self.world.zero_error) * STEPS_PER_RAD - self._firmware.motor
        for joint in np.flatnonzero((self._stalling > _STALL_TIME) & (np.abs(bend) > _STEP_LOSS)).tolist():
            slip = float(np.copysign(_STEP_PERIOD, bend[joint]))
            self._firmware.slip(joint, slip)
            self.world.shift_motor(joint, slip / float(STEPS_PER_RAD[joint]))

    def clear_table(self) -> None:
        """Park all objects and put the jaws at rest; the arm stays as it is, except for steps that its motors lost.

        An episode must not depend on the ones before, and a homing between any two of them takes up to a minute.
        """
        with self.lock:
            self._firmware.recover()
            self._reset_world(rad_from_steps(self._firmware.motor))

    def _reset_world(self, joints: Array) -> None:
        """Park all objects, with the arm at rest at joint angles in rad that the board reports, shape (6,)."""
        self.world.reset(joints, self._firmware.gripper.target_opening)
        if self._joint_error is not None:
            self.world.misplace_zero(self._joint_error.at(joints))

    def lay(self, arrange: Callable[[], object]) -> None:
        """Clear the table and lay it anew, while no time passes.

        Args:
            arrange: Puts objects into :attr:`world`, and may change the appearance of its model.
        """
        with self.lock:
            self.clear_table()
            arrange()

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run the twin in real time, in threads of its own."""
        self.board.start()
        for camera in self.cameras.values():
            camera.start()

    def reseed(self, seed: int) -> None:
        """Make the cameras' noise depend on a seed alone."""
        for i, camera in enumerate(self.cameras.values()):
            camera.reseed(seed + i)

    def close(self) -> None:
        """End everything; doing it twice does no harm."""
        for camera in self.cameras.values():
            camera.stop()
        if self.served is not None:
            self.served.close()
        self.board.close()
        for renderer in (*self._renderers, self.overview):
            renderer.close()
        self.world.close()
