"""``smolvla-gym doctor``: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from typing import Any, Final

_MARKS: Final = {"ok": ("OK", "green"), "warning": ("warning", "yellow"), "fail": ("FAIL", "bold red")}


def add_parser(commands: Any) -> None:
    """Adds the command and its arguments."""
    parser = commands.add_parser(
        "doctor",
        help="Look whether this machine has what is needed.",
        description="Looks at Python, the packages, the GPU, OpenGL, video, cameras, serial ports and the disk. "
        "Nothing moves and no device is opened. The exit code is 1 where something fails; what is merely not there is "
        "a warning.",
    )
    parser.add_argument("--policy", metavar="P", help="a checkpoint to look at: bundled, a folder or OWNER/NAME")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else on stdout")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints what was found."""
    from smolvla_gym.doctor.examine import examine
    from smolvla_gym.doctor.finding import Status

    with contextlib.redirect_stdout(sys.stderr):
        findings = examine(arguments.policy)
    failed = any(finding.status is Status.FAIL for finding in findings)
    if arguments.json:
        print(json.dumps({"failed": failed, "findings": [finding.to_dict() for finding in findings]}, indent=2))
        return int(failed)
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "what", "found", box=box.SIMPLE_HEAD, show_edge=False)
    table.columns[1].no_wrap = True
    for finding in findings:
        mark, style = _MARKS[finding.status]
        text = Text(finding.text)
        if finding.remedy:
            text.append(f"\n-> {finding.remedy}", "cyan")
        table.add_row(Text(mark, style), finding.name, text)
    Console(highlight=False).print(table)
    counts = [sum(finding.status is status for finding in findings) for status in Status]
    print("{} ok, {} warnings, {} failed".format(*counts))
    return int(failed)
