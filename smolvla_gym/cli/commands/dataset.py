"""``smolvla-gym dataset``: check and convert datasets."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.options.dataset import ConversionOptions
from smolvla_gym.cli.options.parser import Options, command, option
from smolvla_gym.cli.progress import progress_bar, steady_lines
from smolvla_gym.errors import DatasetError

if TYPE_CHECKING:
    from smolvla_gym.data.checks.check import Report

_LINES: Final = 10
"""Findings of one kind that are printed; the JSON has all."""

_EXAMPLES: Final = """examples:
  smolvla-gym dataset check data/lift
  smolvla-gym dataset check data/lift --no-video        fast: no video is decoded
  smolvla-gym dataset check data/lift --json > report.json
"""

_CONVERT_EXAMPLES: Final = """examples:
  smolvla-gym dataset convert demo data/demo                    recorded by lerobot-record on this arm
  smolvla-gym dataset convert other data/other --units degrees --rename front=wrist --rename base=joint_1
"""


@dataclass(kw_only=True)
class CheckOptions(Options):
    """Options of ``smolvla-gym dataset check``."""

    root: Path = option("folder of the dataset", flag="DIR")
    json: bool = option("print JSON and nothing else on stdout", False)
    video: bool = option("decode no video: dark and frozen cameras are not found then", True, flag="--no-video")


@dataclass(kw_only=True)
class ConvertOptions(ConversionOptions):
    """Options of ``smolvla-gym dataset convert``."""

    root: Path = option("folder of the dataset", flag="DIR")
    out: Path = option("the new folder", flag="OUT")


def add_parser(commands: Any) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "dataset", help="Check or convert a dataset.", description="Commands for LeRobot datasets of any robot."
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command(
        "check", CheckOptions, run_check, examples=_EXAMPLES,
        help="Find what is wrong with a dataset.",
        description="Finds what is wrong with a LeRobot dataset v3 of any robot: missing and truncated files, "
        "contradictory counts, rates and sizes, empty and duplicate sentences, unknown and repeated seeds, time "
        "stamps, NaN, mixed units, actions beyond the limits, jumps, stuck joints, episodes that do nothing, dark and "
        "frozen cameras. Nothing is changed. The exit code is 0 if nothing was found and 1 otherwise.",
    )(actions)  # fmt: skip
    command(
        "convert", ConvertOptions, run_convert, examples=_CONVERT_EXAMPLES,
        help="Write a copy in this arm's format.",
        description="Writes a copy of a LeRobot dataset v3 whose states and actions are this arm's joints in rad and "
        "its gripper from 0 to 1. What LeRobot's programs record on this arm (joint_1.pos, degrees) needs no option. "
        "Videos are hard links where the file system can. The dataset itself is not changed.",
    )(actions)  # fmt: skip


def run_check(options: CheckOptions) -> int:
    """Print what is wrong with a dataset."""
    from smolvla_gym.data.checks.check import check_dataset

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        show: list[Any] = []  # the bar, once its length is known

        def progress(done: int, total: int) -> None:
            if not show:
                show.append(stack.enter_context(progress_bar("frame", total)))
            show[0](done, "decoding")

        report = _complete(check_dataset(options.root, video=options.video, progress=progress))
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        _print(report)
    return int(bool(report.findings))


def _complete(report: Report) -> Report:
    """Return a report with advice for a folder without a dataset, and with the links that a writer refuses."""
    from smolvla_gym.data.checks.finding import finding
    from smolvla_gym.data.folder import check_plain

    findings = list(report.findings)
    if not (report.root / "meta" / "info.json").exists():
        advice = "give the folder that contains meta/info.json; `smolvla-gym record --root DIR` records a dataset"
        findings = [replace(found, advice=advice) for found in findings]
    else:
        try:
            check_plain(report.root)
        except (DatasetError, OSError) as problem:
            findings.append(finding("no_plain_files", str(problem)))
    return replace(report, findings=tuple(findings))


def run_convert(options: ConvertOptions) -> int:
    """Write a converted copy of a dataset."""
    from smolvla_gym.data.convert import convert_dataset
    from smolvla_gym.data.mapping import parse_renames

    renames = parse_renames(options.rename or ())
    with contextlib.redirect_stdout(sys.stderr), steady_lines(lambda: f"converting {options.root}"):
        info = convert_dataset(options.root, options.out, renames, options.units or "auto")
    cameras = ", ".join(info.cameras)
    print(f"{info.total_episodes} episodes, {info.total_frames} frames, cameras {cameras}: {options.out}")
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
