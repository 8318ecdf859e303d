"""``smolvla-gym bench``: how fast policies are here, what memory they take, and whether what they give is sound."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.options.agent import DTYPES, SCRIPTED, check_policy
from smolvla_gym.cli.options.arguments import at_least, positive
from smolvla_gym.cli.progress import steady_lines
from smolvla_gym.errors import OptionError, SmolVLAGymError
from smolvla_gym.utils.file_lock import lock_file

if TYPE_CHECKING:
    from smolvla_gym.benchmark.acceptance import Check, Targets
    from smolvla_gym.benchmark.benchmark import BenchmarkOptions
    from smolvla_gym.benchmark.difference import Difference
    from smolvla_gym.benchmark.variants import Report, Variant

_RANDOM: Final = "random-450m"
_REFERENCE: Final = "float32"
_EXAMPLES: Final = f"""examples:
  smolvla-gym bench                                    the bundled policy
  smolvla-gym bench --policy {_RANDOM} --quick       SmolVLA's usual size, 450 M random weights, without the hub
  smolvla-gym bench --policy {_RANDOM} --dtype float32 --dtype bfloat16 --cameras 1 --cameras 3
                                                       four variants, and how far bfloat16 is from float32
  smolvla-gym bench --policy DIR --compare-dtype --inputs sim
                                                       the dtypes that a GPU or CPU can take, on the simulation's scenes
  smolvla-gym bench --policy you/smolvla_parol6 --compile --json | jq '.variants[0].latency_ms'

Each variant runs in a process of its own. --compile compiles the stages of the fast sampler, or with --sampler
reference goes through LeRobot's own switch (compile_model). On a CPU that takes a C++ compiler and minutes, on 2 cores
1 or 2 minutes for the bundled policy, the first time. The mode max-autotune takes longer and gains nothing on a CPU.

float16 is there for GPUs. bfloat16 pays on a CPU, too, with instructions for it (AVX512-BF16, AMX): almost twice as
fast as float32. Others run it several times slower.
"""


def add_parser(commands: Any) -> None:
    """Adds the command and its arguments."""
    parser = commands.add_parser(
        "bench",
        help="Measure a policy: speed, memory, soundness.",
        description="Measures policies and says whether they are fast, small and sound enough.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("what is measured").add_argument
    add(
        "--policy",
        action="append",
        metavar="P",
        help=f"bundled, {_RANDOM} (made in memory: 3 GB), a checkpoint folder, or a Hub repository OWNER/NAME; "
        "repeatable (default: bundled)",
    )
    add(
        "--dtype",
        action="append",
        choices=DTYPES,
        help="type of the weights; repeatable, several are compared with float32 (default: auto, as they were saved)",
    )
    add(
        "--compare-dtype",
        action="store_true",
        help="compare with float32; without --dtype: bfloat16, and on a GPU float16 too",
    )
    add("--cameras", action="append", type=at_least(1), metavar="N", help=f"cameras of {_RANDOM}; repeatable")
    add(
        "--sampler",
        action="append",
        choices=("fast", "reference"),
        help="fast: nothing is computed twice; reference: LeRobot's own code; repeatable (default: fast)",
    )
    add(
        "--compare",
        action="store_true",
        help="measure the fast sampler and LeRobot's own code in turn, in one process, and where the time goes",
    )
    add(
        "--absent-cameras",
        type=at_least(0),
        default=0,
        metavar="N",
        help=f"cameras more that {_RANDOM} knows and that are not there (default: %(default)s)",
    )
    add(
        "--num-steps",
        action="append",
        type=at_least(1),
        metavar="N",
        help="flow steps a chunk; repeatable (default: the policy's)",
    )
    add("--device", default="auto", metavar="D", help="where to compute: auto, cpu, cuda, mps (default: auto)")
    add(
        "--compile",
        nargs="?",
        const="default",
        metavar="MODE",
        help="use torch.compile in a mode such as default or max-autotune; see below",
    )
    add = parser.add_argument_group("how").add_argument
    add("--chunks", type=at_least(3), default=100, metavar="N", help="chunks to measure (default: %(default)s)")
    add("--quick", action="store_true", help="at most 10 chunks and 10 s of them a variant: a first impression")
    add(
        "--inputs",
        choices=("noise", "sim"),
        default="noise",
        help="what the actions are made from that are looked at: random pictures, or scenes of the simulation, if the "
        "policy's cameras are its cameras (default: %(default)s)",
    )
    add("--seed", type=at_least(0), default=0, metavar="S", help="seed of the inputs (default: %(default)s)")
    add = parser.add_argument_group("what is expected").add_argument
    add("--target-ms", type=positive, default=150.0, metavar="MS", help="time of a chunk (default: %(default)g)")
    add("--target-rate", type=positive, default=7.0, metavar="HZ", help="chunks a second (default: %(default)g)")
    add("--target-gb", type=positive, default=8.0, metavar="GB", help="peak of the memory (default: %(default)g)")
    add("--strict", action="store_true", help="exit code 1 where something is not as expected")
    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="print the result as JSON on stdout and nothing else there")
    add("--out", type=Path, metavar="FILE", help="write the result as JSON to a file, too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measures the variants and prints the table."""
    from smolvla_gym.benchmark.acceptance import Targets
    from smolvla_gym.benchmark.benchmark import BenchmarkOptions

    variants = _variants(arguments)
    options = BenchmarkOptions(chunks=arguments.chunks, inputs=arguments.inputs, seed=arguments.seed)
    if arguments.quick:
        options = options.quick()
    targets = Targets(arguments.target_ms, arguments.target_rate, arguments.target_gb)
    with contextlib.ExitStack() as stack:
        if arguments.out is not None:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_file(arguments.out))
        return _run(arguments, variants, options, targets)


def _run(arguments: argparse.Namespace, variants: list[Variant], options: BenchmarkOptions, targets: Targets) -> int:
    from smolvla_gym.benchmark.acceptance import check_report
    from smolvla_gym.benchmark.machine import describe_machine
    from smolvla_gym.utils.json_file import save_json

    reports, errors = _measure(variants, options)
    if not reports:
        raise next(iter(errors.values()))
    checks = {variant: check_report(report, targets) for variant, report in reports.items()}
    differences = _differences(reports)
    machine = describe_machine()
    result = {
        "machine": machine,
        "options": asdict(options),
        "targets": asdict(targets),
        **_to_json(variants, reports, errors, checks, differences),
    }
    if arguments.out is not None:  # first: where nobody reads what is printed the file has it
        save_json(arguments.out, result, "result")
    if arguments.json:
        print(json.dumps(result), flush=True)
    else:
        _print(reports, errors, differences, targets, machine)
        if arguments.out is not None:
            print(f"File: {arguments.out}")
    failed = any(not check.passed for mine in checks.values() for check in mine)
    return 1 if errors or (arguments.strict and failed) else 0


def _variants(arguments: argparse.Namespace) -> list[Variant]:
    """Returns every combination that was asked for.

    Raises:
        UnknownNameError: There is no policy of a name.
        OptionError: The arguments do not fit together.
    """
    from smolvla_gym.agent.checkpoint.load import check_options
    from smolvla_gym.benchmark.variants import Variant

    check_options("auto", arguments.compile)
    if arguments.out is not None and arguments.out.is_dir():
        raise OptionError("--out", str(arguments.out), "the name of a file; this is a folder")
    policies = list(dict.fromkeys(arguments.policy or ["bundled"]))
    for policy in policies:
        if policy in SCRIPTED:
            raise OptionError("--policy", policy, "a SmolVLA policy")
        if policy != _RANDOM:
            check_policy(policy)
    if arguments.cameras and policies != [_RANDOM]:
        allowed = f"only with --policy {_RANDOM}: a checkpoint has the cameras that it was trained with"
        raise OptionError("--cameras", arguments.cameras, allowed)
    dtypes = arguments.dtype or (_usual_dtypes(arguments.device) if arguments.compare_dtype else ["auto"])
    if arguments.compare_dtype or len(set(dtypes)) > 1:
        dtypes = [_REFERENCE, *dtypes]
    return [
        Variant(
            policy,
            dtype=dtype,
            device=arguments.device,
            cameras=cameras,
            num_steps=num_steps,
            compile_mode=arguments.compile,
            sampler=sampler,
            absent=arguments.absent_cameras,
            compare=arguments.compare,
        )
        for policy in policies
        for num_steps in dict.fromkeys(arguments.num_steps or [None])
        for cameras in dict.fromkeys(arguments.cameras or [None])
        for dtype in dict.fromkeys(dtypes)
        for sampler in dict.fromkeys(arguments.sampler or ["fast"])
    ]


def _usual_dtypes(device: str) -> list[str]:
    from smolvla_gym.agent.checkpoint.load import resolve_device

    return ["bfloat16"] if resolve_device(device) == "cpu" else ["bfloat16", "float16"]


def _measure(
    variants: list[Variant], options: BenchmarkOptions
) -> tuple[dict[Variant, Report], dict[Variant, SmolVLAGymError]]:
    """Measures one variant after the other; one that fails does not keep the others from it."""
    from smolvla_gym.benchmark.variants import run_variant

    reports: dict[Variant, Report] = {}
    errors: dict[Variant, SmolVLAGymError] = {}
    for number, variant in enumerate(variants, 1):
        with _progress(variant, f"{number} of {len(variants)}") as progress:
            try:
                reports[variant] = run_variant(variant, options, progress)
            except SmolVLAGymError as error:
                errors[variant] = error
    return reports, errors


def _differences(reports: dict[Variant, Report]) -> dict[Variant, Difference]:
    """Compares each variant with the one of the wide type, and those of that with the one of the most flow steps."""
    from smolvla_gym.benchmark.difference import compare_chunks

    differences = {}
    for variant, report in reports.items():
        alike = [other for other in reports if replace(other, num_steps=variant.num_steps) == variant]
        most = max(alike, key=lambda other: reports[other].benchmark.num_steps)
        wide = reports.get(replace(variant, dtype=_REFERENCE), report)
        reference = reports[most] if wide is report else wide
        if reference is report:
            continue
        pairs = zip(reference.benchmark.samples, report.benchmark.samples, strict=True)
        both = [(one, other) for one, other in pairs if one is not None and other is not None]
        if both:
            differences[variant] = compare_chunks([one for one, _ in both], [other for _, other in both])
    return differences


@contextlib.contextmanager
def _progress(variant: Variant, place: str) -> Iterator[Callable[[str, int, int], None]]:
    """Shows on stderr what is being done: a bar where that is a terminal, else a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from smolvla_gym.benchmark.acceptance import name_variant

    name = name_variant(variant)
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(Progress(*columns, console=console, transient=True, disable=not console.is_terminal))
        line = bar.add_task(name, total=None)
        before, text = "", f"{place}: {name}: start"
        if not console.is_terminal:
            stack.enter_context(steady_lines(lambda: text))

        def update(doing: str, done: int, total: int) -> None:
            nonlocal before, text
            bar.update(line, description=f"{place}  {name}  {doing}", completed=done, total=total)
            text = f"{place}: {name}: {doing}{f' {done} of {total}' if total > 1 else ''}"
            if doing != before and not console.is_terminal:
                _say(text)
            before = doing

        yield update


def _to_json(
    variants: list[Variant],
    reports: dict[Variant, Report],
    errors: dict[Variant, SmolVLAGymError],
    checks: dict[Variant, list[Check]],
    differences: dict[Variant, Difference],
) -> dict[str, Any]:
    from smolvla_gym.benchmark.acceptance import name_variant
    from smolvla_gym.benchmark.benchmark import DEFINITIONS

    rows: list[dict[str, Any]] = []
    for variant in variants:
        row: dict[str, Any] = {"name": name_variant(variant)}
        if variant in errors:
            row["error"] = str(errors[variant])
        else:
            mine = checks[variant]
            row |= {"passed": all(check.passed for check in mine), "checks": [asdict(check) for check in mine]}
            row |= reports[variant].to_dict()
        rows.append(row)
    apart = [{"name": name_variant(variant), **difference.to_dict()} for variant, difference in differences.items()]
    return {"definitions": dict(DEFINITIONS), "variants": rows, "differences": apart}


def _print(
    reports: dict[Variant, Report],
    errors: dict[Variant, SmolVLAGymError],
    differences: dict[Variant, Difference],
    targets: Targets,
    machine: dict[str, Any],
) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from smolvla_gym.benchmark import acceptance
    from smolvla_gym.benchmark.acceptance import name_variant
    from smolvla_gym.benchmark.benchmark import DEFINITIONS

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 40 + 60 * len(reports))
    table = Table("", *(escape(name_variant(variant)) for variant in reports), box=box.SIMPLE_HEAD)
    for name, *cells in acceptance.rows(list(reports.values()), targets):
        table.add_row(name, *(Text(cell, _style(cell)) for cell in cells))
    console.print(table)
    if differences:
        table = Table(*acceptance.DIFFERENCE_COLUMNS, box=box.SIMPLE_HEAD)
        for column in table.columns[1:]:
            column.justify = "right"
        for variant, difference in differences.items():
            table.add_row(*acceptance.difference_cells(escape(name_variant(variant)), difference))
        console.print(table)
    for variant, report in reports.items():
        if report.speedup is None:
            continue
        table = Table(*acceptance.STAGE_COLUMNS, title=escape(name_variant(variant)), box=box.SIMPLE_HEAD)
        for column in table.columns[1:]:
            column.justify = "right"
        for stage in report.speedup.stages:
            table.add_row(*acceptance.stage_cells(stage))
        console.print(table)
        print(f"{name_variant(variant)}: {acceptance.speedup_line(report.speedup)}")
    for variant, report in reports.items():
        print(f"{name_variant(variant)}:")
        for line in acceptance.findings(report):
            print(f"  {line}")
    for variant, error in errors.items():
        print(f"{name_variant(variant)}: could not be measured: {error}")
        for note in getattr(error, "__notes__", ()):
            print(f"  {note}")
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {versions}", style="dim")
    for name, meaning in DEFINITIONS.items():
        console.print(f"{name}: {meaning}", style="dim")


def _style(cell: str) -> str:
    return "red" if "FAIL" in cell else "green" if "PASS" in cell else ""


def _say(line: str) -> None:
    print(f"smolvla-gym: {line}", file=sys.stderr, flush=True)
