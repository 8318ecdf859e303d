"""Reports as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from smolvla_gym.benchmark.machine import describe_machine
from smolvla_gym.benchmark.report import Report, compare_reports

_DISTURBED: Final = 0.25
"""Cores kept busy by other programs above which the times are not to be trusted."""

_STYLES: Final = {"PASS": "green", "FAIL": "red"}


def print_reports(reports: Sequence[Report]) -> None:
    """Print the figures of all variants, the differences of their actions, and the stages of compared samplers."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 40 + 60 * len(reports))
    columns = {report.variant.name: describe(report) for report in reports}
    names = next(iter(columns.values()))
    _print(console, ["", *columns], [[name, *(column[name] for column in columns.values())] for name in names], "left")
    differences = compare_reports(reports)
    if differences:
        heads = ["against float32 or the most flow steps", *next(iter(differences.values()))]
        rows = [[name, *(f"{value:.7g}" for value in apart.values())] for name, apart in differences.items()]
        _print(console, heads, rows)
    for report in reports:
        if report.speedup is not None:
            _print_speedup(console, report.variant.name, report.speedup)
    machine = describe_machine()
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {versions}", style="dim")


def describe(report: Report) -> dict[str, str]:
    """Return the text of each figure by its name, with PASS or FAIL where a check is about it."""
    checks, latency, pop = report.checks, report.latency_ms, report.pop_ms

    def judged(name: str, text: str) -> str:
        expected, passed = checks.get(name, ("", True))
        return f"{text}  {'PASS' if passed else 'FAIL'} {expected}" if expected else text

    peaks = {"host": _bytes(report.host_peak), "device": _bytes(report.device_peak)}
    checked = "host" if report.device_peak is None else "device"
    peaks[checked] = judged("memory", peaks[checked])
    sizes = " and ".join(sorted({f"{height}x{width}" for height, width in report.cameras.values()}))
    busy = "-" if report.other_cores is None else f"{report.other_cores:.2f} cores"
    if (report.other_cores or 0.0) > _DISTURBED:
        busy += ": the times are too long, measure again"
    growth = f"{_bytes(report.host_growth)} host, {_bytes(report.device_growth)} device in {report.chunks} chunks"
    return {
        "device": report.device,
        "parameters": f"{report.parameters / 1e6:.1f} M, and {report.left_out / 1e6:.1f} M that no chunk uses",
        "weights": f"{'+'.join(report.dtypes)}, {_bytes(report.weights)}",
        "sampler": report.sampler if report.fallback is None else f"{report.sampler}: {report.fallback}",
        "cameras": f"{len(report.cameras)} of {sizes}",
        "load": f"{report.load_s:.1f} s (after {report.import_s:.1f} s of imports)",
        "output": f"{report.shape}, {report.num_steps} flow steps",
        "NaN or Inf": judged("finite", f"{report.not_finite} chunks" if report.not_finite else "none"),
        "smoothness": "-" if report.smoothness is None else f"{report.smoothness:.4f}",
        "first chunk": _ms(report.first_ms),
        "chunk, mean": judged("latency", _ms(latency["mean"])),
        "chunk, p50 p95 p99": f"{_ms(latency['p50'])}, {_ms(latency['p95'])}, {_ms(latency['p99'])} of {report.chunks}",
        "chunks/s": judged("rate", f"{report.chunks_per_s:.3g}"),
        "actions/s": f"{report.chunks_per_s * report.n_action_steps:.3g} ({report.n_action_steps} a chunk)",
        "queue pop, p50 p99": "-" if pop is None else f"{pop['p50']:.3f} {pop['p99']:.3f} ms",
        "peak memory, host": peaks["host"],
        "peak memory, device": peaks["device"],
        "same seed": judged("repeatable", "same bits" if report.repeatable else "other bits"),
        "growth": judged("leak", growth),
        "other programs": busy,
        "verdict": f"FAIL: {', '.join(report.failed)}" if report.failed else "PASS",
    }


def _print_speedup(console: Console, name: str, speedup: Mapping[str, Any]) -> None:
    rows = []
    for stage in speedup["stages"]:
        row = [stage["name"], _ms(stage["ms"]), *"-" * 6]
        if "product" in stage:
            rate, limit = 1e3 * stage["flops"] / stage["ms"], stage["product_rate"]
            sizes = "{} x {} x {}".format(*stage["product"])
            row[2:] = [f"{stage['flops'] / 1e9:.3g}", f"{rate / 1e9:.4g}", sizes, f"{limit / 1e9:.4g}"]
            row += [f"{100 * rate / limit:.0f} %", _bytes(stage["weights"])]
        rows.append(row)
    heads = ["stage", "time", "GFLOP", "GFLOP/s", "product alone", "its GFLOP/s", "share", "weights read"]
    _print(console, heads, rows)
    fast, reference, apart = speedup["fast_ms"]["p50"], speedup["reference_ms"]["p50"], speedup["difference"]
    print(
        f"{name}: fast {speedup['ratio']:.2f} x LeRobot's code (medians {_ms(fast)}, {_ms(reference)}; in turn); "
        f"joints {apart['joints_max']:.1g} rad apart at most, cosine {apart['cosine_min']:.7f}"
    )


def _print(console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]], justify: Any = "right") -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for number, head in enumerate(heads):
        table.add_column(escape(head), justify=justify if number else "left")
    for row in rows:
        table.add_row(
            *(Text(cell, next((style for word, style in _STYLES.items() if word in cell), "")) for cell in row)
        )
    console.print(table)


def _ms(value: float) -> str:
    return f"{value:.1f} ms" if value < 1e3 else f"{value:.0f} ms"


def _bytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e9:.2f} GB" if abs(value) >= 1e8 else f"{value / 1e6:.1f} MB"
