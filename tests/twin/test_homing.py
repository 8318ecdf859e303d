"""Homing: from any pose to the known one, and what goes wrong when it is broken off."""

import numpy as np
import pytest

from smolvla_gym.parol6 import HOME, STANDBY, STEPS_PER_RAD
from smolvla_gym.parol6.protocol import Command, CommandFrame, StateFrame
from smolvla_gym.twin.firmware import Firmware
from smolvla_gym.twin.gripper import SSG48, AirGripper
from smolvla_gym.twin.homing import J5_MOVE, J5_MOVE_SSG48, switches

POSES = {
    "home": HOME,
    "standby": STANDBY,
    "folded": np.deg2rad([-20, -130, 120, -90, -80, 350]),
    "stretched": np.deg2rad([110, -20, 250, 90, 80, 10]),
    "turned": np.deg2rad([40, -90, 180, 30, 10, 1000]),
}


def send(firmware: Firmware, command: int, **fields) -> StateFrame:
    (answer,) = firmware.receive(CommandFrame(command, **fields).pack())
    return StateFrame.unpack(answer)


def begin(motor, gripper=None) -> Firmware:
    firmware = Firmware(motor, gripper)
    for _ in range(10):
        send(firmware, Command.HOME)
        firmware.advance(0.01)
    return firmware


def finish(firmware: Firmware, dt: float = 0.01) -> float:
    """Lets a homing end; returns how long that took in s."""
    send(firmware, Command.IDLE)
    seconds = 0.0
    while firmware.homing:
        firmware.advance(dt)
        seconds += dt
        assert seconds < 60.0
    return seconds


def until(firmware: Firmware, happened) -> None:
    send(firmware, Command.IDLE)
    for _ in range(60_000):
        if happened():
            return
        firmware.advance(0.001)
    pytest.fail("It never happened.")


def error(firmware: Firmware):
    """How far the arm is from what the counters say in microsteps; J6 turns endlessly."""
    wrong = firmware.motor - firmware.counters
    wrong[5] = (wrong[5] + 32000) % 64000 - 32000
    return wrong


@pytest.mark.parametrize("gripper", [SSG48, AirGripper])
@pytest.mark.parametrize("pose", POSES)
def test_it_ends_in_the_known_pose_from_anywhere(pose, gripper):
    firmware = begin(POSES[pose] * STEPS_PER_RAD, gripper())
    seconds = finish(firmware)
    assert 20.0 < seconds < 45.0  # the manufacturer's program gives up after 45 s
    assert send(firmware, Command.IDLE).position == (10240, -32000, 57905, 0, 0, 32000)
    np.testing.assert_allclose(error(firmware), 0.0, atol=1.0)
    assert firmware.homed.all()


def test_the_switches_are_where_the_data_sheet_derives_them():
    degrees = np.rad2deg(switches() / STEPS_PER_RAD)
    np.testing.assert_allclose(degrees, [-28.65, -145.09, 108.44, 143.44, -125.16, 180.0], atol=0.005)
    assert np.rad2deg(switches(J5_MOVE_SSG48) / STEPS_PER_RAD)[4] == pytest.approx(-112.99, abs=0.005)
    assert J5_MOVE == 8900


def test_joints_are_homed_in_order_and_count_as_homed_in_groups():
    firmware = begin(HOME * STEPS_PER_RAD)
    send(firmware, Command.IDLE)
    bits, moving, motor, last = [0x03], [], firmware.motor, None
    while firmware.homing:
        firmware.advance(0.01)
        moved = tuple((np.flatnonzero(np.abs(firmware.motor - motor) > 1e-9) + 1).tolist())
        if moved == last and moved not in moving:  # twice running: not two stages within 10 ms
            moving.append(moved)
        motor, last = firmware.motor, moved
        homed = send(firmware, Command.IDLE).homed
        if homed != bits[-1]:
            bits.append(homed)
    assert bits == [0x03, 0xE3, 0xF3, 0xFF]
    assert moving[0] == (1, 2, 3)
    stages = [(4,), (6,), (5,), (5, 6)]
    assert [moved for moved in moving if moved in stages] == stages


def test_reported_speeds_are_those_of_the_approach():
    firmware = begin(HOME * STEPS_PER_RAD)
    # The others report the speed that they will have.
    assert send(firmware, Command.IDLE).speed == (-2050, -2550, -2550, 5550, -5050, -9550)


def test_the_first_three_joints_end_each_stage_together():
    firmware = begin(POSES["folded"] * STEPS_PER_RAD)
    send(firmware, Command.IDLE)
    waited, before = np.zeros(3), firmware.motor[:3]
    found = np.zeros(3, dtype=bool)
    while not found.all():
        counters = firmware.counters[:3]
        firmware.advance(0.01)
        found |= np.abs((firmware.counters[:3] - counters) - (firmware.motor[:3] - before)) > 1.0
        moved = np.abs(firmware.motor[:3] - before) > 1e-9
        waited += found & ~found.all() & ~moved
        # None backs off before the last one has found its switch.
        assert found.all() or not (found & moved & (np.sign(firmware.motor[:3] - before) > 0)).any()
        before = firmware.motor[:3]
    assert np.count_nonzero(waited) >= 2


def test_positions_jump_when_a_switch_is_hit():
    firmware = begin(HOME * STEPS_PER_RAD)
    send(firmware, Command.IDLE)
    jumps, before, motor = 0, firmware.counters, firmware.motor
    while firmware.homing:
        firmware.advance(0.01)
        jumps += int(np.sum(np.abs((firmware.counters - before) - (firmware.motor - motor)) > 1.0))
        before, motor = firmware.counters, firmware.motor
    # Each joint when it first hits its switch, but J6, which stood on it; and each when it is done.
    assert jumps == 5 + 6


def test_the_way_does_not_depend_on_how_time_is_cut():
    coarse, fine = (begin(POSES["folded"] * STEPS_PER_RAD) for _ in range(2))
    for firmware in (coarse, fine):
        send(firmware, Command.IDLE)
    for _ in range(8):
        coarse.advance(5.0)
        for _ in range(1000):
            fine.advance(0.005)
        np.testing.assert_allclose(fine.motor, coarse.motor, atol=1e-3)
    assert fine.homed.all()


def test_the_switches_feel_the_true_arm():
    """An arm that hangs 100 steps behind its motors ends where its counters say, but for what it then hangs."""
    firmware = begin(HOME * STEPS_PER_RAD)
    send(firmware, Command.IDLE)
    sag = np.array([0.0, 100.0, 0.0, 0.0, 0.0, 0.0])
    while firmware.homing:
        firmware.advance(0.002, (firmware.motor + sag) / STEPS_PER_RAD)
    np.testing.assert_allclose(firmware.motor + sag - firmware.counters, 0.0, atol=1.0)


def test_steps_that_slip_before_homing_do_no_harm():
    firmware = begin(HOME * STEPS_PER_RAD)
    for joint in range(6):
        firmware.slip(joint, 77.0)
    finish(firmware)
    np.testing.assert_allclose(error(firmware), 0.0, atol=1.0)


def test_j1_behind_its_switch_never_finds_it():
    motor = HOME * STEPS_PER_RAD
    motor[0] = np.deg2rad(-60) * STEPS_PER_RAD[0]
    firmware = begin(motor)
    send(firmware, Command.IDLE)
    firmware.advance(120.0)
    assert firmware.homing
    assert not firmware.homed.any()


def test_it_begins_again_while_it_is_still_asked_to():
    firmware = begin(HOME * STEPS_PER_RAD)
    for _ in range(450):
        send(firmware, Command.HOME)
        firmware.advance(0.1)
        assert firmware.homing
        assert not firmware.homed.all()
    finish(firmware)
    assert firmware.homed.all()


@pytest.mark.parametrize("command", [Command.ENABLE, Command.DISABLE, Command.CLEAR, Command.JOG, Command.MOVE])
def test_any_other_command_breaks_it_off(command):
    firmware = begin(HOME * STEPS_PER_RAD)
    firmware.advance(1.0)
    send(firmware, command)
    assert not firmware.homing
    send(firmware, Command.IDLE)
    before = firmware.motor
    firmware.advance(60.0)
    np.testing.assert_array_equal(firmware.motor, before)
    assert not firmware.homed.any()


def test_broken_off_before_any_switch_the_next_run_is_sound():
    firmware = begin(HOME * STEPS_PER_RAD)
    firmware.advance(1.0)
    send(firmware, Command.ENABLE)
    send(firmware, Command.HOME)
    finish(firmware)
    np.testing.assert_allclose(error(firmware), 0.0, atol=1.0)


def test_broken_off_later_the_next_run_skips_the_search_and_homes_to_a_wrong_place():
    """The known fault: J1 to J3 had their final counters, from which they now move as if from their switches."""
    firmware = begin(HOME * STEPS_PER_RAD)
    until(firmware, lambda: firmware.homed[2])
    send(firmware, Command.CLEAR)
    send(firmware, Command.HOME)
    finish(firmware)
    assert firmware.homed.all()
    np.testing.assert_allclose(error(firmware), [13500 - 10240, 19588 + 32000, 23020 - 57905, 0, 0, 0], atol=1.0)
    send(firmware, Command.HOME)  # A run that ends clears the fault.
    finish(firmware)
    # But for J3: it was driven past its switch, where a real arm has a stop.
    np.testing.assert_allclose(error(firmware)[[0, 1, 3, 4, 5]], 0.0, atol=1.0)


def test_a_homing_arm_forgets_that_it_was_homed():
    firmware = begin(HOME * STEPS_PER_RAD)
    finish(firmware)
    assert send(firmware, Command.HOME).all_homed  # answered before it is obeyed
    assert not any(send(firmware, Command.IDLE).is_homed)


def test_a_bend_that_was_felt_lasts_until_the_next_is():
    once, often = (begin(HOME * STEPS_PER_RAD) for _ in range(2))
    sag = np.array([30.0, -40.0, 50.0, 5.0, -5.0, 20.0])
    for firmware in (once, often):
        send(firmware, Command.IDLE)
    once.feel((once.motor + sag) / STEPS_PER_RAD)
    for _ in range(5000):
        once.advance(0.01)
        often.advance(0.01, (often.motor + sag) / STEPS_PER_RAD)
    np.testing.assert_allclose(once.motor, often.motor, atol=1e-3)
