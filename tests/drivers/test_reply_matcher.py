"""Replies that come later and later, or not at all: the driver never takes what it knows for newer than it is."""

from __future__ import annotations

import numpy as np
import pytest

from smolvla_gym.drivers.board.reply_matcher import ReplyMatcher
from smolvla_gym.drivers.board.state import TICK, Mode
from smolvla_gym.errors import FaultError
from smolvla_gym.parol6 import rad_from_steps
from smolvla_gym.parol6.protocol import Command, StateFrame
from tests.drivers.rig import POSE, Rig

LIMIT = 0.1
"""The age of feedback in s at which the arm is stopped."""

SWING = POSE + np.array([0.8, 0.3, 0.3, 0.8, 0.5, 0.8])


def later_and_later(rig: Rig, growth: float, seconds: float, until=None, joints=None) -> float:
    """Lets the answers come later by ``growth`` s each tick; returns the delay in the end."""
    end = rig.now + seconds
    while rig.now < end and not (until is not None and until()):
        if joints is not None and rig.state.mode is Mode.READY:
            rig.aim(joints)
        rig.tick()
        rig.faults.delay_s += growth
    return rig.faults.delay_s


def history(rig: Rig) -> list[tuple[float, np.ndarray]]:
    """Keeps where the board said the joints were at each moment at which a frame was sent."""
    kept, answer = [], rig.firmware.receive

    def receive(data: bytes) -> list[bytes]:
        answers = answer(data)
        kept.extend((rig.now, rad_from_steps(StateFrame.unpack(a).position)) for a in answers)
        return answers

    rig.firmware.receive = receive
    return kept


@pytest.mark.parametrize("joints", [None, SWING], ids=["resting", "moving"])
@pytest.mark.parametrize("growth", [0.0002, 0.001, 0.005, 0.02])
def test_a_delay_that_grows_ends_in_a_fault(rig, growth, joints):
    rig.ready()
    if joints is None:
        rig.aim(POSE)
        rig.board.finish()  # no actions are expected
    delay = later_and_later(rig, growth, 8.0, lambda: rig.state.fault is not None, joints)
    assert rig.state.fault == "feedback_timeout"
    assert LIMIT - TICK <= delay <= LIMIT + 2 * TICK + 12 * growth
    assert growth > 0.01 or "late" in rig.state.detail
    rig.run(2.0)
    assert rig.firmware.disabled


@pytest.mark.parametrize("seed", range(8))
def test_an_emergency_stop_is_seen_within_the_limit_however_the_delay_grows(make_rig, seed):
    rng = np.random.default_rng(seed)
    rig = make_rig().ready()
    growth = rng.uniform(0.0005, 0.005)
    later_and_later(rig, growth, rng.uniform(0.1, 3.0) * LIMIT / growth * TICK, joints=POSE)
    rig.faults.estop = True
    pressed = rig.now
    later_and_later(rig, growth, 1.0, lambda: rig.state.mode is not Mode.READY, POSE)
    assert rig.state.fault in ("estop", "feedback_timeout")  # the latter stops it even before
    assert rig.now - pressed <= LIMIT + 3 * TICK


@pytest.mark.parametrize("seed", range(4))
def test_a_state_is_never_older_than_it_says(make_rig, seed):
    """Whatever is late and whatever gets lost; and when all is well again, its age is exact."""
    rng = np.random.default_rng(seed)
    rig = make_rig(feedback_timeout=1.0, max_following_error=2.0).ready()
    seen = history(rig)
    ages = []
    for step in range(600):
        if step % 20 == 0:
            rig.faults.delay_s = rng.choice([0.0, 0.0, 0.004, 0.012, 0.03, 0.07])
        rig.faults.silence = bool(rng.random() < 0.1)
        rig.aim(POSE + (SWING - POSE) * (step // 150 % 2))
        rig.tick()
        state = rig.state
        matching = [moment for moment, joints in seen if np.array_equal(joints, state.joints)]
        assert state.fault is None, state.detail
        assert state.time <= matching[-1] + 1e-9
        ages.append(rig.now - state.time)
    assert max(ages) > 0.05
    rig.faults.clear()
    for _ in range(20):
        rig.aim(SWING)
        rig.tick()
    assert rig.state.time == pytest.approx(rig.now - TICK)


def test_replies_that_got_lost_are_not_taken_for_late_ones_for_long(rig):
    rig.ready()
    for _ in range(40):  # far more in all than may be behind
        rig.faults.silence = True
        rig.run(0.02)
        rig.faults.silence = False
        rig.run(0.06)
        assert rig.state.fault is None
        assert rig.state.time == pytest.approx(rig.now - TICK)


def test_a_board_that_is_too_late_is_not_cleared_nor_woken(rig):
    rig.ready().move()
    rig.faults.delay_s = 0.3
    rig.run(2.0)
    assert rig.state.fault == "feedback_timeout"
    assert rig.now - rig.state.time == pytest.approx(0.3 + TICK, abs=TICK)
    with pytest.raises(FaultError, match=r"still there.*0\.3\d? s late"):
        rig.board.clear(rig.now)
    rig.faults.clear()
    rig.run(0.4)  # what is on its way arrives first
    rig.board.clear(rig.now)
    rig.faults.delay_s = 0.3
    rig.run(1.0)
    assert rig.state.fault is None  # a disabled arm needs no stopping
    rig.board.enable(rig.now)
    rig.run(0.05)
    assert rig.state.fault == "feedback_timeout"
    assert "late" in rig.state.detail


def test_a_patient_driver_works_with_a_late_board(make_rig):
    rig = make_rig(feedback_timeout=0.8, max_following_error=3.0)
    rig.faults.delay_s = 0.5
    rig.board.connect(rig.now)
    rig.run(1.0)
    rig.board.enable(rig.now)
    rig.run(4.0, lambda: rig.state.mode is Mode.READY)
    assert rig.state.mode is Mode.READY  # the old commands that are echoed are no disobedience
    rig.aim(SWING)
    rig.run(0.9)
    assert rig.state.fault is None
    assert np.abs(rig.state.velocity).max() > 0.1


def test_a_frame_is_sent_twice_only_where_something_is_missing(rig):
    rig.ready()

    def copies(seconds: float) -> int:
        before, ticks = len(rig.frames), rig.state.ticks
        rig.run(seconds)
        return len(rig.frames) - before - (rig.state.ticks - ticks)

    assert copies(1.0) == 0
    rig.faults.drip = True
    assert copies(1.0) == 0
    rig.faults.clear()
    rig.faults.silence = True
    assert copies(0.05) == 0
    rig.faults.silence = False
    assert copies(1.0) == 1
    rig.faults.delay_s = 0.05
    assert 10 < copies(1.0) < 25  # one on its way all the time


def test_a_copy_does_not_calibrate_the_gripper_again(make_rig):
    rig = make_rig(calibrated=False).start()
    rig.faults.delay_s = 0.03
    rig.board.enable(rig.now)
    rig.run(6.0, lambda: rig.state.mode is not Mode.ENABLING)
    assert rig.state.mode is Mode.READY
    assert sum(frame.gripper.mode == 1 for _, frame in rig.frames) == 1


# -- the count itself --------------------------------------------------------------------------------------------------

USUAL, SOON = StateFrame(timing=7031), StateFrame(timing=300)


def test_replies_answer_the_frames_in_order():
    reply_matcher = ReplyMatcher()
    assert reply_matcher.answer(USUAL) is None
    for k in range(3):
        reply_matcher.send(Command.MOVE, k * TICK)
    assert [reply_matcher.answer(USUAL).moment for _ in range(3)] == [0.0, TICK, 2 * TICK]
    assert not reply_matcher.doubtful
    assert reply_matcher.answer(USUAL).moment == 2 * TICK  # one too many tells nothing new


def test_the_answer_to_a_copy_ends_all_doubt():
    reply_matcher = ReplyMatcher()
    for k in range(5):
        reply_matcher.send(Command.MOVE, k * TICK)
        assert not reply_matcher.doubtful
    assert reply_matcher.answer(USUAL).moment == 0.0
    assert reply_matcher.doubtful
    reply_matcher.send(Command.DISABLE, 5 * TICK)
    reply_matcher.send(Command.DISABLE, 5 * TICK)
    assert reply_matcher.answer(USUAL).moment == TICK
    assert not reply_matcher.doubtful  # a copy is on its way
    newest = reply_matcher.answer(SOON)
    assert (newest.moment, newest.command) == (5 * TICK, Command.DISABLE)
    assert not reply_matcher.doubtful


def test_a_short_time_where_no_copy_was_sent_means_nothing():
    reply_matcher = ReplyMatcher()
    for k in range(3):
        reply_matcher.send(Command.MOVE, k * TICK)
    assert reply_matcher.answer(SOON).moment == 0.0


def test_where_a_copys_answer_gets_lost_another_one_is_sent():
    reply_matcher = ReplyMatcher()
    for moment in (0.0, TICK, 2 * TICK, 2 * TICK, 3 * TICK):
        reply_matcher.send(Command.MOVE, moment)
    for moment in (0.0, TICK, 2 * TICK, 2 * TICK):
        assert not reply_matcher.doubtful
        assert reply_matcher.answer(USUAL).moment == moment
    assert reply_matcher.doubtful
