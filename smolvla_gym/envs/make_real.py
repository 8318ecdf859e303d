"""Factory of ``PAROL6Real-v0``: the real arm, or its virtual twin."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from smolvla_gym.drivers.board.client import BoardClient
from smolvla_gym.drivers.board.process import BoardProcess
from smolvla_gym.drivers.board.serial_port import BoardFinder
from smolvla_gym.drivers.clock import SystemClock
from smolvla_gym.envs.backends.camera_rig import REFERENCES, start_cameras
from smolvla_gym.envs.backends.real import RealBackend
from smolvla_gym.envs.env_options import BELT_SPEED, EnvOptions
from smolvla_gym.envs.parol6_env import PAROL6Env
from smolvla_gym.envs.real_options import TWIN, RealOptions, named_configs
from smolvla_gym.envs.time_limit import MAX_EPISODE_S
from smolvla_gym.safety.collision import WORKSPACE, Box, CollisionGuard
from smolvla_gym.sim.own_table import OwnTable
from smolvla_gym.sim.rendering import QUALITIES
from smolvla_gym.sim.world import World
from smolvla_gym.twin.snapshot_renderer import OVERVIEW_SIZE, SnapshotRenderer

__all__ = ["REFERENCES", "TWIN", "make_real_env"]


def make_real_env(
    *,
    port: str | os.PathLike[str] | None = None,
    camera: str | int | Mapping[str, Any] | None = None,
    task: str = "lift",
    instruction: str | None = None,
    cameras: Sequence[str] = ("wrist",),
    image_size: Sequence[int] = (256, 256),
    depth: bool = False,
    privileged: bool = False,
    control_hz: float = 30.0,
    max_episode_s: float | None = MAX_EPISODE_S,
    gripper: str = "ssg48",
    speed_scale: float = 1.0,
    workspace: Box = WORKSPACE,
    home: bool | None = None,
    camera_options: Mapping[str, Any] | None = None,
    board_options: Mapping[str, Any] | None = None,
    log: str | os.PathLike[str] | None = "auto",
    randomization: int = 1,
    num_objects: int | None = None,
    table: str | os.PathLike[str] | OwnTable | None = None,
    camera_poses: Mapping[str, Mapping[str, Any]] | None = None,
    edit_scene: Callable[[Any], None] | None = None,
    belt_speed: float = BELT_SPEED,
    reward: str = "dense",
    realtime: bool = True,
    twin_options: Mapping[str, Any] | None = None,
    render_mode: str | None = None,
    render_quality: str = "fast",
) -> PAROL6Env:
    """Make the environment of the real arm, or of its virtual twin.

    Args:
        port: Serial port of the arm, such as ``"/dev/ttyACM0"``, ``"COM5"`` or ``"socket://127.0.0.1:5000"``;
            ``"twin"`` for the virtual arm; None finds the board on USB, and finds the same board again in
            ``clear_fault()`` after the port was lost.
        camera: Serial number of the RealSense on the wrist, a text or a number, or a mapping of camera names to serial
            numbers; ``"twin"`` for virtual ones; None takes the only one that is connected. In place of a serial
            number may stand a camera's configuration: a dictionary in LeRobot's form, such as ``{"type": "opencv",
            "index_or_path": 0}``, an object of LeRobot's ``CameraConfig``, or a URL. Such a camera may have any name.
        task: Name of the task, as in the simulation. On a real table it only provides the default instruction.
        instruction: Instruction for the real arm; None takes the task's first one. ``reset(options={"instruction":
            ...})`` replaces it for an episode, also on the twin.
        cameras: Names of the observed cameras: ``"wrist"``, ``"scene"``, both or none, and names in ``camera``.
        image_size: Height and width of the images in px.
        depth: Whether observations have ``"depth"``.
        privileged: Whether observations have ``"privileged"``, as in the simulation; only with ``port="twin"``.
        control_hz: Control rate in Hz, 5 to 100.
        max_episode_s: Time limit of an episode in s, as in the simulation.
        gripper: ``"ssg48"`` or ``"pneumatic"``.
        speed_scale: Share of the speed limits that may be used, 0.01 to 1.
        workspace: Lowest and highest corner in m of the box that the tool centre point stays in.
        home: Whether ``reset`` homes an arm that does not know its joint angles; None homes only the twin.
        camera_options: Fields of ``CameraSettings`` of the cameras that are given by a serial number, such as
            ``{"exposure": 10000, "gain": 32, "white_balance": 4600}``.
        board_options: Fields of ``BoardSettings``, such as ``{"disable_after": 10.0}``.
        log: File of the event log, which has interventions, shaping and changes of the mode; ``"auto"`` is
            ``~/.local/state/smolvla_gym/parol6.jsonl``, None writes none.
        randomization: Domain randomization of the twin's scene, as in the simulation.
        num_objects: Number of objects in the twin's scene, as in the simulation.
        table: A table of one's own, as in the simulation: the safety gate keeps the arm out of its obstacles, also on
            the real arm, and the default instruction names its first object.
        camera_poses: Poses of the twin's cameras, as in the simulation.
        edit_scene: Function that changes the twin's scene, as in the simulation.
        belt_speed: Speed of the belt in the twin's scene, as in the simulation.
        reward: Reward in the twin's scene, as in the simulation.
        realtime: False runs a twin in lockstep: as fast as the computer can, and repeatably.
        twin_options: Options of ``Twin``, such as ``{"homed": True, "noise": 0.0}``; with ``"own_process"`` False a
            twin in real time runs in this process, where tests can inspect it and where it makes steps late. With
            ``"transport": "mjpeg"`` its cameras are network cameras on the loopback, not RealSense cameras.
        render_mode: None, ``"rgb_array"`` or ``"human"``.
        render_quality: Rendering quality of the images of the twin's cameras.

    Raises:
        UnknownNameError: No task, camera or gripper has this name.
        OptionError: Another option has a value that is not allowed.
        DeviceError: The arm or a camera cannot be found or does not answer.
        MissingExtraError: The packages of the extra ``real`` are not installed.
    """
    given = dict(locals())
    options = EnvOptions.check(given, () if port == TWIN else named_configs(camera))
    arm = RealOptions.check(given, options)
    if arm.is_twin:
        # The twin needs pseudo-terminals (Linux and macOS); a real arm on Windows does not.
        from smolvla_gym.envs.make_twin import make_twin_backend

        return PAROL6Env(make_twin_backend(options, arm), options, (make_real_env, given))
    return PAROL6Env(_make_real_backend(options, arm), options, (make_real_env, given))


def _make_real_backend(options: EnvOptions, arm: RealOptions) -> RealBackend:
    finder = BoardFinder() if arm.port is None else None
    url = finder.find() if finder is not None else arm.port
    assert url is not None  # noqa: S101 - narrows a type
    with ExitStack() as undo:
        cameras = start_cameras(undo, arm.cameras, options, arm)
        link = BoardProcess(
            url, arm.settings, period=options.period, speed_scale=arm.speed_scale, workspace=arm.workspace,
            obstacles=options.obstacles, log=arm.log, find_port=None if finder is None else finder.find,
        )  # fmt: skip
        undo.callback(link.close)
        guard = CollisionGuard(options.gripper.name, arm.workspace, options.obstacles)
        backend = RealBackend(link, cameras, SystemClock(), _mirror(options, link), options, arm, guard)
        undo.pop_all()
    return backend


def _mirror(options: EnvOptions, link: BoardClient) -> SnapshotRenderer:
    """Return a view of the arm in its measured pose on an empty table, as no camera records the real one."""
    world = World(
        options.gripper, options.task.kind, goal=False, control_hz=30.0, cameras=(), image_size=OVERVIEW_SIZE,
        depth=False, quality=QUALITIES["fast"],
    )  # fmt: skip

    def follow() -> None:
        state = link.state()
        world.reset(state.joints, state.opening)
        world.settle()

    return SnapshotRenderer(world, threading.RLock(), quality=QUALITIES["fast"], update=follow)
