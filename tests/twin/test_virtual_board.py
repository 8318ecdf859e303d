"""The virtual board behind a real pseudo-terminal, talked to by the real pyserial."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from smolvla_gym.drivers.board.serial_port import SerialPort
from smolvla_gym.errors import OptionError, UnknownNameError
from smolvla_gym.parol6 import STANDBY, STEPS_PER_RAD
from smolvla_gym.parol6.protocol import STATE_LENGTH, Command, CommandFrame, StateFrame
from smolvla_gym.twin.faults import NAMES, Faults
from smolvla_gym.twin.firmware import Firmware
from smolvla_gym.twin.lockstep import LockstepPort
from smolvla_gym.twin.virtual_board import VirtualBoard

serial = pytest.importorskip("serial")

TIMEOUT = 5.0
"""Seconds that an answer may take on a busy machine."""

IDLE = CommandFrame(Command.IDLE).pack()


@pytest.fixture
def board():
    firmware = Firmware(STANDBY * STEPS_PER_RAD)
    then = time.monotonic()

    def advance(moment):
        nonlocal then
        firmware.advance(moment - then)
        then = moment

    with VirtualBoard(firmware, Faults(), advance) as board:
        board.start()
        yield board


@pytest.fixture
def client(board):
    with serial.Serial(board.path, 3_000_000, timeout=TIMEOUT, write_timeout=TIMEOUT, exclusive=True) as client:
        yield client


def ask(client, frame: bytes = IDLE) -> bytes:
    client.write(frame)
    return client.read(STATE_LENGTH)


def test_a_sound_board_answers(client):
    for command in (Command.IDLE, Command.DISABLE, Command.ENABLE):
        assert StateFrame.unpack(ask(client, CommandFrame(command).pack())).command == command
    client.timeout = 0.03
    assert client.read(1) == b""  # nothing unasked


def test_time_passes_while_no_bytes_come(board, client):
    ask(client, CommandFrame(Command.JOG, speed=(10_000, 0, 0, 0, 0, 0)).pack())
    time.sleep(0.1)
    with board.lock:
        assert board.firmware.counters[0] > 800


def test_the_port_can_be_opened_again_and_only_once_at_a_time(board, client):
    with pytest.raises(serial.SerialException):
        serial.Serial(board.path, 3_000_000, exclusive=True)
    client.close()
    with serial.Serial(board.path, 3_000_000, timeout=TIMEOUT, exclusive=True) as again:
        assert len(ask(again)) == STATE_LENGTH


def test_without_its_thread_it_can_be_served_in_simulated_time():
    now, firmware = [0.0], Firmware(np.zeros(6))
    board = VirtualBoard(firmware, Faults(delay_s=0.02), lambda moment: firmware.advance(0.01), now=lambda: now[0])
    with board, serial.Serial(board.path, 3_000_000, timeout=0) as client:
        assert not board.service()
        client.write(IDLE)
        assert board.service(TIMEOUT)
        assert client.read(STATE_LENGTH) == b""
        now[0] = 0.02
        assert not board.service()
        client.timeout = TIMEOUT
        assert StateFrame.unpack(client.read(STATE_LENGTH)).timing == round(0.02 * 703_125)


class BusyLine(SerialPort):
    """A line of a computer that takes a moment to hand the bytes on."""

    def read(self, timeout: float) -> bytes:
        return super().read(timeout) if timeout > 0.0 else b""


class BusyPort(LockstepPort, BusyLine):
    """A port on such a line."""


def test_in_lockstep_every_answer_is_read_when_it_was_sent():
    with VirtualBoard(Firmware(np.zeros(6)), Faults(), lambda moment: None, now=lambda: 0.0) as board:
        port = BusyPort(board)
        for _ in range(100):
            port.write(IDLE * 2)
            assert len(port.read(0.0)) == 2 * STATE_LENGTH
            assert port.read(0.0) == b""
        port.close()


# -- faults --------------------------------------------------------------------------------------------------------


def test_silence(board, client):
    board.faults.silence = True
    client.timeout = 0.1
    assert ask(client) == b""
    board.faults.silence = False
    client.timeout = TIMEOUT
    assert len(ask(client)) == STATE_LENGTH


@pytest.mark.realtime
def test_partial(board, client):
    board.faults.partial = True
    client.timeout = 0.1
    assert len(ask(client)) == 20


def test_drip():
    now, firmware = [0.0], Firmware(np.zeros(6))
    board = VirtualBoard(firmware, Faults(drip=True), lambda moment: None, now=lambda: now[0])
    with board, serial.Serial(board.path, 3_000_000, timeout=TIMEOUT) as client:
        client.write(IDLE)
        pieces = []
        for _ in range(5):
            board.service(0.002)
            pieces.append(client.read(12))
            assert client.in_waiting == 0
            now[0] += 0.0021
    assert len(StateFrame.unpack(b"".join(pieces)).position) == 6


def test_corrupt(board, client):
    sound = ask(client)
    board.faults.corrupt = True
    places = set()
    for _ in range(20):
        answer = ask(client)
        # The two bytes of the timing differ anyway.
        places |= {i for i in range(STATE_LENGTH) if answer[i] != sound[i] and i not in (44, 45)}
    assert len(places) >= 5


def test_wrong_length(board, client):
    board.faults.wrong_length = True
    with pytest.raises(ValueError, match="length"):
        StateFrame.unpack(ask(client))


def test_delay(board, client):
    board.faults.delay_s = 0.05
    begun = time.monotonic()
    assert len(ask(client)) == STATE_LENGTH
    assert time.monotonic() - begun >= 0.05


def test_delayed_answers_keep_their_order_when_the_delay_ends(board, client):
    board.faults.delay_s = 0.05
    client.write(CommandFrame(Command.CLEAR).pack())
    time.sleep(0.02)
    board.faults.delay_s = 0.0
    assert StateFrame.unpack(ask(client)).command == Command.CLEAR
    assert StateFrame.unpack(client.read(STATE_LENGTH)).command == Command.IDLE


def test_estop(board, client):
    assert not StateFrame.unpack(ask(client)).estop_pressed
    board.faults.set("estop", True)
    assert StateFrame.unpack(ask(client)).estop_pressed
    board.faults.set("estop", False)
    assert not StateFrame.unpack(ask(client)).estop_pressed


def test_lost_homing(board, client):
    with board.lock:
        board.firmware.receive(CommandFrame(Command.HOME).pack())
        board.firmware.advance(40.0)
        board.firmware.receive(IDLE)
        board.firmware.advance(60.0)
    assert StateFrame.unpack(ask(client)).all_homed
    board.faults.lost_homing = True
    assert not any(StateFrame.unpack(ask(client)).is_homed)
    assert not board.faults.lost_homing


# -- the cable -----------------------------------------------------------------------------------------------------


def test_unplugged_the_client_sees_a_hang_up_and_the_port_is_gone(board, client):
    ask(client)
    client.timeout = 2.0
    puller = threading.Timer(0.05, board.unplug)
    puller.start()
    with pytest.raises(serial.SerialException):
        client.read(1)
    puller.join()
    with pytest.raises((serial.SerialException, OSError)):
        client.write(IDLE)
    with pytest.raises(serial.SerialException):
        serial.Serial(board.path, 3_000_000)


def test_replugged_it_is_at_the_same_path_and_kept_its_power(board, client):
    ask(client, CommandFrame(Command.JOG, speed=(10_000, 0, 0, 0, 0, 0)).pack())
    path = board.path
    for _ in range(5):
        board.unplug()
        assert not Path(path).exists()
        board.replug()
        assert board.path == path
        with serial.Serial(path, 3_000_000, timeout=TIMEOUT, exclusive=True) as again:
            reply = StateFrame.unpack(ask(again))
    assert reply.position[0] > 0


def test_the_cable_can_be_pulled_by_the_fault(board, client):
    board.faults.unplugged = True
    client.timeout = 2.0
    with pytest.raises(serial.SerialException):
        client.read(1)
    board.faults.unplugged = False
    for _ in range(200):
        if board.plugged:
            break
        time.sleep(0.005)
    with serial.Serial(board.path, 3_000_000, timeout=TIMEOUT) as again:
        assert len(ask(again)) == STATE_LENGTH


@pytest.mark.parametrize("started", [True, False])
def test_closing_leaves_nothing_behind(started):
    firmware = Firmware(np.zeros(6))
    board = VirtualBoard(firmware, Faults(), lambda moment: None)
    if started:
        board.start()
    folder = Path(board.path).parent
    board.close()
    board.close()
    assert not folder.exists()
    assert not board.plugged
    assert "virtual-board" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_world_that_breaks_does_not_block_the_cable():
    def advance(moment):
        raise RuntimeError("the world broke")

    with VirtualBoard(Firmware(np.zeros(6)), Faults(), advance) as board:
        board.start()
        time.sleep(0.05)
        board.unplug()
        assert not board.plugged


# -- the switches by name ------------------------------------------------------------------------------------------


def test_faults_by_name():
    faults = Faults(seed=3)
    for name in NAMES:
        faults.set(name, 0.5 if name in ("delay_s", "camera_fps") else True)
    assert faults == Faults(*[True] * 5, 0.5, *[True] * 5, 0.5, True, True, seed=3)
    faults.clear()
    assert faults == Faults(seed=3)


@pytest.mark.parametrize(("name", "value"), [("estop", 1.0), ("delay_s", True), ("delay_s", -1.0), ("camera_fps", 0)])
def test_faults_refuse_what_they_cannot_be(name, value):
    with pytest.raises(OptionError):
        Faults().set(name, value)


def test_an_unknown_fault_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="estop"):
        Faults().set("e_stop", True)


def test_packets_that_had_to_wait_are_taken_one_after_the_other():
    firmware, now, moments = Firmware(np.zeros(6)), [0.0], []
    board = VirtualBoard(firmware, Faults(), moments.append, now=lambda: now[0])
    with board, serial.Serial(board.path, timeout=1) as port:
        for step in range(4):
            port.write(CommandFrame(Command.IDLE, position=(step, 0, 0, 0, 0, 0)).pack())
        now[0] = 0.04
        time.sleep(0.05)  # until they are through the pseudo-terminal
        board.service()
        assert len(port.read(4 * 60)) == 4 * 60
    assert moments == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.04])
