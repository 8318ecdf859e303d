"""Run of all checks at the same time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from smolvla_gym.doctor.finding import Finding, fail
from smolvla_gym.doctor.policy import check_policy
from smolvla_gym.doctor.probe import PROBES, probe
from smolvla_gym.doctor.serial_ports import check_serial_ports
from smolvla_gym.doctor.system import check_disk, check_packages, check_python, check_wsl

Check = Callable[[], list[Finding]]

_PROBE_TIMEOUT_S: Final = 15.0
"""Time in s that a probe may take: importing torch alone takes several."""


def default_checks(folder: Path | None = None) -> dict[str, Check]:
    """Return all checks of the machine by name.

    Args:
        folder: Folder for results; None: the present folder.
    """
    return {
        "Python": check_python,
        "packages": check_packages,
        **{name: partial(probe, name, _PROBE_TIMEOUT_S) for name in PROBES},
        "arm": check_serial_ports,
        "WSL2": check_wsl,
        "disk": partial(check_disk, folder),
    }


def examine(
    policy: str | None = None, folder: Path | None = None, checks: Mapping[str, Check] | None = None
) -> list[Finding]:
    """Check the machine; nothing moves and no device is opened.

    Args:
        policy: A checkpoint to check, or None.
        folder: Folder for results; None: the present folder.
        checks: Checks to run; None: those of :func:`default_checks`.
    """
    checks = default_checks(folder) if checks is None else checks
    with ThreadPoolExecutor(len(checks)) as pool:
        running = {name: pool.submit(_guarded, name, check) for name, check in checks.items()}
        findings = [finding for future in running.values() for finding in future.result()]
    if policy is not None:
        free = max((finding.free_bytes for finding in findings if finding.free_bytes is not None), default=None)
        findings += _guarded(f"policy {policy}", lambda: check_policy(policy, free))
    return findings


def _guarded(name: str, check: Check) -> list[Finding]:
    """Run a check; an exception in it becomes a finding, and the other checks go on."""
    try:
        return check()
    except Exception as error:
        return [fail(name, f"the check itself failed ({type(error).__name__}: {error})", "Report this line.")]
