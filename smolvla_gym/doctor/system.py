"""Checks of Python, the packages, the disk and the operating system."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from smolvla_gym.doctor.finding import Finding, fail, ok, warning

EXTRAS: Final[Mapping[str, tuple[str, ...]]] = {
    "smolvla": ("torch", "lerobot", "transformers", "matplotlib"),
    "real": ("serial", "pyrealsense2"),
    "train": ("accelerate", "datasets"),
    "remote": ("websockets", "msgpack"),
    "teleop": ("pygame",),
    "cameras": ("cv2",),
    "calibration": ("cv2", "scipy"),
    "table": ("trimesh", "vhacdx"),
    "onnx": ("onnxruntime", "tokenizers"),
    "onnx-export": ("onnx", "onnxscript"),
    "ros2": ("cyclonedds",),
    "rerun": ("rerun",),
    "mcap": ("mcap_ros2",),
    "ray": ("ray",),
    "view": ("viser", "trimesh"),
}
"""Modules of each extra."""

_DISTRIBUTIONS: Final = {
    "cv2": "opencv-python-headless",
    "serial": "pyserial",
    "pygame": "pygame-ce",
    "rerun": "rerun-sdk",
    "mcap_ros2": "mcap-ros2-support",
}
"""Distributions whose name differs from that of their module."""

_LOW_DISK_GB: Final = 10.0
"""Space in GB to install everything (6 GB) and to record something."""


def check_python() -> list[Finding]:
    """Check the version of the interpreter."""
    text = f"{platform.python_version()} on {platform.system()} {platform.release()} ({platform.machine()})"
    if not (3, 12) <= sys.version_info[:2] < (3, 14):
        return [fail("Python", text, "Use Python 3.12 or 3.13: `uv venv --python 3.12`.")]
    return [ok("Python", text)]


def check_packages() -> list[Finding]:
    """Check which extras are installed, without importing them."""
    findings = []
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if extra == "real" and platform.system() == "Darwin":  # has no wheel
            missing = [name for name in missing if name != "pyrealsense2"]
        name = f"extra {extra}"
        if not missing:
            findings.append(ok(name, "installed" + _version_of(modules)))
        else:
            text = f"not installed: {', '.join(missing)}"
            findings.append(warning(name, text, f"in the clone: pip install '.[{extra}]'"))
    return findings


def _version_of(modules: tuple[str, ...]) -> str:
    versions = []
    for name in modules:
        distribution = _DISTRIBUTIONS.get(name, name)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{distribution} {importlib.metadata.version(distribution)}")
    return f" ({', '.join(versions)})" if versions else ""


def check_disk(folder: Path | None = None) -> list[Finding]:
    """Check the free space of the disk.

    Args:
        folder: Folder for results; None: the present folder.
    """
    try:
        folder = folder or Path.cwd()
    except FileNotFoundError:
        return [fail("disk", "the present folder has been deleted", "Change to another folder.")]
    usage = shutil.disk_usage(folder)
    text = f"{usage.free / 1e9:.0f} GB free of {usage.total / 1e9:.0f} GB in {folder}"
    if not os.access(folder, os.W_OK):
        return [
            fail("disk", f"{folder} cannot be written to", "Change to a folder that you own, or give --out and --root.")
        ]
    if usage.free < _LOW_DISK_GB * 1e9:
        return [
            warning("disk", text, "Make room: a minute of demonstrations takes about 10 MB, a checkpoint 1 to 2 GB.")
        ]
    return [ok("disk", text)]


def is_wsl(release: str | None = None) -> bool:
    """Return whether this is the Windows Subsystem for Linux.

    Args:
        release: Output of ``uname -r``; None: that of this machine.
    """
    return "microsoft" in (platform.release() if release is None else release).lower()


def check_wsl(release: str | None = None) -> list[Finding]:
    """Check for devices that WSL2 lacks; elsewhere there are no findings.

    Args:
        release: Output of ``uname -r``; None: that of this machine.
    """
    if not is_wsl(release):
        return []
    findings = [
        warning(
            "WSL2 camera",
            "the stock kernel has no driver for cameras, so that a D405 is not found",
            "Serve the camera from Windows with `smolvla-gym cameras serve` (docs/how-to/cameras.md), or run the arm "
            "under native Linux or Windows. Simulation, twin and training work here.",
        )
    ]
    if not list(Path("/dev").glob("ttyACM*")):
        findings.append(
            warning(
                "WSL2 serial port",
                "no USB serial port was passed on to Linux",
                "In Windows, as administrator: `usbipd list`, `usbipd bind --busid ...`, then "
                "`usbipd attach --wsl --busid ...`.",
            )
        )
    if not Path("/dev/dxg").exists():
        findings.append(
            warning("WSL2 GPU", "/dev/dxg is missing", "Update WSL (`wsl --update`) and the GPU's driver in Windows.")
        )
    return findings


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver, or None if there is none."""
    path = Path("/proc/driver/nvidia/version")
    if path.is_file():
        found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", path.read_text(errors="replace"))
        if found:
            return found[1]
    return None
