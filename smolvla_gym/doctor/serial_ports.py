"""Check of the serial ports and of the right to open them."""

from __future__ import annotations

import os
import platform
from typing import Any

from smolvla_gym.doctor.finding import Finding, fail, ok, warning


def check_serial_ports(ports: list[Any] | None = None) -> list[Finding]:
    """Check for the arm's control board; no port is opened.

    Args:
        ports: Ports as pyserial lists them; None: those of this machine.
    """
    if ports is None:
        try:
            from serial.tools.list_ports import comports
        except ImportError:
            return []  # the check of the packages reports it
        ports = list(comports())
    from smolvla_gym.drivers.board.serial_port import USB_ID

    boards = [port for port in ports if (port.vid, port.pid) == USB_ID]
    others = sorted(str(port.device) for port in ports if port not in boards)
    findings = [_board(str(port.device)) for port in boards]
    if not boards:
        known = f"; other ports: {', '.join(others)}" if others else ""
        usb_id = f"{USB_ID[0]:04x}:{USB_ID[1]:04x}"
        remedy = 'Power the arm and plug in its USB cable. port="twin" works without an arm.'
        findings.append(warning("arm", f"no control board (USB {usb_id}){known}", remedy))
    return findings


def _board(device: str) -> Finding:
    if platform.system() != "Windows" and not os.access(device, os.R_OK | os.W_OK):
        rule = "Install the udev rule of docs/how-to/first-power-up.md"
        remedy = f"{rule}, or: sudo usermod -aG dialout $USER, then log in again."
        return fail("arm", f"{device} is the control board, and this user may not open it", remedy)
    return ok("arm", f"control board on {device}")
