"""The serial line over pseudo-terminals and loopback sockets: bytes pass, and every failure says what it is."""

import os
import socket
import threading
import time
import tty

import pytest

from smolvla_gym.drivers.board.serial_port import WRITE_TIMEOUT, BoardFinder, SerialPort, _board
from smolvla_gym.errors import DeviceError
from smolvla_gym.parol6.protocol import COMMAND_LENGTH, Command, CommandFrame, CommandParser

list_ports = pytest.importorskip("serial.tools.list_ports")
linux = pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")


class Pty:
    """The far end of a pseudo-terminal."""

    def __init__(self):
        self.master, self.slave = os.openpty()
        tty.setraw(self.master)
        self.name = os.ttyname(self.slave)

    def unplug(self):
        if self.master is not None:
            os.close(self.slave)
            os.close(self.master)
            self.master = None


@pytest.fixture
def pty():
    end = Pty()
    yield end
    end.unplug()


@pytest.fixture
def port(pty):
    line = SerialPort(pty.name)
    yield line
    line.close()


@linux
def test_bytes_pass_both_ways(pty, port):
    assert port.url == pty.name
    data = bytes(range(256))
    port.write(data)
    assert os.read(pty.master, 1000) == data
    os.write(pty.master, data)
    assert port.read(1.0) == data


@pytest.mark.realtime
@linux
def test_a_read_waits_for_the_first_byte_only(pty, port):
    began = time.monotonic()
    assert port.read(0.1) == b""
    assert 0.09 < time.monotonic() - began < 0.5
    assert port.read(0.0) == port.read(-1.0) == b""
    threading.Timer(0.05, os.write, (pty.master, b"abc")).start()
    began = time.monotonic()
    assert port.read(5.0) == b"abc"
    assert time.monotonic() - began < 1.0


@linux
def test_waiting_costs_no_processor_time(port):
    began = time.process_time()
    port.read(0.3)
    assert time.process_time() - began < 0.05


@linux
def test_frames_cross_the_line_whole(pty, port):
    frames = [CommandFrame(Command.JOG, speed=(-1, i, -i, -256, 255, -1)) for i in range(50)]
    parser, found = CommandParser(), []
    for frame in frames:
        port.write(frame.pack())
        found += parser.feed(os.read(pty.master, 4 * COMMAND_LENGTH))
    assert found == frames
    assert parser.dropped == 0


@linux
def test_a_second_program_is_refused(pty, port):
    with pytest.raises(DeviceError, match=f"'{pty.name}' is busy: another program holds it") as caught:
        SerialPort(pty.name)
    assert caught.value.__cause__ is not None
    port.close()
    SerialPort(pty.name).close()


@linux
def test_a_closed_port_says_so_and_closes_again(port):
    port.close()
    port.close()
    for use in (lambda: port.write(b"x"), lambda: port.read(0.1)):
        with pytest.raises(DeviceError, match="was closed"):
            use()


@linux
def test_an_unplugged_device_is_lost(pty, port):
    pty.unplug()
    for use in (lambda: port.write(b"x"), lambda: port.read(1.0)):
        began = time.monotonic()
        with pytest.raises(DeviceError, match=f"'{port.url}' was lost") as caught:
            use()
        assert caught.value.__cause__ is not None
        assert time.monotonic() - began < 0.5
    port.close()


@linux
def test_unplugging_ends_a_waiting_read(pty, port):
    threading.Timer(0.05, pty.unplug).start()
    began = time.monotonic()
    with pytest.raises(DeviceError, match="was lost"):
        port.read(10.0)
    assert time.monotonic() - began < 2.0


@pytest.mark.realtime
@linux
def test_a_device_that_does_not_read_is_noticed_in_time(port):
    with pytest.raises(DeviceError, match="has taken no data"):  # noqa: PT012
        for _ in range(10_000):
            began = time.monotonic()
            port.write(bytes(COMMAND_LENGTH))
    assert time.monotonic() - began < WRITE_TIMEOUT + 0.5


def test_a_port_that_is_not_there():
    for name in ("/dev/ttyACM987", "COM987"):
        with pytest.raises(DeviceError, match=f"'{name}' is not there"):
            SerialPort(name)


@linux
def test_what_is_no_serial_port(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(DeviceError, match="is not a serial port"):
            SerialPort(str(path))
    assert (tmp_path / "file").read_bytes() == b"abc"
    for url in ("", "nonsense://x", "socket://", "a\0b"):
        with pytest.raises(DeviceError):
            SerialPort(url)


@linux
def test_a_port_without_permission(pty):
    os.chmod(pty.name, 0)
    user = os.geteuid()
    if user == 0:  # Root may open everything.
        os.seteuid(65534)
    try:
        with pytest.raises(DeviceError, match=r"usermod -aG dialout \$USER"):
            SerialPort(pty.name)
    finally:
        os.seteuid(user)


def test_a_socket_instead_of_a_serial_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"socket://127.0.0.1:{server.getsockname()[1]}"
        port = SerialPort(url)
        peer, _ = server.accept()
    with peer:
        assert port.url == url
        port.write(b"to the board")
        assert peer.recv(100) == b"to the board"
        peer.sendall(b"from the board")
        assert port.read(1.0) == b"from the board"
        assert port.read(0.01) == b""
    with pytest.raises(DeviceError, match="was lost"):
        port.read(1.0)
    port.close()
    with pytest.raises(DeviceError, match="was closed"):
        port.read(1.0)
    with pytest.raises(DeviceError, match=f"'{url}' is not there"):
        SerialPort(url)


def test_a_line_that_cannot_be_selected_on_as_under_windows():
    port = SerialPort("loop://")
    began = time.monotonic()
    assert port.read(0.05) == b""
    assert time.monotonic() - began < 0.5
    port.write(bytes(range(100)))
    assert port.read(1.0) == bytes(range(100))
    port.close()


def test_the_board_is_found_among_other_ports():
    from serial.tools.list_ports_common import ListPortInfo

    def port_of(device, usb_id, about):
        info = ListPortInfo(device)
        (info.vid, info.pid), info.description = usb_id, about
        return info

    other = port_of("/dev/ttyUSB0", (0x1A86, 0x7523), "USB Serial")
    plain = port_of("/dev/ttyS0", (None, None), "n/a")
    boards = [port_of(f"/dev/ttyACM{i}", (0x0483, 0x5740), "STM32 Virtual ComPort") for i in (3, 1)]
    assert _board([other, boards[0], plain]).device == "/dev/ttyACM3"

    with pytest.raises(DeviceError) as several:
        _board([*boards, other])
    text = str(several.value)
    assert "2 serial ports" in text
    assert "0483:5740" in text
    assert "/dev/ttyACM1 (STM32 Virtual ComPort), /dev/ttyACM3" in text
    assert "port='/dev/ttyACM1'" in text
    assert "ttyUSB0" not in text

    with pytest.raises(DeviceError) as none:
        _board([other, plain])
    for part in ("0483:5740", "/dev/ttyS0, /dev/ttyUSB0 (USB Serial)", "power", "cable", "usbipd", "dialout", '"twin"'):
        assert part in str(none.value)


def test_without_a_board_the_message_says_what_to_do():
    if any((port.vid, port.pid) == (0x0483, 0x5740) for port in list_ports.comports()):
        pytest.skip("a board is plugged in")
    with pytest.raises(DeviceError, match=r'0483:5740.*port="twin" works without an arm'):
        BoardFinder().find()
