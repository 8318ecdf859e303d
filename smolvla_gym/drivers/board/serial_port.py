"""The serial line to the control board: finds it, opens it, carries bytes. Every failure is a ``DeviceError``."""

from __future__ import annotations

import contextlib
import errno
import select
import time
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, Final

from smolvla_gym.errors import DeviceError, MissingExtraError

_FAILURES: tuple[type[Exception], ...] = (OSError, ValueError)
try:
    import termios
except ImportError:  # Windows
    pass
else:
    _FAILURES += (termios.error,)  # It is no OSError.

USB_ID: Final = (0x0483, 0x5740)
"""Vendor and product of the control board's USB port. Other boards with the same chip share it."""

BAUD_RATE: Final = 3_000_000
"""Bits per s; without meaning where the line is USB all the way."""

WRITE_TIMEOUT: Final = 0.2
"""Time in s within which the device has to take written data. A frame needs 0.2 ms."""

_READ_SIZE: Final = 4096
_POLL: Final = 0.001
"""Time in s of a read where a port cannot be waited for: shorter than the driver waits for a reply."""

_PERMISSION_HINT: Final = (
    "run `sudo usermod -aG dialout $USER` and log in again, or add the udev rule "
    f'`SUBSYSTEM=="tty", ATTRS{{idVendor}}=="{USB_ID[0]:04x}", ATTRS{{idProduct}}=="{USB_ID[1]:04x}", MODE="0666"`'
)


class BoardFinder:
    """Finds one control board again and again: a board that was unplugged may come back under another name."""

    def __init__(self) -> None:
        """Prepare to look for any board."""
        self._url: str | None = None
        self._serial: str | None = None

    def find(self) -> str:
        """Return the name of the board's port, such as ``/dev/ttyACM0`` or ``COM5``.

        The first time it is that of the only board, later that of the same one.

        Raises:
            DeviceError: There is no board, another one than the first time, or several to choose from.
            MissingExtraError: pyserial is not installed.
        """
        _pyserial()
        from serial.tools import list_ports

        board = _board(list_ports.comports(), self._serial, self._url)
        self._url, self._serial = str(board.device), board.serial_number or None
        return self._url


def _board(ports: Iterable[Any], serial: str | None = None, url: str | None = None) -> Any:
    """Return the port of the control board.

    Args:
        ports: The serial ports that there are.
        serial: The board's USB serial number; None: any.
        url: The name that the port had; it decides between boards of the same serial number.

    Raises:
        DeviceError: There is none, or more than one.
    """
    ports = sorted(ports, key=lambda port: str(port.device))
    boards = [port for port in ports if (port.vid, port.pid) == USB_ID]
    same = [port for port in boards if serial in (None, port.serial_number)]
    if len(same) > 1 and url is not None:
        same = [port for port in same if str(port.device) == url] or same
    if len(same) == 1:
        return same[0]
    usb_id = f"{USB_ID[0]:04x}:{USB_ID[1]:04x}"
    if boards and not same:
        raise DeviceError(
            f"The PAROL6's control board has the USB serial number {serial}, and there is another one: "
            f"{_names(boards)}. Plug the arm in again, or make the env again to use the other one."
        )
    if boards:
        raise DeviceError(
            f"{len(boards)} serial ports have the USB id {usb_id} of the PAROL6's control board: {_names(boards)}. "
            f"Name the right one, such as port={boards[0].device!r}."
        )
    raise DeviceError(
        f"No PAROL6 was found: no serial port has the USB id {usb_id} of its control board. "
        f"Ports there are: {_names(ports) or 'none'}. Usual causes: the arm has no power; the USB cable is loose or "
        "only charges; under WSL2 the board is not passed on (`usbipd attach --wsl --busid ...` in Windows); "
        f"you have no permission to open the port ({_PERMISSION_HINT}). "
        'Another port can be named with port=; port="twin" works without an arm.'
    )


def _names(ports: Iterable[Any]) -> str:
    def name(port: Any) -> str:
        about = [str(text) for text in (port.description, port.serial_number) if text and text != "n/a"]
        return f"{port.device} ({', '.join(about)})" if about else str(port.device)

    return ", ".join(map(name, ports))


class SerialPort:
    """A serial port, held for this process alone.

    Attributes:
        url: What was opened.
    """

    def __init__(self, url: str, *, write_timeout: float = WRITE_TIMEOUT) -> None:
        """Open the port.

        Args:
            url: A device such as ``/dev/ttyACM0`` or ``COM5``, a pseudo-terminal, or a pyserial URL such as
                ``socket://127.0.0.1:5000``.
            write_timeout: Time in s within which the device has to take written data.

        Raises:
            DeviceError: It is not there, in use, not permitted or no serial port.
            MissingExtraError: pyserial is not installed.
        """
        self.url = url
        serial = _pyserial()
        try:
            self._serial = serial.serial_for_url(
                url, baudrate=BAUD_RATE, exclusive=True, timeout=0, write_timeout=write_timeout
            )
        except _FAILURES as error:
            raise DeviceError(_why_not_open(url, error)) from error
        try:
            self._serial.fileno()
            self._selectable = True
        except OSError:
            # Windows: pyserial's own timeout has to do. It is set only now, as each change configures the port anew.
            self._selectable = False
            self._serial.timeout = _POLL

    def write(self, data: bytes) -> None:
        """Send bytes in one write.

        Raises:
            DeviceError: The device is lost, or takes no data in time.
        """
        with self._failures():
            self._serial.write(data)

    def read(self, timeout: float) -> bytes:
        """Return what has arrived; empty where nothing came.

        Args:
            timeout: How long to wait for the first byte, in s.

        Raises:
            DeviceError: The device is lost.
        """
        with self._failures():
            if self._selectable:
                ready = select.select([self._serial], [], [], max(0.0, timeout))[0]
                return bytes(self._serial.read(_READ_SIZE)) if ready else b""
            if timeout <= 0.0 and not self._serial.in_waiting:
                return b""
            deadline = time.monotonic() + timeout
            while not (data := self._serial.read(1)) and time.monotonic() < deadline:
                pass
            return bytes(data + self._serial.read(self._serial.in_waiting))

    def close(self) -> None:
        """Close the port; may be called again, and on a lost device."""
        with contextlib.suppress(*_FAILURES):
            self._serial.close()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        if not self._serial.is_open:
            raise DeviceError(f"The port {self.url!r} was closed.")
        try:
            yield
        except _pyserial().SerialTimeoutException as error:
            raise DeviceError(
                f"The device on {self.url!r} has taken no data for {self._serial.write_timeout} s: it hangs, or is no "
                "PAROL6."
            ) from error
        except _FAILURES as error:
            raise DeviceError(
                f"The device on {self.url!r} was lost ({error}). Is it powered, and the cable plugged in?"
            ) from error


def _pyserial() -> ModuleType:
    try:
        import serial
    except ImportError as error:
        raise MissingExtraError("A PAROL6 on a serial port", "real", error) from error
    module: ModuleType = serial
    return module


def _why_not_open(url: str, error: Exception) -> str:
    match _code(error):
        case errno.ENOENT | errno.ENODEV | errno.ENXIO | errno.EIO | errno.ECONNREFUSED | errno.EHOSTUNREACH:
            return f"The port {url!r} is not there ({error}). Is the device plugged in and powered?"
        case errno.EAGAIN | errno.EBUSY:
            return f"The port {url!r} is busy: another program holds it. Close that program and try again."
        case errno.EACCES | errno.EPERM:
            return f"You have no permission to open the port {url!r}: {_PERMISSION_HINT}."
        case errno.ENOTTY | errno.EISDIR:
            return f"{url!r} is not a serial port ({error})."
        case _:
            return f"The port {url!r} cannot be opened: {error}."


def _code(error: Exception) -> int | None:
    # pyserial passes the number on in some cases, in others only the error that it met has it.
    for met in (error, error.__context__):
        if met is not None and met.args and isinstance(met.args[0], int):
            return met.args[0]
    # On Windows there is only its text, and a port in use is one that access is denied to.
    windows = {"FileNotFoundError": errno.ENOENT, "PermissionError": errno.EBUSY}
    return next((code for name, code in windows.items() if name in str(error)), None)
