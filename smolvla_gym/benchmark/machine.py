"""The machine that a measurement runs on: memory of this process, load by other programs, hardware and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_WORK: Final = (0, 1, 2, 5, 6, 7)
"""Columns of :file:`/proc/stat` that count as work: user, nice, system, interrupts, and time stolen by other guests."""

_PACKAGES: Final = ("smolvla-gym", "torch", "lerobot", "transformers")


@dataclass(frozen=True)
class Memory:
    """Memory of this process in bytes; None where the system does not report it.

    Attributes:
        host: Resident memory; Linux only.
        host_peak: Largest resident memory since the process started; Linux only.
        device: Memory that torch has allocated on the device; None on the CPU.
        device_peak: Most memory that torch has reserved on the device, without the driver's context; None on the CPU.
    """

    host: int | None
    host_peak: int | None
    device: int | None
    device_peak: int | None


def read_memory(device: str) -> Memory:
    """Read the memory of this process.

    Args:
        device: The device that the policy computes on, in torch's spelling.
    """
    import torch

    present = peak = None
    if device.startswith("cuda"):
        present, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_reserved(device)
    elif device.startswith("mps"):
        # Apple's driver gives back little, so what it holds is close to its peak.
        present, peak = torch.mps.current_allocated_memory(), torch.mps.driver_allocated_memory()
    # The peak of getrusage would start with that of the parent process.
    lines = re.findall(r"^(VmRSS|VmHWM):\s*(\d+) kB$", _read("/proc/self/status"), re.MULTILINE)
    host = {name: 1024 * int(kilobytes) for name, kilobytes in lines}
    return Memory(host.get("VmRSS"), host.get("VmHWM"), present, peak)


def watch_other_programs() -> Callable[[], float | None]:
    """Start to watch the load by other programs.

    Returns:
        A function that returns how many cores other programs have kept busy since then, on average; None where the
        system does not report it (it does on Linux).

    Example:
        >>> cores = watch_other_programs()
        >>> cores()  # doctest: +SKIP
        0.03
    """
    began, before = time.monotonic(), _other_cpu_seconds()

    def cores() -> float | None:
        now, elapsed = _other_cpu_seconds(), time.monotonic() - began
        return None if now is None or before is None else max(0.0, now - before) / max(elapsed, 1e-9)

    return cores


def describe_machine() -> dict[str, Any]:
    """Return the processor, the number of cores that may be used, the system and the versions of packages."""
    model = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    # The affinity is what a container or taskset leaves of the cores.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model[1].strip() if model else platform.processor() or platform.machine(),
        "cores": cores,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _other_cpu_seconds() -> float | None:
    """Return the time that the cores have worked since the machine started, without the time of this process."""
    lines = _read("/proc/stat").splitlines()
    if not lines:
        return None
    ticks, own = [int(field) for field in lines[0].split()[1:]], os.times()
    return sum(ticks[column] for column in _WORK) / os.sysconf("SC_CLK_TCK") - own.user - own.system


def _read(path: str) -> str:
    return Path(path).read_text(errors="replace") if Path(path).is_file() else ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
