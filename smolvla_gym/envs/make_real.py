"""``PAROL6Real-v0``: what ``gym.make`` calls."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

from smolvla_gym.drivers.board.process import BoardProcess
from smolvla_gym.drivers.board.serial_port import BoardFinder
from smolvla_gym.drivers.cameras.framing import D405_COLOUR, Framing, Intrinsics
from smolvla_gym.drivers.cameras.realsense import RealSenseCamera
from smolvla_gym.drivers.clock import SystemClock
from smolvla_gym.envs.backends.real import CameraRig, RealBackend
from smolvla_gym.envs.backends.scene_view import MirrorView
from smolvla_gym.envs.env_options import EnvOptions
from smolvla_gym.envs.parol6_env import PAROL6Env
from smolvla_gym.envs.real_options import TWIN, RealOptions
from smolvla_gym.envs.time_limit import MAX_EPISODE_S
from smolvla_gym.safety.collision import WORKSPACE, Box, CollisionGuard
from smolvla_gym.sim.rendering import QUALITIES
from smolvla_gym.sim.scene import DEPTH_RANGES, SCENE_FOVY
from smolvla_gym.sim.world import World

__all__ = ["REFERENCES", "TWIN", "make_real_env"]

REFERENCES: Final = {"wrist": D405_COLOUR, "scene": Intrinsics.from_fovy(SCENE_FOVY, 640, 480)}
"""The views of the simulation's cameras, which are cut out of the pictures of the real ones."""


def make_real_env(
    *,
    port: str | os.PathLike[str] | None = None,
    camera: str | int | Mapping[str, str | int] | None = None,
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
    num_objects: int = 2,
    reward: str = "dense",
    realtime: bool = True,
    twin_options: Mapping[str, Any] | None = None,
    render_mode: str | None = None,
    render_quality: str = "fast",
) -> PAROL6Env:
    """Makes the environment of the real arm, or of its virtual twin.

    Args:
        port: Serial port of the arm, such as ``"/dev/ttyACM0"``, ``"COM5"`` or ``"socket://127.0.0.1:5000"``;
            ``"twin"`` for the virtual arm; None looks for the board on USB, and for the same board again in
            ``clear_fault()`` after the port was lost.
        camera: Serial number of the RealSense on the wrist, a text or a number, or of each camera by name; ``"twin"``
            for virtual ones; None takes the only one there is.
        task: As in the simulation. The real arm takes its instruction from it; nobody judges success there.
        instruction: What to do on the real arm; None: the task's first sentence. ``reset(options={"instruction":
            ...})`` replaces it for an episode, also on the twin.
        cameras: Names of the observed cameras: ``"wrist"``, ``"scene"``, both or none.
        image_size: Height and width of the pictures in px.
        depth: Whether ``observation["depth"]`` is there.
        privileged: Whether ``observation["privileged"]`` is there, as in the simulation; only with ``port="twin"``.
        control_hz: Control rate in Hz, 5 to 100.
        max_episode_s: Time limit of an episode in s, as in the simulation.
        gripper: ``"ssg48"`` or ``"pneumatic"``.
        speed_scale: Share of the speed limits that may be used, 0.01 to 1.
        workspace: Lowest and highest corner in m of the box that the tool centre point stays in.
        home: Whether ``reset`` homes an arm that does not know its joint angles; None: only the twin.
        camera_options: Of ``RealSenseCamera``, such as ``{"exposure": 10000, "gain": 32, "white_balance": 4600}``.
        board_options: Of ``BoardSettings``, such as ``{"disable_after": 10.0}``.
        log: File that keeps what the safety functions did; ``"auto"`` is ``~/.local/state/smolvla_gym/parol6.jsonl``,
            None is none.
        randomization: Of the twin's scene, as in the simulation.
        num_objects: Of the twin's scene, as in the simulation.
        reward: Of the twin's scene, as in the simulation.
        realtime: False runs a twin in lockstep, as fast as it can and repeatably.
        twin_options: Of ``Twin``, such as ``{"homed": True, "noise": 0.0}``; ``"own_process"``: False keeps a twin in
            real time in this process, where one can look into it and where it makes steps late.
        render_mode: None, ``"rgb_array"`` or ``"human"``.
        render_quality: Rendering quality of what the twin's cameras see.

    Raises:
        UnknownNameError: No task, camera or gripper has this name.
        OptionError: Another option has a value that is not allowed.
        DeviceError: The arm or a camera cannot be found or does not answer.
        MissingExtraError: The packages of the extra ``real`` are not installed.
    """
    given = dict(locals())
    options = EnvOptions.check(given)
    arm = RealOptions.check(given, options)
    backend: RealBackend
    if arm.is_twin:
        # Pseudo-terminals are for Linux and macOS; a real arm on Windows needs none.
        from smolvla_gym.envs.backends.twin import make_twin_backend

        backend = make_twin_backend(
            options, arm.settings, {name: REFERENCES[name] for name in options.cameras}, speed_scale=arm.speed_scale,
            workspace=arm.workspace, home=arm.home is not False, log=arm.log, realtime=arm.realtime,
            own_process=arm.own_process, camera_options=arm.camera_options, twin_options=arm.twin_options,
        )  # fmt: skip
    else:
        backend = _make_real_backend(arm, options)
    return PAROL6Env(backend, options, (make_real_env, given))


def _make_real_backend(arm: RealOptions, options: EnvOptions) -> RealBackend:
    finder = BoardFinder() if arm.port is None else None
    url = finder.find() if finder is not None else arm.port
    assert url is not None  # noqa: S101 - narrows a type
    with ExitStack() as undo:
        view = MirrorView(_empty_world(options))
        undo.callback(view.close)
        eyes = {}
        for name, serial in arm.serials.items():
            seeing = RealSenseCamera(serial, depth=options.depth, **arm.camera_options)
            seeing.start()
            undo.callback(seeing.close)
            framing = Framing(seeing.intrinsics, REFERENCES[name], options.image_size, DEPTH_RANGES[name])
            eyes[name] = CameraRig(seeing, framing)
        period = 1.0 / options.control_hz
        link = BoardProcess(
            url, arm.settings, period=period, speed_scale=arm.speed_scale, workspace=arm.workspace, log=arm.log,
            find_port=None if finder is None else finder.find,
        )  # fmt: skip
        undo.pop_all()
    instruction = arm.instruction or options.task.phrasings[0].format(color="red", base="blue")
    return RealBackend(
        link, eyes, SystemClock(), gripper=options.gripper, depth=options.depth, instruction=instruction,
        home=bool(arm.home), period=period, view=view, guard=CollisionGuard(options.gripper.name, arm.workspace),
        speed_scale=arm.speed_scale,
    )  # fmt: skip


def _empty_world(options: EnvOptions) -> World:
    return World(
        options.gripper, options.task.kind, goal=False, control_hz=30.0, cameras=(), image_size=(480, 640), depth=False,
        quality=QUALITIES["fast"],
    )  # fmt: skip
