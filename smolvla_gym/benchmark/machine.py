"""What a measurement was made on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any, Final

_CPUINFO: Final = Path("/proc/cpuinfo")
_PACKAGES: Final = ("smolvla-gym", "torch", "lerobot", "transformers")


def describe_machine() -> dict[str, Any]:
    """Returns processor, number of cores that may be used, system and versions."""
    text = _CPUINFO.read_text(errors="replace") if _CPUINFO.is_file() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    # Affinity is what a container or taskset leaves of the cores.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": named[1].strip() if named else platform.processor() or platform.machine(),
        "cores": cores,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
