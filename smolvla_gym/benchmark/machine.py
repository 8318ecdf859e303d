"""The machine that a measurement runs on: memory of this process, load by other programs, hardware and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

_WORK: Final = (0, 1, 2, 5, 6, 7)
"""Columns of :file:`/proc/stat` that count as work: user, nice, system, interrupts, and time stolen by other guests."""


class Memory(NamedTuple):
    """Memory in bytes: resident on the host, allocated by torch on the device, and their peaks; None: not known.

    The host's is known on Linux only. The device has none where it is the CPU, and its peak lacks the driver's context.
    """

    host: int | None
    host_peak: int | None
    device: int | None
    device_peak: int | None


def read_memory(device: str) -> Memory:
    """Read the memory of this process; ``device`` is the one that the policy computes on, in torch's spelling."""
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


def other_cpu_seconds() -> float | None:
    """Return how long the cores have worked for other programs since the machine started; None: not known."""
    lines = _read("/proc/stat").splitlines()
    if not lines:
        return None
    ticks, own = [int(field) for field in lines[0].split()[1:]], os.times()
    return sum(ticks[column] for column in _WORK) / os.sysconf("SC_CLK_TCK") - own.user - own.system


def describe_machine() -> dict[str, Any]:
    """Return the processor, the number of cores that may be used, the system and the versions of packages."""
    model = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return {
        "cpu": model[1].strip() if model else platform.processor() or platform.machine(),
        # The affinity is what a container or taskset leaves of the cores.
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "packages": {name: importlib.metadata.version(name) for name in ("smolvla-gym", "torch", "lerobot")},
    }


def _read(path: str) -> str:
    return Path(path).read_text(errors="replace") if Path(path).is_file() else ""
