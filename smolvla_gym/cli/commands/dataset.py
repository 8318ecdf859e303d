"""``smolvla-gym dataset``: what can be done with a dataset."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.commands.train_dataset import add_arguments

if TYPE_CHECKING:
    from smolvla_gym.data.checks.check import Report

_LINES: Final = 10
"""Findings of one kind that are printed; the JSON has all."""

_EXAMPLES: Final = """examples:
  smolvla-gym dataset check data/lift
  smolvla-gym dataset check data/lift --no-video        in a second: the videos are not decoded
  smolvla-gym dataset check data/lift --json > report.json
"""

_CONVERT_EXAMPLES: Final = """examples:
  smolvla-gym dataset convert demo data/demo                    recorded by lerobot-record on this arm
  smolvla-gym dataset convert theirs data/theirs --units degrees --rename front=wrist --rename base=joint_1
"""


def add_parser(commands: Any) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "dataset", help="Check or convert a dataset.", description="Commands for LeRobot datasets of any robot."
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    check = actions.add_parser(
        "check",
        help="Find what is wrong with a dataset.",
        description="Finds what is wrong with a LeRobot dataset v3 of any robot: missing and truncated files, "
        "contradictory counts, rates and sizes, empty and duplicate sentences, unknown and repeated seeds, time "
        "stamps, NaN, mixed units, actions beyond the limits, jumps, stuck joints, episodes that do nothing, dark and "
        "frozen cameras. Nothing is changed. The exit code is 0 if nothing was found and 1 otherwise.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("root", type=Path, metavar="DIR", help="folder of the dataset")
    check.add_argument("--json", action="store_true", help="print JSON and nothing else on stdout")
    check.add_argument(
        "--no-video", action="store_true", help="decode no video: dark and frozen cameras are not found then"
    )
    check.set_defaults(run=run_check)
    convert = actions.add_parser(
        "convert",
        help="Write a copy in this arm's format.",
        description="Writes a copy of a LeRobot dataset v3 whose states and actions are this arm's joints in rad and "
        "its gripper from 0 to 1. What LeRobot's programs record on this arm (joint_1.pos, degrees) needs no option. "
        "Videos are hard links where the file system can. The dataset itself is not changed.",
        epilog=_CONVERT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument("root", type=Path, metavar="DIR", help="folder of the dataset")
    convert.add_argument("out", type=Path, metavar="OUT", help="the new folder")
    add_arguments(convert)
    convert.set_defaults(run=run_convert)


def run_check(arguments: argparse.Namespace) -> int:
    """Print what is wrong with a dataset."""
    from smolvla_gym.cli.progress import progress_bar
    from smolvla_gym.data.checks.check import check_dataset

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        show: list[Any] = []  # the bar, once it is known how long it is

        def progress(done: int, total: int) -> None:
            if not show:
                show.append(stack.enter_context(progress_bar("frame", total)))
            show[0](done, "decoding")

        report = check_dataset(arguments.root, video=not arguments.no_video, progress=progress)
    if arguments.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        _print(report)
    return int(bool(report.findings))


def run_convert(arguments: argparse.Namespace) -> int:
    """Write a converted copy of a dataset."""
    from smolvla_gym.data.convert import convert_dataset
    from smolvla_gym.data.mapping import parse_renames

    renames = parse_renames(arguments.rename or ())
    with contextlib.redirect_stdout(sys.stderr):
        info = convert_dataset(arguments.root, arguments.out, renames, arguments.units or "auto")
    cameras = ", ".join(info.cameras)
    print(f"{info.total_episodes} episodes, {info.total_frames} frames, cameras {cameras}: {arguments.out}")
    return 0


def _print(report: Report) -> None:
    from smolvla_gym.utils.untrusted import printable

    printed: Counter[str] = Counter()
    for finding in report.findings:
        printed[finding.code] += 1
        if printed[finding.code] > _LINES:
            continue
        where = f" [{printable(finding.where)}]" if finding.where else ""
        print(f"{finding.severity.value}: {finding.code}{where}: {printable(finding.message, 500)}")
        print(f"    -> {finding.advice}")
    for code, count in printed.items():
        if count > _LINES:
            print(f"{code}: {count - _LINES} more; --json prints all")
    counts = Counter(finding.severity.value for finding in report.findings)
    print(f"{report.episodes} episodes, {report.frames} frames: {counts['error']} errors, {counts['warning']} warnings")
