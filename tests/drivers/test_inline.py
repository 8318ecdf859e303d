"""The driver in the thread of its program, in lockstep with simulated time."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from smolvla_gym.drivers.board.state import Mode
from smolvla_gym.drivers.clock import SystemClock
from smolvla_gym.errors import DeviceError, FaultError, NotHomedError
from smolvla_gym.parol6 import HOME
from tests.drivers.arm import TARGET

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


def test_in_lockstep(inline):
    link, clock, rig = inline
    with pytest.raises(NotHomedError):
        link.enable()
    states = []
    link.home(states.append)
    assert len(states) > 2500
    link.enable()
    for _ in range(30):
        link.aim(np.array([*HOME - 0.1, 1.0]))
        clock.sleep_until(clock.now() + 1 / 30)
    np.testing.assert_allclose(link.state().joints[3], -0.1, atol=1e-3)
    rig.faults.estop = True
    with pytest.raises(FaultError, match="estop"):
        link.calibrate_gripper() or clock.sleep_until(clock.now() + 0.1) or link.aim(TARGET)
    rig.faults.estop = False
    clock.sleep_until(clock.now() + 0.1)
    link.clear()
    link.enable()
    assert [event["fault"] for event in link.events() if event.get("rule") == "fault"] == ["estop"]
    link.close()
    assert rig.firmware.disabled
    with pytest.raises(DeviceError, match="closed"):
        link.enable()


@pytest.mark.parametrize("call", ["home", "enable", "calibrate_gripper"])
def test_ctrl_c_while_waiting_disables(inline, monkeypatch, call):
    link, clock, _ = inline
    if call != "home":
        link.home()
    if call == "calibrate_gripper":
        link.enable()

    def interrupt(moment):
        raise KeyboardInterrupt

    monkeypatch.setattr(clock, "sleep_until", interrupt)
    with pytest.raises(KeyboardInterrupt):
        getattr(link, call)()
    assert link.state().mode in (Mode.DISABLED, Mode.STOPPING)


def test_the_clock_is_the_one_that_states_carry():
    assert SystemClock().now() == pytest.approx(time.monotonic(), abs=0.1)
