"""Assemble the virtual arm: ``make_real_env`` calls this for ``port="twin"``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from smolvla_gym.drivers.board.client import BoardClient
from smolvla_gym.drivers.board.driver import Board
from smolvla_gym.drivers.board.event_log import EventLog
from smolvla_gym.drivers.board.inline import InlineBoard
from smolvla_gym.drivers.board.process import BoardProcess
from smolvla_gym.drivers.cameras.configs import CameraConfig
from smolvla_gym.drivers.clock import Clock, SystemClock
from smolvla_gym.envs.backends.camera_rig import start_cameras
from smolvla_gym.envs.backends.twin import TwinBackend
from smolvla_gym.envs.env_options import EnvOptions
from smolvla_gym.envs.real_options import RealOptions
from smolvla_gym.safety import SafetyGate
from smolvla_gym.safety.collision import CollisionGuard
from smolvla_gym.twin.lockstep import LockstepClock, LockstepPort
from smolvla_gym.twin.process import TwinProcess
from smolvla_gym.twin.twin import Twin
from smolvla_gym.twin.virtual_realsense import SERIALS


def make_twin_backend(options: EnvOptions, arm: RealOptions) -> TwinBackend:
    """Connect a twin to the drivers of the real arm.

    Args:
        options: Options of the environment.
        arm: Options of the arm.
    """
    lockstep = LockstepClock()
    clock: Clock = SystemClock() if arm.realtime else lockstep
    twin_options = dict(arm.twin_options)
    extras = replace(options.extras, plate=twin_options.pop("plate", None))
    scene = {
        "gripper": options.gripper.name, "kind": options.task.kind, "goal": options.task.has_goal,
        "cameras": options.cameras, "depth": options.depth, "quality": options.quality, "extras": extras,
        **twin_options,
    }  # fmt: skip
    twin = TwinProcess(**scene) if arm.own_process else Twin(**scene, clock=clock)
    with ExitStack() as undo:
        undo.callback(twin.close)
        stage = options.stage(twin.world)
        if arm.realtime:
            twin.start()
        described: dict[str, str | CameraConfig | None] = (
            {name: SERIALS[name] for name in options.cameras} if twin.served is None else {**twin.served.configs}
        )
        cameras = start_cameras(undo, described, options, arm, context_factory=twin.bus.context_factory, clock=clock)
        guard = CollisionGuard(options.gripper.name, arm.workspace, options.obstacles)
        link: BoardClient
        if arm.realtime:
            link = BoardProcess(
                twin.port, arm.settings, period=options.period, speed_scale=arm.speed_scale, workspace=arm.workspace,
                obstacles=options.obstacles, log=arm.log,
            )  # fmt: skip
        else:
            assert isinstance(twin, Twin)  # noqa: S101 - narrows a type
            gate = SafetyGate(options.period, speed_scale=arm.speed_scale, guard=guard)
            link = _connect_inline(twin, gate, arm, lockstep)
        undo.pop_all()
    return TwinBackend(twin, stage, link, cameras, clock, options, arm, guard)


def _connect_inline(twin: Twin, gate: SafetyGate, arm: RealOptions, clock: LockstepClock) -> InlineBoard:
    """Connect the driver in this thread; its ticks and the twin's physics run as the clock advances."""
    board = Board(partial(LockstepPort, twin.board), gate, arm.settings)
    link = InlineBoard(board, arm.settings, clock, EventLog(arm.log) if arm.log is not None else None)

    def run_until(moment: float) -> None:
        link.run_until(moment, clock.set)
        clock.set(moment)
        twin.advance()

    clock.run_until = run_until
    link.connect()
    return link
