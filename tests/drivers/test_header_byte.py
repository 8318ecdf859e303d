"""Three FF begin a frame: the driver sends them nowhere else, so that a board that lost its place finds it again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolvla_gym.drivers.board.state import Mode
from smolvla_gym.parol6 import STEPS_PER_RAD
from smolvla_gym.parol6.protocol import (
    COMMAND_LENGTH,
    HEADER,
    Command,
    CommandFrame,
    GripperCommand,
    StateFrame,
    avoid_header_byte,
)
from smolvla_gym.twin.firmware import Firmware
from tests.drivers.rig import Rig

COUNTS = st.one_of(st.integers(-(1 << 23), (1 << 23) - 1), st.sampled_from([-1, -200, -256, 0xFF, 0xFFFF, -65537, 0]))
STEPS = st.tuples(*[COUNTS] * 6)
COMMANDS = (Command.DISABLE, Command.ENABLE, Command.MOVE, Command.HOME, Command.IDLE)

LOST = 6
"""Frames that a board may take to find its place: an FF too many makes it swallow 255 bytes."""


@pytest.fixture(scope="module")
def rig():
    rig = Rig().ready()
    yield rig
    rig.close()


@settings(deadline=None)
@given(command=st.sampled_from(COMMANDS), reported=STEPS, joints=STEPS, velocity=STEPS, opening=st.floats(0.0, 1.0))
def test_no_frame_that_is_sent_has_a_mark_inside(rig, command, reported, joints, velocity, opening):
    rig.board._exchange.reply = StateFrame(position=reported)
    move, wanted = (), reported + (0,) * 6
    part = rig.board._gripper.part(opening if command is Command.MOVE else None)
    if command is Command.MOVE:
        move = np.array(joints) / STEPS_PER_RAD, np.array(velocity) / STEPS_PER_RAD
        wanted = joints + velocity
    rig.board._exchange.send(command, rig.now, *part, *move)
    frame = rig.frames[-1][1]
    assert frame.command == command
    assert HEADER not in frame.pack()[1:]
    assert max(abs(np.subtract(frame.position + frame.speed, wanted))) <= 1


def test_a_count_keeps_its_place_but_for_a_step():
    for count in (-(1 << 23), -258, -256, -2, 0, 1, 254, 256, 1 << 22):
        assert avoid_header_byte(count) == count
    for count in (-65537, -257, -1, 255, 0xFFFF, (1 << 23) - 1):
        assert avoid_header_byte(count) == count - 1


def frame(counts: tuple[int, ...], command: int = Command.MOVE) -> bytes:
    gripper = GripperCommand(255, 139, 500, 0xC0)
    return CommandFrame(command, counts[:6], counts[6:], gripper=gripper).pack()


FRAMES = st.lists(st.tuples(*[COUNTS] * 12), min_size=1, max_size=3)


@settings(deadline=None)
@given(FRAMES, st.integers(0, COMMAND_LENGTH - 1), st.integers(0, COMMAND_LENGTH))
def test_a_board_finds_its_place_after_a_frame_that_was_cut_off(setpoints, begin, end):
    """Whatever part of a frame got lost or came alone."""
    frames = [frame(tuple(map(avoid_header_byte, counts))) for counts in setpoints]
    firmware = Firmware(np.zeros(6))
    firmware.receive(frames[0][min(begin, end) : end])
    answered = [len(firmware.receive(frames[k % len(frames)])) for k in range(LOST + 5)]
    assert answered[LOST:] == [1] * 5


def test_a_mark_inside_would_make_the_board_deaf():
    bad = frame((0,) * 10 + (-1, 0))
    firmware = Firmware(np.zeros(6))
    firmware.receive(bad[:30])
    assert not any(firmware.receive(bad) for _ in range(1000))


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 20, 40, 54, 55])
def test_a_cable_that_is_pulled_within_a_frame(make_rig, cut):
    rig = make_rig().ready().move()
    rig.firmware.receive(rig.frames[-1][1].pack()[:cut])
    rig.virtual.unplug()
    rig.run(0.5)
    assert rig.state.mode is Mode.LOST
    rig.virtual.replug()
    accepted, obey = [], rig.firmware._accept
    rig.firmware._accept = lambda packet: accepted.append(packet.command) or obey(packet)
    rig.board.clear(rig.now)
    rig.run(0.1)
    assert rig.state.time == pytest.approx(rig.now - 0.01)
    assert set(accepted) == {Command.DISABLE}  # nothing was made of the two halves
