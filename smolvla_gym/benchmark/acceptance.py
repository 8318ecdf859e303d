"""What is expected of a policy, whether it holds, and all of it as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from smolvla_gym.benchmark.benchmark import Spread
from smolvla_gym.benchmark.difference import Difference
from smolvla_gym.benchmark.speedup import Speedup
from smolvla_gym.benchmark.stages import Stage
from smolvla_gym.benchmark.variants import Report, Variant
from smolvla_gym.parol6 import ACTION_NAMES

_NONE: Final = "-"

_DISTURBED: Final = 0.25
"""Cores kept busy by other programs from which on the times are not to be trusted."""


@dataclass(frozen=True)
class Targets:
    """What is expected.

    Attributes:
        latency_ms: The mean time of a chunk has to be below.
        chunks_per_s: There have to be more.
        memory_gb: The peak of the device, or on the CPU that of the host, has to be below.
    """

    latency_ms: float = 150.0
    chunks_per_s: float = 7.0
    memory_gb: float = 8.0


@dataclass(frozen=True)
class Check:
    """One of the things that are expected.

    Attributes:
        name: What.
        wanted: The limit, in words.
        passed: Whether it holds.
    """

    name: str
    wanted: str
    passed: bool


def check_report(report: Report, targets: Targets) -> list[Check]:
    """Returns what is expected of a policy and whether it holds; what cannot be told is left out."""
    figures = report.benchmark
    peak = figures.device_peak if figures.device_peak is not None else figures.host_peak
    checks = [
        Check("latency", f"< {targets.latency_ms:g} ms", figures.latency.mean < targets.latency_ms),
        Check("rate", f"> {targets.chunks_per_s:g}/s", figures.chunks_per_s > targets.chunks_per_s),
        Check("finite", "no NaN, no Inf", figures.not_finite == 0),
        Check("repeatable", "the same bits", figures.repeatable),
        Check("leak", "none", not figures.leaks),
    ]
    if peak is not None:
        checks.insert(2, Check("memory", f"< {targets.memory_gb:g} GB", peak < 1e9 * targets.memory_gb))
    return checks


def name_variant(variant: Variant) -> str:
    """Returns a name that tells apart the variants of one run."""
    parts = [variant.policy, variant.dtype]
    if variant.cameras is not None:
        parts.append(f"{variant.cameras} camera{'s' if variant.cameras > 1 else ''}")
    if variant.absent:
        parts.append(f"{variant.absent} absent")
    if variant.num_steps is not None:
        parts.append(f"{variant.num_steps} step{'s'[: variant.num_steps > 1]}")
    if variant.compile_mode is not None:
        parts.append(f"compiled ({variant.compile_mode})")
    if variant.sampler != "fast":
        parts.append(variant.sampler)
    return ", ".join(parts)


def rows(reports: Sequence[Report], targets: Targets) -> list[tuple[str, ...]]:
    """Returns the table: the name of each figure, and its text for each policy."""
    columns = [_column(report, targets) for report in reports]
    return [(name, *(column[name] for column in columns)) for name in columns[0]]


def _column(report: Report, targets: Targets) -> dict[str, str]:
    figures = report.benchmark
    verdicts = {check.name: check for check in check_report(report, targets)}

    def judged(name: str, text: str) -> str:
        check = verdicts.get(name)
        return text if check is None else f"{text}  {'PASS' if check.passed else 'FAIL'} {check.wanted}"

    memory = "device" if figures.device_peak is not None else "host"
    peaks = {"host": _gb(figures.host_peak), "device": _gb(figures.device_peak)}
    peaks[memory] = judged("memory", peaks[memory])
    growth = f"{_mb(figures.host_growth)} host, {_mb(figures.device_growth)} device in {figures.chunks} chunks"
    failed = [check.name for check in verdicts.values() if not check.passed]
    sizes = sorted(set(report.cameras.values()))
    pictures = f"{len(report.cameras)} of {' and '.join(f'{height}x{width}' for height, width in sizes)}"
    if report.vision_size is not None and sizes != [report.vision_size]:
        pictures += f", seen at {report.vision_size[0]}x{report.vision_size[1]}"
    return {
        "device": report.device_name or f"{report.device}, {report.threads} thread{'s'[: report.threads > 1]}",
        "parameters": f"{report.parameters / 1e6:.1f} M, and {report.left_out / 1e6:.1f} M that no chunk uses",
        "weights": f"{'+'.join(report.dtypes)}, {_gb(report.weights)}",
        "sampler": report.sampler if report.fallback is None else f"{report.sampler}: {report.fallback}",
        "cameras": pictures,
        "load": f"{report.load_s:.1f} s (after {report.import_s:.1f} s of imports)",
        "output": f"{figures.shape}, {figures.num_steps} flow steps",
        "NaN or Inf": judged("finite", f"{figures.not_finite} chunks" if figures.not_finite else "none"),
        "smoothness": _NONE if figures.smoothness is None else f"{figures.smoothness:.4f}",
        "first chunk": f"{figures.first_ms:.0f} ms ({figures.warm_up} to warm up)",
        "chunk, mean": judged("latency", _ms(figures.latency.mean)),
        "chunk, p50 p95 p99": _percentiles(figures.latency) + f" of {figures.chunks}",
        "chunks/s": judged("rate", f"{figures.chunks_per_s:.3g}"),
        "actions/s": f"{figures.actions_per_s:.3g} ({figures.n_action_steps} a chunk)",
        "queue pop, p50 p99": _NONE if figures.pop is None else f"{figures.pop.p50:.3f} {figures.pop.p99:.3f} ms",
        "peak memory, host": peaks["host"],
        "peak memory, device": peaks["device"],
        "same seed": judged("repeatable", "same bits" if figures.repeatable else "other bits"),
        "growth": judged("leak", growth),
        "other programs": _others(figures.other_cores),
        "verdict": "PASS" if not failed else f"FAIL: {', '.join(failed)}",
    }


def findings(report: Report) -> list[str]:
    """Returns a line on each of what has stopped people before: masks, mixed types, and the width of the actions."""
    types = ", ".join(f"{count:,} {name}" for name, count in report.dtypes.items())
    if len(report.dtypes) > 1:
        types += "; the projections of states and actions have to stay float32"
    width = f"{report.action_width} wide"
    if report.padded_width > report.action_width:
        width += f", the first of {report.padded_width} that the network computes"
    return [
        f"mask     {report.mask_dtype}, as torch.where wants it; a checkpoint that makes another is refused",
        f"types    {types}",
        f"actions  {width}: {', '.join(ACTION_NAMES)}; a checkpoint of 6 (smolvla_base, the SO-100's) is refused",
    ]


DIFFERENCE_COLUMNS: Final = (
    "against float32, or the most flow steps",
    "joints max, rad",
    "mean, rad",
    "tool max, mm",
    "mean, mm",
    "gripper max",
    "cosine, least",
)


def difference_cells(name: str, difference: Difference) -> tuple[str, ...]:
    """Returns the text of a comparison, one for each of ``DIFFERENCE_COLUMNS``."""
    return (
        name,
        f"{difference.joints_max:.2g}",
        f"{difference.joints_mean:.2g}",
        f"{difference.tool_max:.3g}",
        f"{difference.tool_mean:.3g}",
        f"{difference.gripper_max:.2g}",
        f"{difference.cosine_min:.7f}",
    )


STAGE_COLUMNS: Final = ("stage", "time", "GFLOP", "GFLOP/s", "product alone", "its GFLOP/s", "share", "weights read")


def stage_cells(stage: Stage) -> tuple[str, ...]:
    """Returns the text of a stage, one for each of ``STAGE_COLUMNS``."""
    known = stage.product is not None
    return (
        stage.name,
        _ms(stage.ms),
        f"{stage.flops / 1e9:.3g}" if known else _NONE,
        f"{stage.rate / 1e9:.4g}" if known else _NONE,
        "{} x {} x {}".format(*stage.product) if stage.product is not None else _NONE,
        _NONE if stage.product_rate is None else f"{stage.product_rate / 1e9:.4g}",
        _NONE if stage.share is None else f"{100 * stage.share:.0f} %",
        _gb(stage.weights) if known else _NONE,
    )


def speedup_line(speedup: Speedup) -> str:
    """Returns what the fast sampler gains, in words."""
    reference, fast, apart = speedup.reference, speedup.fast, speedup.difference
    return (
        f"fast {speedup.ratio:.2f} x LeRobot's code (medians {_ms(fast.p50)}, {_ms(reference.p50)}; in turn); "
        f"joints {apart.joints_max:.1g} rad apart at most, cosine {apart.cosine_min:.7f}"
    )


def _others(cores: float | None) -> str:
    if cores is None:
        return _NONE
    disturbed = ": the times are too long, measure again" if cores > _DISTURBED else ""
    return f"{cores:.2f} cores{disturbed}"


def _ms(value: float) -> str:
    return f"{value:.1f} ms" if value < 1e3 else f"{value:.0f} ms"


def _percentiles(spread: Spread) -> str:
    digits = 1 if spread.p50 < 1e3 else 0
    return f"{spread.p50:.{digits}f} {spread.p95:.{digits}f} {spread.p99:.{digits}f} ms"


def _gb(value: int | None) -> str:
    if value is None:
        return _NONE
    return f"{value / 1e9:.2f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"


def _mb(value: int | None) -> str:
    return _NONE if value is None else f"{value / 1e6:+.1f} MB"
