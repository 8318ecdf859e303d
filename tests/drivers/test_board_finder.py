"""A board that was unplugged is found again, and no other one is taken for it."""

from types import SimpleNamespace

import pytest

from smolvla_gym.drivers.board.serial_port import USB_ID, BoardFinder
from smolvla_gym.errors import DeviceError

list_ports = pytest.importorskip("serial.tools.list_ports")


@pytest.fixture
def plug(monkeypatch):
    """Plugs boards in: names of their ports and serial numbers."""

    def plugged(**boards):
        ports = [
            SimpleNamespace(
                device=f"/dev/{name}", vid=USB_ID[0], pid=USB_ID[1], description="PAROL6", serial_number=serial
            )
            for name, serial in boards.items()
        ]  # fmt: skip
        monkeypatch.setattr(list_ports, "comports", lambda: ports)

    return plugged


def test_the_same_board_under_another_name(plug):
    plug(ttyACM0="A")
    finder = BoardFinder()
    assert finder.find() == "/dev/ttyACM0"
    plug(ttyACM1="A")
    assert finder.find() == "/dev/ttyACM1"
    plug(ttyACM0="B", ttyACM1="C", ttyACM2="A")
    assert finder.find() == "/dev/ttyACM2"


def test_another_board_is_refused(plug):
    plug(ttyACM0="A")
    finder = BoardFinder()
    finder.find()
    plug(ttyACM0="B")
    with pytest.raises(DeviceError, match=r"serial number A.*/dev/ttyACM0 \(PAROL6, B\)"):
        finder.find()
    plug()
    with pytest.raises(DeviceError, match="No PAROL6 was found"):
        finder.find()


def test_boards_of_one_serial_number_are_distinguished_by_name(plug):
    plug(ttyACM1="0")
    finder = BoardFinder()
    finder.find()
    plug(ttyACM0="0", ttyACM1="0")
    assert finder.find() == "/dev/ttyACM1"
    plug(ttyACM0="0", ttyACM2="0")
    with pytest.raises(DeviceError, match="2 serial ports"):
        finder.find()


def test_a_board_without_a_serial_number_is_the_only_one(plug):
    plug(ttyACM0=None)
    finder = BoardFinder()
    finder.find()
    plug(ttyACM3=None)
    assert finder.find() == "/dev/ttyACM3"
