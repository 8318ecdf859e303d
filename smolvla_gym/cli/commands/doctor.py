"""``smolvla-gym doctor``: check this machine, and say what to do about what it lacks."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from typing import Final

from smolvla_gym.cli.options.parser import AddParser, Options, command, option
from smolvla_gym.cli.output import print_table
from smolvla_gym.cli.progress import steady_lines

_MARKS: Final = {"ok": ("OK", "green"), "warning": ("warning", "yellow"), "fail": ("FAIL", "bold red")}


@dataclass(kw_only=True)
class DoctorOptions(Options):
    """Options of ``smolvla-gym doctor``."""

    policy: str | None = option("a checkpoint to check: bundled, a folder or OWNER/NAME", None, metavar="P")
    json: bool = option("print JSON and nothing else on stdout", False)


def run(options: DoctorOptions) -> int:
    """Print the findings."""
    from smolvla_gym.doctor.examine import examine
    from smolvla_gym.doctor.finding import Status

    with contextlib.redirect_stdout(sys.stderr), steady_lines(lambda: "checking this machine"):
        findings = examine(options.policy)
    failed = any(finding.status is Status.FAIL for finding in findings)
    if options.json:
        print(json.dumps({"failed": failed, "findings": [finding.to_dict() for finding in findings]}, indent=2))
        return int(failed)
    from rich.text import Text

    rows: list[list[str | Text]] = []
    for finding in findings:
        text = Text(finding.text)
        if finding.remedy:
            text.append(f"\n-> {finding.remedy}", "cyan")
        rows.append([Text(*_MARKS[finding.status]), finding.name, text])
    print_table(["", "what", "found"], rows, ("", "what", "found"))
    counts = [sum(finding.status is status for finding in findings) for status in Status]
    print("{} ok, {} warnings, {} failed".format(*counts))
    return int(failed)


add_parser: AddParser = command(
    "doctor", DoctorOptions, run,
    help="Check that this machine has what is needed.",
    description="Checks Python, the packages, the GPU, OpenGL, video, cameras, serial ports and the disk. Nothing "
    "moves and no device is opened. The exit code is 1 if a check fails; what is merely absent is a warning.",
)  # fmt: skip
