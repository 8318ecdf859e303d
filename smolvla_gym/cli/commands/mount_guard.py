"""``smolvla-gym mount-guard``: keep images of the cameras in their mounts, and compare the cameras with them."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from smolvla_gym.cli.options.environment import EnvironmentOptions, announce_homing, make_env
from smolvla_gym.cli.options.mount_guard import report
from smolvla_gym.cli.options.parser import command, option
from smolvla_gym.cli.output import say
from smolvla_gym.errors import CalibrationError

if TYPE_CHECKING:
    import gymnasium as gym

_KEEP_EXAMPLES: Final = """examples:
  smolvla-gym mount-guard keep --camera wrist=SERIAL --camera scene=SERIAL
  smolvla-gym mount-guard keep --port twin --camera twin --cameras wrist scene
"""

_CHECK_EXAMPLES: Final = """examples:
  smolvla-gym mount-guard check --camera wrist=SERIAL --camera scene=SERIAL
  smolvla-gym mount-guard check --port twin --camera twin --cameras wrist scene --json
"""


@dataclass(kw_only=True)
class StartOptions(EnvironmentOptions):
    """Options of both commands."""

    env: Literal["sim", "real"] = "real"
    cameras: list[str] | None = option("the cameras (default: those of --camera, or wrist)", None, metavar="NAME")
    mount_images: Path | None = option(
        "folder of the images (default: ~/.local/share/smolvla_gym/calibration)", None,
        metavar="DIR",
    )  # fmt: skip


@dataclass(kw_only=True)
class KeepOptions(StartOptions):
    """Options of ``smolvla-gym mount-guard keep``."""

    calibration: Path | None = option(
        "calibration.json; where it has the pose of a camera, the mask is drawn for this pose (default: that in the "
        "folder of the images, if there is one)", None, metavar="FILE",
    )  # fmt: skip


@dataclass(kw_only=True)
class CheckOptions(StartOptions):
    """Options of ``smolvla-gym mount-guard check``."""

    json: bool = option("print the result as JSON on stdout and nothing else there", False)


def add_parser(commands: Any) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "mount-guard", help="Keep images of the cameras, and find out whether one has moved.",
        description="Guard of the camera mounts of a real arm or the twin.",
    )  # fmt: skip
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command(
        "keep", KeepOptions, run_keep, examples=_KEEP_EXAMPLES,
        help="Keep an image of each camera as it is mounted now.",
        description="Drives the arm to the pose in which episodes begin and keeps an image of each camera, with which "
        "rollout, record and the robot for LeRobot compare it at their start. Do this after a calibration.",
    )(actions)  # fmt: skip
    command(
        "check", CheckOptions, run_check, examples=_CHECK_EXAMPLES,
        help="Find out whether a camera has moved.",
        description="Drives the arm to the pose in which episodes begin and compares each camera with the image that "
        "was kept of it. The exit code is 0 if all are in place and 1 otherwise.",
    )(actions)  # fmt: skip


def run_keep(options: KeepOptions) -> int:
    """Keep an image of each camera."""
    from smolvla_gym.calibration.mount_guard import default_folder, keep_references

    with _at_start(options) as env:
        kept = keep_references(env, options.mount_images, options.calibration)
    for reference in kept:
        print(f"{reference.camera}: kept, serial {reference.serial or 'none'}, mark in {reference.mask.mean():.1%}")
    print(f"Images: {options.mount_images or default_folder(twin=options.real.is_twin)}")
    return 0


def run_check(options: CheckOptions) -> int:
    """Compare each camera with the image that was kept of it."""
    from smolvla_gym.calibration.mount_check import Verdict
    from smolvla_gym.calibration.mount_guard import MountGuard, default_folder

    with _at_start(options) as env:
        guard = MountGuard(env, options.mount_images)
        if not guard.references:
            folder = options.mount_images or default_folder(twin=options.real.is_twin)
            raise CalibrationError(f"No image of these cameras is in {folder}: `smolvla-gym mount-guard keep` first.")
        checks = guard.check()
    report(checks)
    if options.json:
        print(json.dumps([asdict(check) for check in checks]))
    return 0 if all(check.verdict is Verdict.IN_PLACE for check in checks) else 1


@contextlib.contextmanager
def _at_start(options: StartOptions) -> Iterator[gym.Env[Any, Any]]:
    """Make the environment and drive the arm to the pose in which episodes begin."""
    options.check_environment(["lift"], None)
    options.find_devices()
    with contextlib.redirect_stdout(sys.stderr), contextlib.closing(make_env(options, "lift")) as env:
        announce_homing(env, options)
        say("driving to the pose in which episodes begin …")
        env.reset(seed=0)
        yield env
