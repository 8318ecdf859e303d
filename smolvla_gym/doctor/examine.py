"""All checks, side by side."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from smolvla_gym.doctor.finding import Finding, fail
from smolvla_gym.doctor.policy import check_policy
from smolvla_gym.doctor.probe import PROBES, probe
from smolvla_gym.doctor.serial_ports import check_serial_ports
from smolvla_gym.doctor.system import check_disk, check_packages, check_python, check_wsl

_PROBE_S: Final = 15.0
"""Seconds that a probe may take: torch alone takes some to be imported."""


def examine(policy: str | None = None, folder: Path | None = None) -> list[Finding]:
    """Looks at everything; nothing moves and no device is opened.

    Args:
        policy: A checkpoint to look at, or None.
        folder: Where results would go; None: the present folder.
    """
    checks: dict[str, Callable[[], list[Finding]]] = {
        "Python": check_python,
        "packages": check_packages,
        **{name: partial(probe, name, _PROBE_S) for name in PROBES},
        "arm": check_serial_ports,
        "WSL2": check_wsl,
        "disk": partial(check_disk, folder),
    }
    with ThreadPoolExecutor(len(checks)) as pool:
        running = {name: pool.submit(_guarded, name, check) for name, check in checks.items()}
        findings = [finding for future in running.values() for finding in future.result()]
    if policy is not None:
        free = max((finding.free_bytes for finding in findings if finding.free_bytes is not None), default=None)
        findings += _guarded(f"policy {policy}", lambda: check_policy(policy, free))
    return findings


def _guarded(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """A check that breaks is a finding, and not the end of the others."""
    try:
        return check()
    except Exception as error:
        return [fail(name, f"the check itself failed ({type(error).__name__}: {error})", "Report this line.")]
