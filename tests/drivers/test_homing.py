"""A homing that was broken off makes the firmware skip searches; the driver notices before anything is hit."""

import numpy as np
import pytest

from smolvla_gym.drivers.board.homing import Homing
from smolvla_gym.parol6 import HOME, JOINT_LOWER, JOINT_UPPER, STEPS_PER_RAD
from smolvla_gym.parol6.protocol import Command, CommandFrame, StateFrame
from smolvla_gym.safety import Violation
from smolvla_gym.safety.collision import CollisionGuard
from smolvla_gym.twin.firmware import Firmware
from smolvla_gym.twin.gripper import SSG48
from tests.drivers.rig import kill_switch

GUARD = CollisionGuard("ssg48")


def exchange(firmware: Firmware, command: Command) -> StateFrame:
    (answer,) = firmware.receive(CommandFrame(command).pack())
    firmware.advance(0.01)
    return StateFrame.unpack(answer)


def home(firmware: Firmware, seconds: float, contacts: set[Violation] | None = None) -> Homing:
    """Homes for so many s, or until it ends or is found to skip a search."""
    homing = Homing()
    for tick in range(round(100 * seconds)):
        homing.observe(exchange(firmware, homing.command()))
        if homing.done or homing.skipping or homing.missing:
            break
        if contacts is not None and tick % 4 == 0:
            contacts.update(GUARD.violations((firmware.motor / STEPS_PER_RAD).tolist(), 1.0))
    return homing


@pytest.mark.parametrize("moment", [*np.arange(0.5, 34.0, 4.5)])
def test_after_a_homing_that_was_broken_off_the_next_is_sound_or_stopped_before_it_hits_anything(moment):
    firmware = Firmware(HOME * STEPS_PER_RAD, SSG48())
    assert not home(firmware, moment).skipping
    exchange(firmware, Command.DISABLE)
    exchange(firmware, Command.ENABLE)
    contacts: set[Violation] = set()
    again = home(firmware, 60.0, contacts)
    assert {contact.rule for contact in contacts} <= {"workspace"}
    assert again.done or again.skipping
    if again.done and not again.unsearched:
        np.testing.assert_allclose((firmware.motor - firmware.counters)[:5], 0.0, atol=1.0)


FAR = np.rad2deg([JOINT_UPPER - HOME, np.append(0.0, JOINT_LOWER[1:] - HOME[1:])])


@pytest.mark.parametrize("start", [[0, 0, 0, 0, 0, 0], [30, -20, 10, -60, 40, 170], *FAR])
def test_a_sound_homing_is_never_taken_for_one_that_skips(start):
    firmware = Firmware((HOME + np.deg2rad(start)) * STEPS_PER_RAD, SSG48())
    homing = home(firmware, 60.0)
    assert homing.done
    assert not homing.unsearched


@pytest.mark.parametrize(("joint", "longest"), enumerate([36_000, 53_000, 62_000, 22_000, 18_000, 66_000]))
def test_a_switch_that_is_not_found_is_noticed_soon(joint, longest):
    firmware = Firmware(HOME * STEPS_PER_RAD, SSG48())
    kill_switch(firmware, joint)
    homing = home(firmware, 60.0)
    assert homing.missing == [f"joint_{joint + 1}"]
    travel = abs(firmware.motor[joint] - HOME[joint] * STEPS_PER_RAD[joint])
    assert travel == pytest.approx(1.1 * longest, abs=500)
