"""Keywords of the environments' factories as types, for functions that pass them on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from smolvla_gym.safety.collision import Box
from smolvla_gym.sim.own_table import OwnTable


class SimKeywords(TypedDict, total=False):
    """Keywords of :func:`~smolvla_gym.envs.make_sim.make_sim_env`, which documents them, beside ``image_size``."""

    task: str
    cameras: Sequence[str]
    depth: bool
    privileged: bool
    control_hz: float
    max_episode_s: float | None
    gripper: str
    randomization: int
    num_objects: int | None
    table: str | os.PathLike[str] | OwnTable | None
    camera_poses: Mapping[str, Mapping[str, Any]] | None
    edit_scene: Callable[[Any], None] | None
    belt_speed: float
    reward: str
    render_mode: str | None
    render_quality: str


class RealKeywords(SimKeywords, total=False):
    """Keywords of :func:`~smolvla_gym.envs.make_real.make_real_env`, which documents them, beside ``image_size``."""

    port: str | os.PathLike[str] | None
    camera: str | int | Mapping[str, Any] | None
    instruction: str | None
    speed_scale: float
    workspace: Box
    home: bool | None
    camera_options: Mapping[str, Any] | None
    board_options: Mapping[str, Any] | None
    log: str | os.PathLike[str] | None
    realtime: bool
    twin_options: Mapping[str, Any] | None
