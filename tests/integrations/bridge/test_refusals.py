"""What is refused ends neither the bridge nor the protection of the arm."""

from __future__ import annotations

import numpy as np
import pytest

from smolvla_gym.errors import OptionError
from tests.integrations.bridge.memory import Arm, command


class Policy:
    """Accepts instructions of up to ten characters: checked at the reset, or with its first chunk."""

    def __init__(self, env, *, at_once=True):
        self._backend, self._at_once, self._instruction = env.unwrapped.backend, at_once, None

    def _check(self, instruction):
        if len(instruction) > 10:
            raise OptionError("instruction", instruction, "up to ten characters")

    def reset(self, instruction, seed=None):
        self._instruction = None
        if self._at_once:
            self._check(instruction)
        self._instruction = instruction

    def act(self, observation):
        assert self._instruction is not None
        self._check(self._instruction)
        return np.append(self._backend.commanded + 0.1, 1.0).astype(np.float32)


@pytest.mark.parametrize("at_once", [True, False])
def test_an_instruction_that_the_policy_refuses_stops_it(at_once):
    arm = Arm(agent=lambda env: Policy(env, at_once=at_once))
    arm.send("/instruction", {"data": "reach"})
    arm.send("/start", {})
    arm.steps(3)
    assert arm.status["mode"] == "policy"
    arm.send("/instruction", {"data": "reach for the red one"})
    arm.steps(3)
    assert "ten characters" in arm.events("refused")[0]["why"]
    assert arm.events("stopped")
    assert arm.status["mode"] == "idle"
    arm.rest()
    arm.send("/instruction", {"data": "reach"})
    arm.send("/start", {})
    arm.steps(3)
    assert arm.status["mode"] == "policy"
    arm.env.close()


def test_a_fault_stays_where_the_arm_cannot_go_on(monkeypatch):
    arm = Arm()
    arm.send("/estop", {"data": True})
    arm.steps(2)

    def refuse(*_, **__):
        raise OptionError("joints", 0, "another pose")

    with monkeypatch.context() as patch:
        patch.setattr(arm.env.unwrapped.backend, "reset", refuse)
        arm.send("/clear_fault", {})
        arm.steps(2)
    assert "another pose" in arm.events("refused")[-1]["why"]
    assert arm.status["fault"] == "operator_stop"
    arm.send("/clear_fault", {})
    arm.steps(2)
    assert arm.events("cleared")
    assert arm.status["fault"] is None
    arm.env.close()


@pytest.mark.parametrize("ahead", [11.0, 3600.0, 3e7])
def test_a_command_of_a_wrong_clock_is_refused(ahead):
    arm = Arm()
    arm.rest()
    begin = arm.commanded
    arm.send("/joint_commands", command({"joint_1": float(begin[0]) + 0.3}, stamp=arm.now + ahead))
    arm.steps(3)
    assert "ahead" in arm.events("refused")[0]["why"]
    np.testing.assert_array_equal(arm.commanded, begin)
    arm.env.close()
