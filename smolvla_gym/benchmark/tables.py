"""Result of a run as tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from smolvla_gym.benchmark.difference import Difference
from smolvla_gym.benchmark.machine import describe_machine
from smolvla_gym.benchmark.measure import DEFINITIONS
from smolvla_gym.benchmark.result import Check, Result
from smolvla_gym.benchmark.speedup import Speedup
from smolvla_gym.benchmark.stages import Stage
from smolvla_gym.benchmark.worker import Report
from smolvla_gym.parol6 import ACTION_NAMES

_DISTURBED: Final = 0.25
"""Cores kept busy by other programs above which the times are not to be trusted."""

_DIFFERENCES: Final = (
    "against float32, or the most flow steps", "joints max, rad", "mean, rad", "tool max, mm", "mean, mm",
    "gripper max", "cosine, least",
)  # fmt: skip
_STAGES: Final = ("stage", "time", "GFLOP", "GFLOP/s", "product alone", "its GFLOP/s", "share", "weights read")


def print_result(result: Result) -> None:
    """Print the figures of all variants, their differences, and what else was found."""
    console, reports = Console(highlight=False), result.reports
    if not console.is_terminal:
        console.width = max(console.width, 40 + 60 * len(reports))
    columns = [describe(report, result.checks[variant]) for variant, report in reports.items()]
    table = Table("", *(escape(variant.name) for variant in reports), box=box.SIMPLE_HEAD)
    for name in columns[0]:
        table.add_row(name, *(Text(column[name], _style(column[name])) for column in columns))
    console.print(table)
    if result.differences:
        rows = ((escape(variant.name), *_difference(apart)) for variant, apart in result.differences.items())
        console.print(_table(_DIFFERENCES, rows))
    for variant, report in reports.items():
        if report.speedup is not None:
            console.print(_table(_STAGES, map(_stage, report.speedup.stages), escape(variant.name)))
            print(f"{variant.name}: {_speedup(report.speedup)}")
    for variant, report in reports.items():
        print("\n  ".join([f"{variant.name}:", *findings(report)]))
    for variant, error in result.errors.items():
        print("\n  ".join([f"{variant.name}: could not be measured: {error}", *getattr(error, "__notes__", ())]))
    machine = describe_machine()
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {versions}", style="dim")
    for name, meaning in DEFINITIONS.items():
        console.print(f"{name}: {meaning}", style="dim")


def describe(report: Report, checks: Iterable[Check]) -> dict[str, str]:
    """Return the text of each figure by its name, with PASS or FAIL where a check is about it."""
    figures, verdicts = report.benchmark, {check.name: check for check in checks}

    def judged(name: str, text: str) -> str:
        check = verdicts.get(name)
        return text if check is None else f"{text}  {'PASS' if check.passed else 'FAIL'} {check.wanted}"

    latency, pop, digits = figures.latency_ms, figures.pop_ms, 1 if figures.latency_ms.p50 < 1e3 else 0
    peaks = {"host": _gb(figures.host_peak), "device": _gb(figures.device_peak)}
    checked = "host" if figures.device_peak is None else "device"
    peaks[checked] = judged("memory", peaks[checked])
    failed = [check.name for check in verdicts.values() if not check.passed]
    sizes = sorted(set(report.cameras.values()))
    cameras = f"{len(report.cameras)} of {' and '.join(f'{height}x{width}' for height, width in sizes)}"
    if report.vision_size is not None and sizes != [report.vision_size]:
        cameras += f", seen at {report.vision_size[0]}x{report.vision_size[1]}"
    busy = "-" if figures.other_cores is None else f"{figures.other_cores:.2f} cores"
    if (figures.other_cores or 0.0) > _DISTURBED:
        busy += ": the times are too long, measure again"
    return {
        "device": report.device_name or f"{report.device}, {report.threads} thread{'s'[: report.threads > 1]}",
        "parameters": f"{report.parameters / 1e6:.1f} M, and {report.left_out / 1e6:.1f} M that no chunk uses",
        "weights": f"{'+'.join(report.dtypes)}, {_gb(report.weights)}",
        "sampler": report.sampler if report.fallback is None else f"{report.sampler}: {report.fallback}",
        "cameras": cameras,
        "load": f"{report.load_s:.1f} s (after {report.import_s:.1f} s of imports)",
        "output": f"{figures.shape}, {figures.num_steps} flow steps",
        "NaN or Inf": judged("finite", f"{figures.not_finite} chunks" if figures.not_finite else "none"),
        "smoothness": "-" if figures.smoothness is None else f"{figures.smoothness:.4f}",
        "first chunk": f"{figures.first_ms:.0f} ms ({figures.warm_up} to warm up)",
        "chunk, mean": judged("latency", _ms(latency.mean)),
        "chunk, p50 p95 p99": " ".join(f"{ms:.{digits}f}" for ms in (latency.p50, latency.p95, latency.p99))
        + f" ms of {figures.chunks}",
        "chunks/s": judged("rate", f"{figures.chunks_per_s:.3g}"),
        "actions/s": f"{figures.actions_per_s:.3g} ({figures.n_action_steps} a chunk)",
        "queue pop, p50 p99": "-" if pop is None else f"{pop.p50:.3f} {pop.p99:.3f} ms",
        "peak memory, host": peaks["host"],
        "peak memory, device": peaks["device"],
        "same seed": judged("repeatable", "same bits" if figures.repeatable else "other bits"),
        "growth": judged(
            "leak",
            f"{_mb(figures.host_growth)} host, {_mb(figures.device_growth)} device in {figures.chunks} chunks",
        ),
        "other programs": busy,
        "verdict": f"FAIL: {', '.join(failed)}" if failed else "PASS",
    }


def findings(report: Report) -> list[str]:
    """Return a line on each of three frequent obstacles: masks, mixed types, and the width of the actions."""
    types = ", ".join(f"{count:,} {name}" for name, count in report.dtypes.items())
    if len(report.dtypes) > 1:
        types += "; the projections of states and actions have to stay float32"
    width = f"{report.action_width} wide"
    if report.padded_width > report.action_width:
        width += f", the first of {report.padded_width} that the network computes"
    return [
        f"mask     {report.mask_dtype}, as torch.where requires it; a checkpoint that makes another is refused",
        f"types    {types}",
        f"actions  {width}: {', '.join(ACTION_NAMES)}; a checkpoint of 6 (smolvla_base, the SO-100's) is refused",
    ]


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]], title: str | None = None) -> Table:
    table = Table(*columns, title=title, box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    return table


def _difference(apart: Difference) -> tuple[str, ...]:
    joints = f"{apart.joints_max:.2g}", f"{apart.joints_mean:.2g}"
    return *joints, f"{apart.tool_max:.3g}", f"{apart.tool_mean:.3g}", f"{apart.gripper_max:.2g}", _cosine(apart)


def _stage(stage: Stage) -> tuple[str, ...]:
    if stage.product is None:
        return stage.name, _ms(stage.ms), *"-" * 6
    return (
        stage.name,
        _ms(stage.ms),
        f"{stage.flops / 1e9:.3g}",
        f"{stage.flops_per_s / 1e9:.4g}",
        "{} x {} x {}".format(*stage.product),
        "-" if stage.product_rate is None else f"{stage.product_rate / 1e9:.4g}",
        "-" if stage.share is None else f"{100 * stage.share:.0f} %",
        _gb(stage.weights),
    )


def _speedup(speedup: Speedup) -> str:
    reference, fast, apart = speedup.reference_ms, speedup.fast_ms, speedup.difference
    return (
        f"fast {speedup.ratio:.2f} x LeRobot's code (medians {_ms(fast.p50)}, {_ms(reference.p50)}; in turn); "
        f"joints {apart.joints_max:.1g} rad apart at most, cosine {_cosine(apart)}"
    )


def _cosine(apart: Difference) -> str:
    return f"{apart.cosine_min:.7f}"


def _style(cell: str) -> str:
    return "red" if "FAIL" in cell else "green" if "PASS" in cell else ""


def _ms(value: float) -> str:
    return f"{value:.1f} ms" if value < 1e3 else f"{value:.0f} ms"


def _gb(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e9:.2f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"


def _mb(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:+.1f} MB"
