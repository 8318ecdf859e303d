"""How much memory this process holds, on the host and on the device that it computes on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_STATUS: Final = Path("/proc/self/status")


@dataclass(frozen=True)
class Memory:
    """Memory of this process in bytes; None where nobody can tell.

    Attributes:
        host: What is resident now; on Linux only.
        host_peak: The most that was since the process began; on Linux only.
        device: What torch has handed out on the device now; None on the CPU.
        device_peak: The most that torch has taken from the device, without the context of its driver.
    """

    host: int | None
    host_peak: int | None
    device: int | None
    device_peak: int | None


def read_memory(device: str) -> Memory:
    """Reads the present state.

    Args:
        device: In torch's spelling.
    """
    import torch

    present, peak = None, None
    if device.startswith("cuda"):
        present, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_reserved(device)
    elif device.startswith("mps"):
        # Apple's driver gives back little, so what it holds is nearly its peak.
        present, peak = torch.mps.current_allocated_memory(), torch.mps.driver_allocated_memory()
    # getrusage would do elsewhere, but after a fork it begins with the peak of the parent.
    text = _STATUS.read_text() if _STATUS.is_file() else ""
    return Memory(_kilobytes(text, "VmRSS"), _kilobytes(text, "VmHWM"), present, peak)


def _kilobytes(text: str, name: str) -> int | None:
    found = re.search(rf"^{name}:\s*(\d+) kB$", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else None
