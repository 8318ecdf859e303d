"""What the tests of the drivers share."""

import pytest

from smolvla_gym.drivers.board.event_log import EventLog
from smolvla_gym.drivers.board.inline import InlineBoard
from smolvla_gym.drivers.board.process import BoardProcess
from smolvla_gym.twin.gripper import AirGripper
from tests.drivers.arm import SETTINGS, Arm, LockstepClock
from tests.drivers.rig import POSE, Rig, homed_firmware


@pytest.fixture
def make_rig():
    rigs = []

    def make(**options) -> Rig:
        rigs.append(Rig(**options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig) -> Rig:
    return make_rig()


@pytest.fixture
def arm():
    arm = Arm(homed_firmware(POSE, AirGripper()))
    yield arm
    arm.virtual.close()


@pytest.fixture
def make_link(arm):
    links = []

    def make(**options) -> BoardProcess:
        links.append(BoardProcess(arm.virtual.path, SETTINGS, period=1 / 30, collision=False, **options))
        return links[-1]

    yield make
    for link in links:
        link.close()


@pytest.fixture
def inline(tmp_path):
    rig = Rig(homed=False)
    clock = LockstepClock(rig)
    clock.link = InlineBoard(rig.board, rig.settings, clock, EventLog(tmp_path / "log.jsonl"))
    clock.link.connect()
    yield clock.link, clock, rig
    clock.link.close()
    rig.close()
