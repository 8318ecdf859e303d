"""Episodes in Rerun: cameras, joints, targets, planned actions, interventions, shaping, latencies, the arm in 3D."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, Final

import gymnasium as gym
import numpy as np

from smolvla_gym.episodes.callback import Callback, Step
from smolvla_gym.episodes.record import EpisodeRecord
from smolvla_gym.errors import RecordingError, needs_extra
from smolvla_gym.integrations.rerun.viewer import open_viewer
from smolvla_gym.integrations.scene_pose import ScenePose
from smolvla_gym.parol6 import ACTION_NAMES, NUM_JOINTS
from smolvla_gym.sim.shapes import Shape

VIEWER: Final = "viewer"
"""Target in place of a file: a viewer that is started, or runs already."""

_APPLICATION: Final = "smolvla_gym"
_JPEG_QUALITY: Final = 85
_NOTHING: Final = np.zeros((0, 3))

_COLORS: Final = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75), (90, 90, 90)
)  # fmt: skip
"""Colors of the joints and the gripper, the same for measured states and commands."""


class RerunLog(Callback):
    """Every episode is a recording of its own in the viewer, or a file of its own."""

    def __init__(self, target: str | Path) -> None:
        """Check that Rerun is installed and that the file can be written.

        Args:
            target: ``"viewer"``, or the file of the first episode, ending in ``.rrd``; those after it get a number.

        Raises:
            MissingExtraError: Rerun is not installed.
            RecordingError: The file cannot be written.
        """
        with needs_extra("Rerun", "rerun"):
            import rerun as rr
        self._rr: ModuleType = rr
        self._file = None if target == VIEWER else Path(target)
        if self._file is not None:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._file.touch()
            except OSError as error:
                raise RecordingError(f"{self._file} cannot be written: {error.strerror or error}.") from error
        self._count = 0
        self._stream: Any = None
        self.scene_pose: ScenePose | None = None

    def begin(self, env: gym.Env[Any, Any], record: EpisodeRecord) -> None:
        """Open a recording and draw the scene."""
        rr = self._rr
        self._finish()
        self._stream = rr.RecordingStream(_APPLICATION)
        if self._file is None:
            self._stream.connect_grpc(open_viewer(), default_blueprint=self._blueprint(env))
        else:
            name = self._file if self._count == 0 else self._file.with_stem(f"{self._file.stem}_{self._count:03d}")
            self._stream.save(str(name), default_blueprint=self._blueprint(env))
        self._count += 1
        if self.scene_pose is None or not self.scene_pose.shows(env):
            self.scene_pose = ScenePose(env)
        self._log("instruction", rr.TextDocument(f"{record.instruction}  (seed {record.seed})"), static=True)
        self._log("scene", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        for shape in self.scene_pose.shapes:
            self._draw(shape)
        for kind in ("state", "target"):
            style = rr.SeriesLines(names=list(ACTION_NAMES), colors=list(_COLORS))
            self._log(f"{kind}/joints", style, static=True)

    def step(self, record: EpisodeRecord, step: Step) -> None:
        """Log a step."""
        rr, scene_pose = self._rr, self.scene_pose
        assert scene_pose is not None  # noqa: S101 - narrows a type
        self._stream.set_time("episode", duration=step.time)
        state = np.asarray(step.observation["agent_pos"], np.float64)
        for name, pixels in step.observation.get("pixels", {}).items():
            self._log(f"cameras/{name}", rr.Image(pixels).compress(jpeg_quality=_JPEG_QUALITY))
        for name, depth in step.observation.get("depth", {}).items():
            self._log(f"depth/{name}", rr.DepthImage(depth[..., 0], meter=10_000.0))
        self._joints("state", state)
        if step.action is not None:
            self._joints("target", np.asarray(step.action, np.float64))
        self._log("latency/frame_age_ms", rr.Scalars(1e3 * float(step.info.get("frame_age_s", 0.0))))
        self._log("latency/state_age_ms", rr.Scalars(1e3 * float(step.info.get("state_age_s", 0.0))))
        self._log("latency/planned_actions", rr.Scalars(float(len(step.plan))))
        for phase, seconds in (step.info.get("timing") or {}).items():
            self._log(f"latency/{phase}_ms", rr.Scalars(1e3 * float(seconds)))
        for intervention in step.info.get("safety", ()):
            level = "ERROR" if intervention["rule"] == "fault" else "WARN"
            text = f"{intervention['rule']} {intervention['where']}: {intervention['why']}"
            self._log("safety", rr.TextLog(text, level=level))
        for limit, count in step.info.get("shaping", {}).items():
            self._log(f"shaping/{limit}", rr.Scalars(float(count)))
        for body, (position, rotation) in scene_pose.poses(state).items():
            self._log(f"scene/{body}", rr.Transform3D(translation=position, mat3x3=rotation))
        path = scene_pose.tool_path(step.plan)
        strips = [path] if len(path) > 1 else []
        self._log("scene/plan", rr.LineStrips3D(strips, colors=[[255, 160, 0]], radii=0.0015))
        self._log("scene/plan/points", rr.Points3D(path if len(path) else _NOTHING, colors=[255, 160, 0], radii=0.002))

    def end(self, record: EpisodeRecord) -> None:
        """Log how the episode ended."""
        outcome = "success" if record.success else record.failure or "no success"
        text = "interrupted" if record.end == "interrupted" else outcome
        self._log("safety", self._rr.TextLog(text, level="INFO" if record.success else "WARN"))
        self._stream.flush()

    def close(self) -> None:
        """Finish the recording."""
        self._finish()

    def _finish(self) -> None:
        if self._stream is not None:
            self._stream.flush()
            self._stream.disconnect()
            self._stream = None

    def _log(self, path: str, what: Any, *, static: bool = False) -> None:
        self._stream.log(path, what, static=static)

    def _joints(self, kind: str, values: Any) -> None:
        # Degrees are easier to read; the gripper goes along as 0 to 100.
        shown = np.append(np.rad2deg(values[:NUM_JOINTS]), 100.0 * values[NUM_JOINTS])
        self._log(f"{kind}/joints", self._rr.Scalars(shown))

    def _draw(self, shape: Shape) -> None:
        rr = self._rr
        path, size, color = f"scene/{shape.name}", shape.size, (255 * shape.color).astype(np.uint8)
        self._log(path, rr.Transform3D(translation=shape.position, mat3x3=shape.rotation), static=True)
        what: Any
        if shape.kind == "mesh":
            what = rr.Mesh3D(vertex_positions=shape.vertices, triangle_indices=shape.faces, albedo_factor=color)
        elif shape.kind == "box":
            what = rr.Boxes3D(half_sizes=[size], colors=[color], fill_mode="solid")
        elif shape.kind == "cylinder":
            what = rr.Cylinders3D(radii=[size[0]], lengths=[2 * size[1]], colors=[color], fill_mode="solid")
        elif shape.kind == "capsule":
            down = [[0, 0, -size[1]]]
            what = rr.Capsules3D(radii=[size[0]], lengths=[2 * size[1]], translations=down, colors=[color])
        else:
            axes = [size[0]] * 3 if shape.kind == "sphere" else size
            what = rr.Ellipsoids3D(half_sizes=[axes], colors=[color], fill_mode="solid")
        self._log(path, what, static=True)

    def _blueprint(self, env: gym.Env[Any, Any]) -> Any:
        """Return the layout of the views."""
        from rerun import blueprint as rrb

        space: Any = env.observation_space
        cameras = [rrb.Spatial2DView(origin=f"cameras/{name}", name=name) for name in space.spaces.get("pixels", {})]
        return rrb.Blueprint(
            rrb.Horizontal(
                rrb.Vertical(
                    rrb.Spatial3DView(origin="scene", name="arm"),
                    rrb.Horizontal(*cameras, rrb.TextDocumentView(origin="instruction", name="instruction")),
                ),
                rrb.Vertical(
                    rrb.TimeSeriesView(origin="/", contents=["state/**"], name="joints, deg"),
                    rrb.TimeSeriesView(origin="/", contents=["target/**"], name="targets, deg"),
                    rrb.TimeSeriesView(origin="latency", name="latency"),
                    rrb.TimeSeriesView(origin="shaping", name="joints that a limit slows down"),
                    rrb.TextLogView(origin="safety", name="safety"),
                ),
            )
        )
