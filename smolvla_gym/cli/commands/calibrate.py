"""``smolvla-gym calibrate``: print a board, and measure lenses, poses of cameras and errors of homing with it."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from smolvla_gym.cli.options.arguments import at_least, positive
from smolvla_gym.cli.options.parser import Options, command, group, option
from smolvla_gym.cli.options.real_arm import CAREFUL_SCALE, RealArmOptions
from smolvla_gym.cli.output import output_folder, say
from smolvla_gym.errors import CalibrationError, NotHomedError

if TYPE_CHECKING:
    from smolvla_gym.calibration.rig import Rig
    from smolvla_gym.parol6.calibration import BoardSpec, Calibration

_CONTROL_HZ: Final = 30.0
_IMAGES: Final = (".png", ".jpg", ".jpeg")

_EXAMPLES: Final = """examples:
  smolvla-gym calibrate board --out board.pdf
  smolvla-gym calibrate hand-eye --measured-mm 251.6 --out calibration
  smolvla-gym calibrate scene --camera wrist=SERIAL --camera scene=SERIAL --measured-mm 251.6 --out calibration
  smolvla-gym calibrate intrinsics photos --camera-name scene --serial SERIAL --measured-mm 251.6
  smolvla-gym calibrate scene --port twin --camera twin --lockstep --yes
"""


@dataclass(kw_only=True)
class BoardOptions(Options):
    """Options of ``smolvla-gym calibrate board``."""

    out: Path = option("the PDF", Path("board.pdf"), metavar="FILE")
    paper: Literal["a4", "letter"] = option("size of the paper", "a4")


@dataclass(kw_only=True)
class MeasureOptions(Options):
    """Options of the commands that measure."""

    measured_mm: float | None = option(
        "measured width of the whole printed pattern in mm (default: asked for; with the twin 252)", None,
        parse=positive, metavar="MM",
    )  # fmt: skip
    file: Path | None = option("the calibration that is updated (default: calibration.json in the folder)", None)
    gripper: str = option("the gripper that is mounted", "ssg48")

    def board(self, virtual: bool) -> BoardSpec:
        """Return the board as it was printed; ask for its width if it was not given.

        Args:
            virtual: Whether the board is that of the twin, which is exact.
        """
        from smolvla_gym.calibration.board import DEFAULT_BOARD, measured_board

        if self.measured_mm is not None:
            return measured_board(DEFAULT_BOARD, self.measured_mm)
        if virtual:
            return DEFAULT_BOARD
        if not sys.stdin.isatty():
            self.expect("measured_mm", "the measured width of the whole printed pattern in mm, such as 251.6")
        try:
            print("width of the whole printed pattern in mm, left to right: ", end="", file=sys.stderr, flush=True)
            return measured_board(DEFAULT_BOARD, float(input()))
        except (ValueError, EOFError):
            self.expect("measured_mm", "a number in mm, such as 251.6")

    def known(self, folder: Path) -> tuple[Path, Calibration | None]:
        """Return the file of the calibration, and its present content; None where there is none yet."""
        from smolvla_gym.parol6.calibration import FILE_NAME, load_calibration

        path = folder / FILE_NAME if self.file is None else self.file
        return path, load_calibration(path) if path.exists() else None


@dataclass(kw_only=True)
class IntrinsicsOptions(MeasureOptions):
    """Options of ``smolvla-gym calibrate intrinsics``."""

    images: Path = option("folder of PNG or JPEG images of the board, or of a session", flag="IMAGES")
    camera_name: Literal["wrist", "scene"] = option("name of the camera", "scene")
    serial: str = option("serial number of the camera", "unknown", metavar="SERIAL")
    out: Path | None = option("folder of the report (default: outputs/calibrate/<time>)", None, metavar="DIR")


@dataclass(kw_only=True)
class PoseOptions(MeasureOptions):
    """Options of ``smolvla-gym calibrate hand-eye`` and ``scene``."""

    out: Path | None = option(
        "folder of the session, which goes on if it was interrupted (default: outputs/calibrate/<time>)", None,
        metavar="DIR",
    )  # fmt: skip
    poses: int = option("number of poses", 15, parse=at_least(6, 96), metavar="N")
    seed: int = option("seed of the poses that are drawn", 0, parse=at_least(0), metavar="N")
    yes: bool = option("drive without asking", False)
    twin_homing_error: float = option("largest error of homing of the twin in deg", 0.3, metavar="DEG")
    twin_joint_noise: float = option("largest error of the twin's gears in deg", 0.1, metavar="DEG")
    real: RealArmOptions = group("real arm", RealArmOptions)


def add_parser(commands: Any) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "calibrate", help="Measure where the cameras are, with a printed board.",
        description="Commands that measure lenses, poses of cameras and errors of homing with a printed board.",
    )  # fmt: skip
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command(
        "board", BoardOptions, run_board, help="Write the board to print as a PDF.",
        description="Writes a ChArUco board of 252 x 180 mm as a PDF. Print it at 100 %, glue it to a flat plate, and "
        "measure the width of the whole pattern.",
    )(actions)  # fmt: skip
    command(
        "intrinsics", IntrinsicsOptions, run_intrinsics, examples=_EXAMPLES,
        help="Measure the lens of a camera from images of the board.",
        description="Finds focal lengths, principal point and distortion from images of the board. Cameras such as a "
        "RealSense report theirs, and do not need this.",
    )(actions)  # fmt: skip
    command(
        "hand-eye", PoseOptions, run_hand_eye, examples=_EXAMPLES,
        help="Measure where the wrist camera is, and what homing missed.",
        description="Drives the arm slowly over a board on the table, and finds the pose of the wrist camera and the "
        "offsets of J2 to J5. Enter stops the arm; the same command goes on.",
    )(actions)  # fmt: skip
    command(
        "scene", PoseOptions, run_scene, examples=_EXAMPLES,
        help="Measure where the fixed camera is, and the wrist camera with it.",
        description="As hand-eye, and finds the pose of a fixed camera that sees the same board.",
    )(actions)  # fmt: skip


def run_board(options: BoardOptions) -> int:
    """Write the sheet to print."""
    from smolvla_gym.calibration.board import DEFAULT_BOARD, write_sheet

    write_sheet(options.out, options.paper)
    width = 1e3 * DEFAULT_BOARD.columns * DEFAULT_BOARD.square_m
    print(f"{options.out}: print it at 100 %; the pattern is {width:g} mm wide if the printer is exact")
    return 0


def run_intrinsics(options: IntrinsicsOptions) -> int:
    """Measure a lens from images."""
    from smolvla_gym.calibration.detection import BoardDetector
    from smolvla_gym.calibration.lens import calibrate_lens
    from smolvla_gym.calibration.procedure import with_lens
    from smolvla_gym.calibration.report import write_lens_report
    from smolvla_gym.calibration.session import SESSION_FILE, read_image
    from smolvla_gym.parol6 import get_gripper

    get_gripper(options.gripper)
    board = options.board(virtual=False)
    detector = BoardDetector(board)
    files = sorted(path for path in options.images.iterdir() if path.suffix.lower() in _IMAGES)
    if (options.images / SESSION_FILE).exists():  # the folder has images of other cameras too
        files = [path for path in files if path.name.startswith(f"{options.camera_name}_")]
    lens = calibrate_lens([read_image(path) for path in files], detector)
    with output_folder(options.out, "calibrate") as folder:
        path, known = options.known(folder)
        calibration = with_lens(known, options.gripper, board, options.camera_name, options.serial, lens.intrinsics)
        calibration.save(path)
        lines = write_lens_report(folder, lens)
    _finish(lines, path, calibration)
    return 0


def run_hand_eye(options: PoseOptions) -> int:
    """Measure the pose of the wrist camera."""
    return _run_poses(options, ("wrist",))


def run_scene(options: PoseOptions) -> int:
    """Measure the poses of the fixed and the wrist camera."""
    return _run_poses(options, ("wrist", "scene"))


def _run_poses(options: PoseOptions, cameras: tuple[str, ...]) -> int:
    from smolvla_gym.calibration.procedure import measure, solve_session, updated_calibration
    from smolvla_gym.calibration.report import write_pose_report
    from smolvla_gym.parol6 import get_gripper

    options.real.check("real")
    get_gripper(options.gripper)
    board = options.board(virtual=options.real.is_twin)
    options.real.find_devices()
    with contextlib.redirect_stdout(sys.stderr), output_folder(options.out, "calibrate") as folder:
        path, known = options.known(folder)
        with _rig(options, cameras) as rig:
            keyboard = _Keyboard(rig, options.yes)
            keyboard.ask("the arm will move: clear its surroundings, and keep the emergency stop at hand")
            session = measure(
                rig, folder, options.gripper, board, count=options.poses, seed=options.seed, known=known, say=say,
                confirm=lambda images: _show_plan(folder, images, keyboard),
            )  # fmt: skip
        say("computing")
        solution, views = solve_session(session)
        calibration = updated_calibration(known, session, solution)
        calibration.save(path)
        lines = write_pose_report(folder, session, solution, views)
    _finish(lines, path, calibration)
    return 0


@contextlib.contextmanager
def _rig(options: PoseOptions, cameras: tuple[str, ...]) -> Iterator[Rig]:
    """Open the arm and its cameras."""
    import numpy as np

    from smolvla_gym.calibration.board import DEFAULT_BOARD
    from smolvla_gym.calibration.rig import Rig
    from smolvla_gym.calibration.virtual import board_plate
    from smolvla_gym.envs import make_real_env
    from smolvla_gym.twin.joint_error import JointError

    arguments = options.real.env_arguments(cameras)
    arguments.pop("cameras", None)
    if options.real.speed_scale is None and not options.real.lockstep:
        arguments["speed_scale"] = CAREFUL_SCALE
    if options.real.is_twin:
        rng = np.random.default_rng(options.seed)
        homing = np.deg2rad(options.twin_homing_error) * rng.uniform(-1.0, 1.0, 6)
        errors = JointError(tuple(homing.tolist()), float(np.deg2rad(options.twin_joint_noise)), options.seed)
        twin = {"homed": True, "noise": 2.0, "plate": board_plate(DEFAULT_BOARD), "joint_error": errors}
        arguments |= {"twin_options": twin, "randomization": 0}
    env = make_real_env(
        cameras=cameras, image_size=(480, 640), control_hz=_CONTROL_HZ, max_episode_s=None, gripper=options.gripper,
        render_quality="high" if options.real.lockstep else "fast", **arguments,
    )  # fmt: skip
    try:
        state = env.backend.link.state()  # type: ignore[attr-defined]
        if not state.homed and not options.real.home and not options.real.is_twin:
            raise NotHomedError(
                "The arm does not know its joint angles: after power-up it has to be homed. It moves by itself for "
                "half a minute then: clear its surroundings, keep the emergency stop at hand, and add --home."
            )
        yield Rig(env, float(arguments["speed_scale"]))
    finally:
        env.close()


class _Keyboard:
    """Enter as an answer to a question, and otherwise as the key that stops the arm.

    Without a terminal there is neither: questions need ``--yes``, and only signals stop the arm.
    """

    def __init__(self, rig: Rig, yes: bool) -> None:
        """Read the terminal from now on.

        Args:
            rig: The arm to stop.
            yes: Whether every question counts as answered.
        """
        self._rig, self._yes = rig, yes
        self._asking, self._answered = threading.Event(), threading.Event()
        if sys.stdin is not None and sys.stdin.isatty():
            threading.Thread(target=self._read, name="stop key", daemon=True).start()
            self._is_open = True
        else:
            self._is_open = False

    def ask(self, question: str) -> None:
        """Wait for Enter.

        Raises:
            CalibrationError: There is no terminal to answer in.
        """
        if self._yes:
            return
        if not self._is_open:
            raise CalibrationError(f"Without a terminal nobody can answer ({question}): add --yes.")
        self._answered.clear()
        self._asking.set()
        say(f"{question}: Enter goes on, Ctrl-C ends the program")
        self._answered.wait()
        say("Enter stops the arm")

    def _read(self) -> None:
        while sys.stdin.readline():
            if self._asking.is_set():
                self._asking.clear()
                self._answered.set()
            else:
                self._rig.stop()


def _show_plan(folder: Path, images: list[Any], keyboard: _Keyboard) -> None:
    """Write the views of the planned poses, and ask before the arm drives there."""
    from smolvla_gym.calibration.capture import sheet
    from smolvla_gym.calibration.session import save_image

    path = folder / "planned.png"
    save_image(path, sheet(images))
    say(f"{path} shows what the wrist camera should see in {len(images)} poses")
    keyboard.ask("look at these views before the arm drives through them")


def _finish(lines: list[str], path: Path, calibration: Calibration) -> None:
    for line in lines:
        print(line)
    print(f"{path}: calibration {calibration.digest}")
