"""``PAROL6Real-v0``: what ``gym.make`` calls."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from smolvla_gym.envs.options import EnvOptions, check_keys, check_switch
from smolvla_gym.envs.parol6_env import PAROL6Env
from smolvla_gym.envs.real_backend import Eyes, RealBackend
from smolvla_gym.envs.scene_view import MirrorView
from smolvla_gym.errors import OptionError
from smolvla_gym.hardware.board_state import BoardSettings
from smolvla_gym.hardware.clock import SystemClock
from smolvla_gym.hardware.event_log import default_log_path
from smolvla_gym.hardware.framing import D405_COLOUR, Framing, Intrinsics
from smolvla_gym.hardware.link import BoardProcess
from smolvla_gym.hardware.port import find_port
from smolvla_gym.hardware.realsense import RealSenseCamera
from smolvla_gym.safety.collision import WORKSPACE, Box, CollisionGuard, check_workspace
from smolvla_gym.sim.rendering import QUALITIES
from smolvla_gym.sim.scene import DEPTH_RANGES, SCENE_FOVY
from smolvla_gym.sim.world import World
from smolvla_gym.twin.faults import Faults

TWIN: Final = "twin"

_BOARD_OPTIONS: Final = tuple(field.name for field in fields(BoardSettings) if field.name != "gripper")
_CAMERA_OPTIONS: Final = ("resolution", "fps", "exposure", "gain", "white_balance")
_TWIN_OPTIONS: Final = ("homed", "noise", "faults", "own_process")

REFERENCES: Final = {"wrist": D405_COLOUR, "scene": Intrinsics.from_fovy(SCENE_FOVY, 640, 480)}
"""The views of the simulation's cameras, which are cut out of the pictures of the real ones."""


def make_real_env(
    *,
    port: str | None = None,
    camera: str | Mapping[str, str] | None = None,
    task: str = "lift",
    instruction: str | None = None,
    cameras: Sequence[str] = ("wrist",),
    image_size: Sequence[int] = (256, 256),
    depth: bool = False,
    control_hz: float = 30.0,
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
            ``"twin"`` for the virtual arm; None looks for the board on USB.
        camera: Serial number of the RealSense on the wrist, or of each camera by name; ``"twin"`` for virtual ones;
            None takes the only one there is.
        task: As in the simulation. The real arm takes its instruction from it; nobody judges success there.
        instruction: What to do on the real arm; None: the task's first sentence. ``reset(options={"instruction":
            ...})`` replaces it for an episode.
        cameras: Names of the observed cameras: ``"wrist"``, ``"scene"``, both or none.
        image_size: Height and width of the pictures in px.
        depth: Whether ``observation["depth"]`` is there.
        control_hz: Steps a second, 5 to 100.
        gripper: ``"ssg48"`` or ``"pneumatic"``.
        speed_scale: Share of the speed limits that may be used, above 0 and up to 1.
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
    check_switch("realtime", realtime)
    if home is not None and not isinstance(home, bool):
        raise OptionError("home", home, "True, False or None")
    if instruction is not None and (not isinstance(instruction, str) or not instruction.strip()):
        raise OptionError("instruction", instruction, "a sentence or None")
    if log is not None and not isinstance(log, str | os.PathLike):
        raise OptionError("log", log, "the name of a file, 'auto' or None")
    if isinstance(speed_scale, bool) or not isinstance(speed_scale, int | float) or not 0.0 < speed_scale <= 1.0:
        raise OptionError("speed_scale", speed_scale, "a number above 0 and up to 1")
    workspace = check_workspace(workspace)
    # The twin shares the computer with whatever the caller computes, so its answers may be late.
    patience = {"feedback_timeout": 0.5} if port == TWIN and realtime else {}
    board = patience | check_keys("board_options", board_options, _BOARD_OPTIONS)
    settings = BoardSettings(gripper=gripper, **board)
    seeing = check_keys("camera_options", camera_options, _CAMERA_OPTIONS)
    virtual = check_keys("twin_options", twin_options, _TWIN_OPTIONS)
    own_process = virtual.pop("own_process", realtime)
    check_switch('twin_options["own_process"]', own_process)
    if not isinstance(virtual.get("faults", Faults()), Faults):
        raise OptionError('twin_options["faults"]', virtual["faults"], "a smolvla_gym.twin.faults.Faults")
    noise = virtual.get("noise", 0.0)
    if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0.0 <= noise < math.inf:
        raise OptionError('twin_options["noise"]', noise, "grey levels, 0 or more")
    if own_process and not realtime:
        raise OptionError('twin_options["own_process"]', True, "False in lockstep, where nothing runs beside the steps")
    log_path = None if log is None else default_log_path() if log == "auto" else Path(log)

    backend: RealBackend
    if port == TWIN:
        if camera not in (None, TWIN):
            raise OptionError("camera", camera, "'twin' where the port is: a real camera does not see the virtual arm")
        # Pseudo-terminals are for Linux and macOS; a real arm on Windows needs none.
        from smolvla_gym.envs.twin_backend import make_twin_backend

        backend = make_twin_backend(
            options, settings, {name: REFERENCES[name] for name in options.cameras}, speed_scale=speed_scale,
            workspace=workspace, home=home is not False, log=log_path, realtime=realtime, own_process=own_process,
            camera_options=seeing, twin_options=virtual,
        )  # fmt: skip
    else:
        if camera == TWIN:
            raise OptionError("camera", camera, "'twin' only with port='twin': the virtual camera sees the virtual arm")
        if not realtime:
            raise OptionError("realtime", realtime, "True: only port='twin' runs in lockstep")
        backend = _make_real_backend(
            port, _serials(camera, options.cameras), options, settings,
            instruction=instruction or options.task.phrasings[0].format(color="red", base="blue"),
            speed_scale=speed_scale, workspace=workspace, home=bool(home), log=log_path, camera_options=seeing,
            view=MirrorView(_empty_world(options)),
        )  # fmt: skip
    return PAROL6Env(backend, options, (make_real_env, given))


def _make_real_backend(
    port: str | None,
    serials: Mapping[str, str | None],
    options: EnvOptions,
    settings: BoardSettings,
    *,
    instruction: str,
    speed_scale: float,
    workspace: Box,
    home: bool,
    log: Path | None,
    camera_options: dict[str, Any],
    view: MirrorView,
) -> RealBackend:
    url = find_port() if port is None else port
    with ExitStack() as undo:
        undo.callback(view.close)
        eyes = {}
        for name, serial in serials.items():
            seeing = RealSenseCamera(serial, depth=options.depth, **camera_options)
            seeing.start()
            undo.callback(seeing.close)
            framing = Framing(seeing.intrinsics, REFERENCES[name], options.image_size, DEPTH_RANGES[name])
            eyes[name] = Eyes(seeing, framing)
        period = 1.0 / options.control_hz
        link = BoardProcess(url, settings, period=period, speed_scale=speed_scale, workspace=workspace, log=log)
        undo.pop_all()
    return RealBackend(
        link, eyes, SystemClock(), gripper=options.gripper, depth=options.depth, instruction=instruction, home=home,
        period=period, view=view, guard=CollisionGuard(options.gripper.name, workspace), speed_scale=speed_scale,
    )  # fmt: skip


def _serials(camera: str | Mapping[str, str] | None, names: tuple[str, ...]) -> dict[str, str | None]:
    """Returns the serial number of each camera by name, None for the only one there is."""
    if isinstance(camera, Mapping):
        if set(camera) != set(names):
            raise OptionError("camera", dict(camera), f"a serial number for each of cameras={names!r}")
        return dict(camera)
    if len(names) > 1:
        raise OptionError("camera", camera, f"a serial number for each of cameras={names!r}: {{'wrist': ...}}")
    return dict.fromkeys(names, camera)


def _empty_world(options: EnvOptions) -> World:
    return World(
        options.gripper, options.task.kind, goal=False, control_hz=30.0, cameras=(), image_size=(480, 640), depth=False,
        quality=QUALITIES["fast"],
    )  # fmt: skip
