"""The virtual board's program against the worked examples and the quirks that are known of the real one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolvla_gym.parol6 import HOME, STANDBY, STEPS_PER_RAD
from smolvla_gym.parol6.protocol import Command, CommandFrame, Line, StateFrame
from smolvla_gym.sim.motion import MotionLaw
from smolvla_gym.twin.firmware import Firmware

HOME_STEPS = np.rint(HOME * STEPS_PER_RAD)
IDLE = CommandFrame(Command.IDLE).pack()

# The answers of the data sheet's examples.
NOT_HOMED = "ffffff38" + "00" * 36 + "030f03031b7764ff" + "000000000100020101" + "d40102"
HOMED = "ffffff38" + "002800ff830000e231000000000000007d00" + "00" * 18 + NOT_HOMED[80:].replace("030f", "ff0f", 1)
STOPPED = HOMED.replace("ff0f03031b7764ff", "ff0703031b776466")


def ask(firmware: Firmware, command: int, **fields) -> StateFrame:
    (answer,) = firmware.receive(CommandFrame(command, **fields).pack())
    return StateFrame.unpack(answer)


def homed_firmware(motor=HOME_STEPS) -> Firmware:
    firmware = Firmware(motor)
    ask(firmware, Command.HOME)
    ask(firmware, Command.IDLE)
    for _ in range(600):
        firmware.advance(0.1)
    assert firmware.homed.all()
    return firmware


@pytest.fixture(scope="module")
def homed_once():
    return homed_firmware()


@pytest.fixture
def firmware():
    return Firmware(HOME_STEPS)


def test_the_answer_after_switching_on_is_the_documented_one(firmware):
    firmware.receive(IDLE)
    firmware.advance(0.01)
    assert [answer.hex() for answer in firmware.receive(IDLE)] == [NOT_HOMED]


def test_the_answers_of_a_homed_arm_are_the_documented_ones(homed_once):
    homed_once.receive(IDLE)
    homed_once.advance(0.01)
    assert [answer.hex() for answer in homed_once.receive(IDLE)] == [HOMED]
    homed_once.estop_pressed = True
    homed_once.advance(0.01)
    (answer,) = homed_once.receive(CommandFrame(Command.DISABLE).pack())
    assert answer.hex() == STOPPED
    homed_once.estop_pressed = False


def test_it_speaks_only_when_asked_and_echoes_the_command(firmware):
    firmware.advance(1.0)
    assert firmware.receive(b"") == []
    for command in (0, 69, *Command, 200):
        assert ask(firmware, command).command == command


@pytest.mark.parametrize(("seconds", "ticks"), [(0.0, 0), (0.01, 7031), (0.05, 35156), (0.1, 70312 - 65536)])
def test_the_timing_counts_ticks_and_wraps(firmware, seconds, ticks):
    ask(firmware, Command.IDLE)
    firmware.advance(seconds)
    assert ask(firmware, Command.IDLE).timing == ticks


def test_counters_begin_at_zero_wherever_the_arm_stands(firmware):
    assert ask(firmware, Command.IDLE).position == (0,) * 6
    np.testing.assert_array_equal(firmware.motor, HOME_STEPS)


# -- motion --------------------------------------------------------------------------------------------------------


def test_a_move_has_a_time_constant_of_20_ms(firmware):
    ask(firmware, Command.MOVE, position=(500, -500, 0, 0, 0, 0))
    firmware.advance(0.02)
    np.testing.assert_allclose(firmware.counters[:3], [500 * (1 - np.exp(-1)), -500 * (1 - np.exp(-1)), 0])
    np.testing.assert_allclose(firmware.motor - firmware.counters, HOME_STEPS)
    assert ask(firmware, Command.IDLE).speed[0] == int(50 * 500 * np.exp(-1))
    ask(firmware, Command.MOVE, position=(500, -500, 0, 0, 0, 0))
    firmware.advance(1.0)
    np.testing.assert_allclose(firmware.counters[:3], [500, -500, 0], atol=1e-9)


@pytest.mark.parametrize(("fed", "lag_s"), [(0.0, 0.020), (1.0, 0.010)])
def test_a_ramp_is_followed_with_the_documented_lag(firmware, fed, lag_s):
    speed, dt = 8000, 0.001
    for k in range(400):
        target = round(speed * dt * k)
        ask(firmware, Command.MOVE, position=(target, 0, 0, 0, 0, 0), speed=(round(fed * speed), 0, 0, 0, 0, 0))
        firmware.advance(dt)
    # The target of the last millisecond stood still for it, and so was half of that behind the ramp.
    behind = speed * dt * 400 - firmware.counters[0]
    assert behind == pytest.approx(speed * (lag_s + dt / 2), rel=0.01)


def test_a_far_move_runs_at_the_cap(firmware):
    ask(firmware, Command.MOVE, position=(100_000, -100_000, 0, 0, 0, 0))
    firmware.advance(1.0)
    np.testing.assert_allclose(firmware.counters[:2], [50_000, -50_000])
    reply = ask(firmware, Command.MOVE, position=(100_000, -100_000, 0, 0, 0, 0))
    assert reply.speed[:2] == (50_000, -50_000)
    firmware.advance(1.2)
    np.testing.assert_allclose(firmware.counters[:2], [100_000, -100_000], atol=0.1)


@given(
    st.sampled_from([Command.MOVE, Command.JOG]),
    st.lists(st.integers(-100_000, 100_000), min_size=6, max_size=6),
    st.lists(st.integers(-80_000, 80_000), min_size=6, max_size=6),
    st.lists(st.floats(0.0, 0.5), min_size=1, max_size=5),
)
def test_the_way_does_not_depend_on_how_time_is_cut(command, position, speed, cuts):
    whole, parts = Firmware(HOME_STEPS), Firmware(HOME_STEPS)
    for firmware in (whole, parts):
        ask(firmware, command, position=tuple(position), speed=tuple(speed))
    whole.advance(sum(cuts))
    for cut in cuts:
        parts.advance(cut)
    np.testing.assert_allclose(parts.counters, whole.counters, rtol=1e-9, atol=1e-6)


def test_the_simulation_has_the_same_motion_law(firmware):
    law = MotionLaw()
    law.reset(np.zeros(6))
    target = np.array([700, -300, 200, 900, -50, 10])
    ask(firmware, Command.MOVE, position=tuple(target.tolist()), speed=(400,) * 6)
    path = law.follow(np.tile(target / STEPS_PER_RAD, (20, 1)), np.tile(400 / STEPS_PER_RAD, (20, 1)), 0.002)
    firmware.advance(0.04)
    np.testing.assert_allclose(path[-1] * STEPS_PER_RAD, firmware.counters)


def test_a_jog_runs_away(firmware):
    ask(firmware, Command.JOG, speed=(1500, -3000, 0, 0, 0, 90_000))
    firmware.advance(60.0)
    np.testing.assert_allclose(firmware.counters, [90_000, -180_000, 0, 0, 0, 3_000_000])
    assert ask(firmware, Command.IDLE).speed == (1500, -3000, 0, 0, 0, 50_000)
    firmware.advance(1.0)
    np.testing.assert_allclose(firmware.counters[0], 90_000)


def test_positions_wrap_at_24_bits(firmware):
    ask(firmware, Command.JOG, speed=(50_000, -50_000, 0, 0, 0, 0))
    firmware.advance(200.0)
    assert ask(firmware, Command.IDLE).position[:2] == (10_000_000 - (1 << 24), (1 << 24) - 10_000_000)


def test_idle_holds_and_echoes_the_speed_it_was_sent(firmware):
    ask(firmware, Command.IDLE, speed=(7, -8, 9, 0, 0, 60_000))
    firmware.advance(1.0)
    assert ask(firmware, Command.IDLE).speed == (7, -8, 9, 0, 0, 50_000)
    np.testing.assert_array_equal(firmware.counters, 0)


@pytest.mark.parametrize("wish", [Command.JOG, Command.MOVE, Command.HOME])
def test_disable_holds_until_enable(firmware, wish):
    ask(firmware, Command.JOG, speed=(1000,) * 6)
    firmware.advance(1.0)
    ask(firmware, Command.DISABLE)
    firmware.advance(1.0)
    np.testing.assert_allclose(firmware.counters, 1000)
    for held in (wish, Command.CLEAR, wish):
        reply = ask(firmware, held, position=(9000,) * 6, speed=(2000,) * 6)
        assert reply.speed == (1000,) * 6  # stale
        firmware.advance(1.0)
        np.testing.assert_allclose(firmware.counters, 1000)
        assert firmware.disabled
        assert not firmware.homing
    ask(firmware, Command.ENABLE)
    firmware.advance(1.0)
    np.testing.assert_allclose(firmware.counters, 1000)
    ask(firmware, Command.MOVE, position=(9000,) * 6)
    firmware.advance(1.0)
    np.testing.assert_allclose(firmware.counters, 9000, atol=1e-3)


def test_the_emergency_stop_is_only_a_bit(firmware):
    ask(firmware, Command.JOG, speed=(1000,) * 6)
    firmware.estop_pressed = True
    firmware.advance(1.0)
    assert ask(firmware, Command.JOG, speed=(1000,) * 6).estop_pressed
    firmware.advance(1.0)
    np.testing.assert_allclose(firmware.counters, 2000)
    firmware.estop_pressed = False
    assert not ask(firmware, Command.IDLE).estop_pressed


def test_inputs_and_outputs(firmware):
    firmware.inputs = Line.IN1
    reply = ask(firmware, Command.IDLE, lines=Line.OUT2 | Line.IN2 | 0x07)
    assert reply.lines == Line.IN1 | Line.OUT2 | Line.ESTOP_RELEASED | 0x07
    assert firmware.outputs == Line.OUT2


def test_slipped_steps_move_the_motor_and_not_the_counter(firmware):
    firmware.slip(2, -123.0)
    np.testing.assert_allclose(firmware.motor - HOME_STEPS, [0, 0, -123, 0, 0, 0])
    np.testing.assert_array_equal(firmware.counters, 0)
    firmware.slip(4, 128.0)
    firmware.recover()
    np.testing.assert_allclose(firmware.motor, HOME_STEPS)
    firmware.recover()
    np.testing.assert_allclose(firmware.motor, HOME_STEPS)


def test_without_power_everything_is_forgotten_but_the_pose():
    firmware = homed_firmware()
    ask(firmware, Command.DISABLE)
    firmware.reboot()
    np.testing.assert_allclose(firmware.motor, HOME_STEPS, atol=1e-6)
    np.testing.assert_array_equal(firmware.counters, 0)
    assert not firmware.homed.any()
    assert not firmware.disabled
    fallen = STANDBY * STEPS_PER_RAD - 400
    firmware.reboot(fallen)
    np.testing.assert_array_equal(firmware.motor, fallen)


def test_an_arm_can_be_made_homed_where_it_stands(firmware):
    firmware.set_homed()
    reply = ask(firmware, Command.IDLE)
    assert reply.all_homed
    assert reply.position == tuple(HOME_STEPS.astype(int))
    np.testing.assert_array_equal(firmware.motor, HOME_STEPS)


# -- the parser ----------------------------------------------------------------------------------------------------


def test_packets_may_come_in_any_pieces(firmware):
    frames = CommandFrame(Command.MOVE, (-1,) * 6).pack() + IDLE
    assert [len(firmware.receive(bytes([byte]))) for byte in frames] == ([0] * 55 + [1]) * 2


def test_one_stray_ff_swallows_five_of_nine_packets(firmware):
    frame = CommandFrame(Command.IDLE, (10240, -32000, 57905, 0, 0, 32000)).pack()
    assert len(firmware.receive(b"\xff" + frame * 9)) == 4


def test_a_length_of_zero_wedges_it_until_it_is_reset(firmware):
    assert firmware.receive(b"\xff\xff\xff\x00" + IDLE * 100) == []
    firmware.reboot()
    assert len(firmware.receive(IDLE)) == 1


def test_a_short_packet_is_taken_with_what_the_last_one_left(firmware):
    ask(firmware, Command.JOG, speed=(1000,) * 6)
    assert len(firmware.receive(b"\xff\xff\xff\x02\x01\x02")) == 1
    assert firmware.command == Command.JOG


def test_a_bad_end_is_dropped_and_the_sum_is_not_looked_at(firmware):
    assert firmware.receive(IDLE[:-1] + b"\x03") == []
    assert len(firmware.receive(CommandFrame(Command.IDLE, check=0).pack())) == 1


@given(st.binary(max_size=600))
def test_nothing_that_is_written_to_it_breaks_it(data):
    firmware = Firmware(HOME_STEPS)
    firmware.receive(data)
    firmware.advance(0.01)
    firmware.receive(b"\xff\xff\xff\x34" + data[:50].ljust(50, b"\xff") + b"\x01\x02")
    firmware.advance(0.01)
    assert np.isfinite(firmware.motor).all()
