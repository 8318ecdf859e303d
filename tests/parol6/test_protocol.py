"""Frames match the documented bytes, and the parsers find them among any other bytes."""

import random
import time
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolvla_gym.parol6.protocol import (
    COMMAND_LENGTH,
    HEADER,
    STATE_LENGTH,
    Command,
    CommandFrame,
    CommandParser,
    GripperCommand,
    GripperFlag,
    GripperObject,
    GripperStatus,
    Line,
    StateFrame,
    StateParser,
    wrap24,
)

STANDBY = (10240, -32000, 57905, 0, 0, 32000)
STANDBY_BYTES = "002800 FF8300 00E231 000000 000000 007D00"
HOMED = StateFrame(position=STANDBY, homed=0xFF, timing=7031)

# The worked examples of the protocol: what is packed, and the bytes of it.
COMMANDS = {
    "idle": (
        CommandFrame(Command.IDLE, position=STANDBY),
        f"FFFFFF34 {STANDBY_BYTES} {'00' * 18} FF000000 {'00' * 9} E40102",
    ),
    "home": (CommandFrame(Command.HOME), f"FFFFFF34 {'00' * 36} 64000000 {'00' * 9} E40102"),
    "move": (
        CommandFrame(Command.MOVE, position=(0, *STANDBY[1:]), lines=Line.OUT1),
        f"FFFFFF34 000000 FF8300 00E231 000000 000000 007D00 {'00' * 18} 9C002000 {'00' * 9} E40102",
    ),
    "jog": (
        CommandFrame(Command.JOG, position=STANDBY, speed=(1500, -3000, 0, 0, 0, 0)),
        f"FFFFFF34 {STANDBY_BYTES} 0005DC FFF448 {'00' * 12} 7B000000 {'00' * 9} E40102",
    ),
    "grip": (
        CommandFrame(
            Command.MOVE,
            position=STANDBY,
            gripper=GripperCommand(255, 128, 500, GripperFlag.ACTIVATE | GripperFlag.GO_TO),
        ),
        f"FFFFFF34 {STANDBY_BYTES} {'00' * 18} 9C000000 00FF 0080 01F4 C00000 E40102",
    ),
}
GRIPPER_BYTES = "00 0000 0001 0002 01 01"
STATES = {
    "powered up": (StateFrame(timing=7031), f"FFFFFF38 {'00' * 36} 030F0303 1B77 64FF {GRIPPER_BYTES} D40102"),
    "homed": (HOMED, f"FFFFFF38 {STANDBY_BYTES} {'00' * 18} FF0F0303 1B77 64FF {GRIPPER_BYTES} D40102"),
    "e-stop": (
        replace(HOMED, lines=0x07, command=Command.DISABLE),
        f"FFFFFF38 {STANDBY_BYTES} {'00' * 18} FF070303 1B77 6466 {GRIPPER_BYTES} D40102",
    ),
}


@pytest.mark.parametrize(("frame", "text"), [*COMMANDS.values(), *STATES.values()], ids=[*COMMANDS, *STATES])
def test_worked_examples_byte_for_byte(frame, text):
    assert frame.pack() == bytes.fromhex(text)
    assert type(frame).unpack(bytes.fromhex(text)) == frame
    assert len(frame.pack()) == (STATE_LENGTH if isinstance(frame, StateFrame) else COMMAND_LENGTH)


BYTE = st.integers(0, 255)
WORD = st.integers(-(1 << 15), (1 << 15) - 1)
# Small negative numbers put runs of FF into the frame.
COUNT = st.one_of(st.integers(-(1 << 23), (1 << 23) - 1), st.sampled_from([-1, -200, 0xFF, 0xFFFF, 258, 513, -51200]))
STEPS = st.tuples(*[COUNT] * 6)
COMMAND_FRAMES = st.builds(
    CommandFrame,
    *(BYTE, STEPS, STEPS, BYTE, BYTE, BYTE),
    gripper=st.builds(GripperCommand, WORD, WORD, WORD, BYTE, BYTE, BYTE),
    check=BYTE,
)
STATE_FRAMES = st.builds(
    StateFrame,
    *(STEPS, STEPS, BYTE, BYTE, BYTE, BYTE, st.integers(0, 65535), BYTE, BYTE),
    gripper=st.builds(GripperStatus, BYTE, WORD, WORD, WORD, BYTE, BYTE),
    check=BYTE,
)


@given(st.one_of(COMMAND_FRAMES, STATE_FRAMES))
def test_every_frame_survives_the_way_there_and_back(frame):
    data = frame.pack()
    assert type(frame).unpack(data) == frame
    assert data[3] == len(data) - 4


@pytest.mark.parametrize("frame", [CommandFrame(0, check=0), StateFrame()], ids=["command", "state"])
def test_every_field_has_bytes_of_its_own(frame):
    def leaves(value, path=()):
        for item in fields(value):
            inner = getattr(value, item.name)
            if item.name == "gripper":
                yield from leaves(inner, (*path, item.name))
            elif isinstance(inner, tuple):
                yield from ((*path, item.name, joint) for joint in range(6))
            else:
                yield (*path, item.name)

    def changed(value, path):
        if isinstance(value, tuple):
            return tuple(number ^ (joint == path[0]) for joint, number in enumerate(value))
        return replace(value, **{path[0]: changed(getattr(value, path[0]), path[1:])}) if path else value ^ 1

    plain, seen = frame.pack(), set()
    for path in leaves(frame):
        other = changed(frame, path).pack()
        where = [i for i in range(len(plain)) if plain[i] != other[i]]
        assert len(where) == 1, path
        seen.add(where[0])
    assert len(seen) == 12 + (11 if isinstance(frame, CommandFrame) else 14)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (CommandFrame(256), "command=256 .* 0 to 255"),
        (
            CommandFrame(Command.MOVE, position=(0, 0, 1 << 23, 0, 0, 0)),
            r"position\[2\]=8388608 .* -8388608 to 8388607",
        ),
        (StateFrame(speed=(0, 0, 0, 0, 0, -(1 << 23) - 1)), r"speed\[5\]=-8388609 .* -8388608 to 8388607"),
        (StateFrame(position=(0, 0)), "position=.* has 2 values instead of 6"),
        (CommandFrame(Command.JOG, speed=(1.5, 0, 0, 0, 0, 0)), r"speed\[0\]=1.5 .* whole number"),
        (CommandFrame(0, gripper=GripperCommand(current=32768)), "gripper.current=32768 .* -32768 to 32767"),
        (CommandFrame(0, gripper=GripperCommand(can_id=-1)), "gripper.can_id=-1 .* 0 to 255"),
        (StateFrame(timing=65536), "timing=65536 .* 0 to 65535"),
        (StateFrame(timing=-1), "timing=-1 .* 0 to 65535"),
    ],
)
def test_what_does_not_fit_is_named(frame, message):
    with pytest.raises(ValueError, match=message):
        frame.pack()


@pytest.mark.parametrize("frame", [CommandFrame(Command.MOVE), HOMED], ids=["command", "state"])
def test_what_is_no_frame_is_refused(frame):
    good, unpack = frame.pack(), type(frame).unpack
    for bad, message in [
        (b"", "not 0"),
        (good[:-1], f"has {len(good)} bytes, not {len(good) - 1}"),
        (good + b"\0", f"not {len(good) + 1}"),
        (b"\xff\xfe" + good[2:], "begins with ff ff ff, not ff fe ff"),
        (good[:3] + b"\7" + good[4:], f"length byte .* is {len(good) - 4}, not 7"),
        (good[:-2] + b"\1\3", "ends with 01 02, not 01 03"),
    ]:
        with pytest.raises(ValueError, match=message):
            unpack(bad)


def test_counts_wrap_as_in_the_report():
    assert [wrap24(v) for v in (0, -1, (1 << 23) - 1, 1 << 23, -(1 << 23) - 1, (1 << 24) + 5)] == [
        *(0, -1, (1 << 23) - 1, -(1 << 23), (1 << 23) - 1, 5)
    ]


def test_a_state_in_words():
    assert HOMED.all_homed
    assert HOMED.is_homed == (True,) * 6
    assert not StateFrame().all_homed
    assert StateFrame().is_homed == (False,) * 6
    assert StateFrame(homed=0b1110_0011).is_homed == (True, True, True, False, False, False)
    assert StateFrame(homed=0b0000_0111).is_homed == (False, False, False, False, False, True)
    assert not HOMED.estop_pressed
    assert StateFrame(lines=0x07).estop_pressed
    assert HOMED.period_s == pytest.approx(0.01, rel=1e-4)


def test_a_gripper_status_in_words():
    assert GripperStatus().calibrated
    names = ("activated", "action", "temperature_error", "timeout_error", "estop_error", "calibrated")
    for name, bit in zip(names, (0x80, 0x40, 0x08, 0x04, 0x02, 0x01), strict=True):
        assert [getattr(GripperStatus(status=bit), other) for other in names] == [other == name for other in names]
    assert [GripperStatus(status=s).object for s in (0x00, 0x20, 0x10, 0x30)] == list(GripperObject)
    assert [GripperStatus(status=s).moving for s in (0x00, 0x40, 0x60, 0x70, 0xC1)] == [False, True, False, False, True]


PARSERS = [(StateParser, STATE_FRAMES), (CommandParser, COMMAND_FRAMES)]
BOTH = pytest.mark.parametrize(("parser", "frames"), PARSERS, ids=["state", "command"])


@BOTH
@given(st.data())
def test_a_clean_stream_gives_its_frames_in_any_chunks(parser, frames, data):
    sent = data.draw(st.lists(frames, min_size=1, max_size=5))
    stream, whole = b"".join(frame.pack() for frame in sent), parser()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    received = [f for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) for f in whole.feed(stream[a:b])]
    assert received == sent
    assert whole.dropped == 0


# The frames that the tests below look for have neither a header nor a trailer inside, so that it is certain what is
# a frame and what is not.
MARKS = {StateParser: HOMED, CommandParser: COMMANDS["grip"][0]}
OTHER = {StateParser: CommandFrame(Command.MOVE), CommandParser: HOMED}


@BOTH
def test_a_good_frame_behind_garbage_is_found_with_its_last_byte(parser, frames):
    mark = MARKS[parser]
    good, start = mark.pack(), mark.pack()[:4]
    garbage = [
        *(b"\xff" * n for n in range(9)),
        *(good[:n] for n in range(len(good))),
        *(good[n:] for n in range(1, len(good))),
        *(good[:n] + good[n + 1 :] for n in range(len(good))),
        *(good[:n] + b"\x80" + good[n:] for n in range(1, len(good))),
        *(HEADER + bytes([n]) for n in range(256)),
        *(HEADER + bytes([n]) + bytes(n) for n in range(256) if n + 4 != len(good)),
        *(start + bytes(n) for n in range(len(good) - 4)),
        start * 20,
        HEADER + start,
        good[:-1] + b"\3",
        OTHER[parser].pack(),
        b"\xff\xff" + OTHER[parser].pack() + b"\xff",
        b"\1\2" * 50,
    ]
    for junk in garbage:
        reader = parser()
        assert reader.feed(junk) == [], junk.hex()
        assert reader.feed(good[:-1]) == [], junk.hex()
        assert reader.feed(good[-1:]) == [mark], junk.hex()
        assert reader.feed(good) == [mark]
        assert reader.dropped == len(junk)


@BOTH
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_garbage_and_chunks_change_nothing(parser, frames, data):
    start = MARKS[parser].pack()[:4]
    piece = st.one_of(
        st.binary(max_size=80), st.just(start), st.just(HEADER), st.just(b"\1\2"), frames.map(lambda f: f.pack())
    )
    stream = b"".join(data.draw(st.lists(piece, max_size=10)))
    at_once, in_chunks = parser(), parser()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    received = at_once.feed(stream)
    assert [frame for chunk in chunks for frame in in_chunks.feed(chunk)] == received
    assert in_chunks.dropped == at_once.dropped
    size = len(MARKS[parser].pack())
    assert 0 <= len(stream) - at_once.dropped - size * len(received) < size


@BOTH
def test_a_million_bytes_of_noise(parser, frames):
    rng = random.Random(1)
    mark, reader, total, found = MARKS[parser], parser(), 0, 0
    good = mark.pack()
    began = time.monotonic()
    while total < 1_000_000:
        piece = bytearray(good * 2)
        match rng.randrange(6):
            case 0:
                piece = rng.randbytes(rng.randrange(300))
            case 1:
                piece[rng.randrange(len(piece))] ^= 1 << rng.randrange(8)
            case 2:
                piece.insert(rng.randrange(len(piece)), rng.choice((0, 1, 2, 255)))
            case 3:
                del piece[rng.randrange(len(piece))]
            case 4:
                del piece[rng.randrange(len(piece)) :]
            case 5:
                piece = rng.choice((HEADER, good[:4], b"\xff")) * rng.randrange(40)
        found += len(reader.feed(piece))
        total += len(piece)
        assert len(reader._buffer) < len(good)
    assert reader.feed(good)[-1] == mark
    assert reader.dropped + len(good) * (found + 1) == total + len(good)
    assert found > 1000
    assert time.monotonic() - began < 5.0
