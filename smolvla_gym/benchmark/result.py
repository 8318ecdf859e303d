"""Result of a run: reports of its variants, checks of what is expected of them, and their differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final

from smolvla_gym.benchmark.difference import Difference, compare_chunks
from smolvla_gym.benchmark.machine import describe_machine
from smolvla_gym.benchmark.measure import DEFINITIONS, BenchmarkOptions
from smolvla_gym.benchmark.variant import Variant
from smolvla_gym.benchmark.worker import Report
from smolvla_gym.errors import SmolVLAGymError

REFERENCE_DTYPE: Final = "float32"
"""Type that the others are compared with."""


@dataclass(frozen=True)
class Targets:
    """Figures that are expected of a policy.

    Attributes:
        latency_ms: The mean time of a chunk in ms has to be below.
        chunks_per_s: The number of chunks a second has to be above.
        memory_gb: The peak of the device's memory in GB, or on the CPU of the host's, has to be below.
    """

    latency_ms: float = 150.0
    chunks_per_s: float = 7.0
    memory_gb: float = 8.0


@dataclass(frozen=True)
class Check:
    """Comparison of a figure with what is expected.

    Attributes:
        name: Name of the figure.
        wanted: The limit as a text.
        passed: Whether the figure is within the limit.
    """

    name: str
    wanted: str
    passed: bool


def check_report(report: Report, targets: Targets) -> list[Check]:
    """Return the checks of a report, without the one of the memory where the system does not report its peak."""
    figures = report.benchmark
    peak = figures.host_peak if figures.device_peak is None else figures.device_peak
    checks = [
        Check("latency", f"< {targets.latency_ms:g} ms", figures.latency_ms.mean < targets.latency_ms),
        Check("rate", f"> {targets.chunks_per_s:g}/s", figures.chunks_per_s > targets.chunks_per_s),
        Check("finite", "no NaN, no Inf", figures.not_finite == 0),
        Check("repeatable", "the same bits", figures.repeatable),
        Check("leak", "none", not figures.leaks),
    ]
    if peak is not None:
        checks.insert(2, Check("memory", f"< {targets.memory_gb:g} GB", peak < 1e9 * targets.memory_gb))
    return checks


def find_reference(variant: Variant, num_steps: Mapping[Variant, int]) -> Variant | None:
    """Return the variant that another one is compared with, or None.

    That is the same one in float32, or for float32 the same one with the most flow steps.

    Args:
        variant: The variant.
        num_steps: Flow steps of a chunk of each variant that was measured.
    """
    wide = replace(variant, dtype=REFERENCE_DTYPE)
    alike = [other for other in num_steps if replace(other, num_steps=variant.num_steps) == variant]
    reference = wide if wide != variant and wide in num_steps else max(alike, key=num_steps.__getitem__)
    return None if reference == variant else reference


@dataclass(frozen=True)
class Result:
    """Result of a run.

    Attributes:
        options: Amount of the measurement.
        targets: Figures that were expected.
        outcomes: Report of each variant, or the error for which there is none.
    """

    options: BenchmarkOptions
    targets: Targets
    outcomes: Mapping[Variant, Report | SmolVLAGymError]

    @property
    def reports(self) -> dict[Variant, Report]:
        """Reports of the variants that could be measured."""
        return {variant: found for variant, found in self.outcomes.items() if isinstance(found, Report)}

    @property
    def errors(self) -> dict[Variant, SmolVLAGymError]:
        """Errors of the others."""
        return {variant: found for variant, found in self.outcomes.items() if not isinstance(found, Report)}

    @cached_property
    def checks(self) -> dict[Variant, list[Check]]:
        """Checks of each report."""
        return {variant: check_report(report, self.targets) for variant, report in self.reports.items()}

    @cached_property
    def differences(self) -> dict[Variant, Difference]:
        """Difference of each variant that has a reference (see :func:`find_reference`)."""
        reports, differences = self.reports, {}
        steps = {variant: report.benchmark.num_steps for variant, report in reports.items()}
        for variant, report in reports.items():
            reference = find_reference(variant, steps)
            if reference is None:
                continue
            pairs = zip(reports[reference].benchmark.samples, report.benchmark.samples, strict=True)
            finite = [(one, other) for one, other in pairs if one is not None and other is not None]
            if finite:
                differences[variant] = compare_chunks([one for one, _ in finite], [other for _, other in finite])
        return differences

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        rows = []
        for variant, found in self.outcomes.items():
            row: dict[str, Any] = {"name": variant.name}
            if isinstance(found, Report):
                checks = self.checks[variant]
                row |= {"passed": all(check.passed for check in checks), "checks": [asdict(check) for check in checks]}
                row |= found.to_dict()
            else:
                row["error"] = str(found)
            rows.append(row)
        return {
            "machine": describe_machine(),
            "options": asdict(self.options),
            "targets": asdict(self.targets),
            "definitions": dict(DEFINITIONS),
            "variants": rows,
            "differences": [{"name": variant.name, **asdict(apart)} for variant, apart in self.differences.items()],
        }
