"""Teleoperation: the window with real events, and the arm that follows."""

import os
import shutil
import subprocess
import sys
import threading

import gymnasium as gym
import numpy as np
import pygame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import smolvla_gym
from smolvla_gym.agent.protocol import EpisodeOver
from smolvla_gym.cli.main import main
from smolvla_gym.errors import DeviceError, RenderingError
from smolvla_gym.parol6 import GRIPPERS, JOINT_LOWER, JOINT_UPPER, forward_kinematics
from smolvla_gym.sim.world import start_pose
from smolvla_gym.teleoperation.agent import TeleoperationAgent
from smolvla_gym.teleoperation.jog import LEAD, Command, ToolJog
from smolvla_gym.teleoperation.window import OperatorWindow

GRIPPER = GRIPPERS["ssg48"]
START = np.append(start_pose(GRIPPER), 1.0).astype(np.float32)


@pytest.fixture
def window(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    window = OperatorWindow("keyboard")
    yield window
    window.close()


def press(*keys, kind=pygame.KEYDOWN):
    for key in keys:
        pygame.event.post(pygame.event.Event(kind, key=key))


def later(seconds, *keys):
    threading.Timer(seconds, press, keys).start()


def test_held_keys_move_until_the_window_loses_the_focus(window):
    press(pygame.K_w, pygame.K_d, pygame.K_r, pygame.K_q)
    command = window.poll()
    assert (command.velocity.tolist(), command.turn) == ([1.0, -1.0, 1.0], 1.0)
    press(pygame.K_d, pygame.K_r, kind=pygame.KEYUP)
    assert window.poll().velocity.tolist() == [1.0, 0.0, 0.0]
    press(pygame.K_LSHIFT)
    assert window.poll().velocity[0] == pytest.approx(0.3)
    pygame.event.post(pygame.event.Event(pygame.WINDOWFOCUSLOST))
    command = window.poll()
    assert (command.velocity.tolist(), command.turn) == ([0.0, 0.0, 0.0], 0.0)


@pytest.mark.parametrize(
    ("key", "meaning"),
    [
        (pygame.K_SPACE, "toggle_gripper"),
        (pygame.K_RETURN, "keep"),
        (pygame.K_BACKSPACE, "discard"),
        (pygame.K_ESCAPE, "leave"),
    ],
)
def test_a_key_press_counts_once(window, key, meaning):
    press(key)
    assert getattr(window.poll(), meaning)
    assert not getattr(window.poll(), meaning)


def test_sticks_have_a_dead_zone(window):
    axes = {
        pygame.CONTROLLER_AXIS_LEFTY: -16384, pygame.CONTROLLER_AXIS_LEFTX: 1500,
        pygame.CONTROLLER_AXIS_RIGHTY: 32767, pygame.CONTROLLER_AXIS_RIGHTX: -32768,
        pygame.CONTROLLER_AXIS_TRIGGERLEFT: 32767,
    }  # fmt: skip
    for axis, value in axes.items():
        pygame.event.post(pygame.event.Event(pygame.CONTROLLERAXISMOTION, axis=axis, value=value))
    pygame.event.post(pygame.event.Event(pygame.CONTROLLERBUTTONDOWN, button=pygame.CONTROLLER_BUTTON_A))
    command = window.poll()
    assert command.velocity.tolist() == pytest.approx([0.5, 0.0, -1.0], abs=1e-3)
    assert (command.turn, command.toggle_gripper) == (1.0, True)
    window.forget()
    assert window.poll().velocity.tolist() == [0.0, 0.0, 0.0]


def test_a_missing_gamepad_is_refused(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with pytest.raises(DeviceError, match="gamepad"):
        OperatorWindow("gamepad")


class Pad:
    """A gamepad that comes and goes, in place of SDL's list of them; the events are real."""

    def __init__(self):
        self.there = True

    def init(self):
        pass

    def is_controller(self, index):
        return True

    def Controller(self, index):  # noqa: N802 - pygame's name
        return self

    def attached(self):
        return self.there

    def quit(self):
        pass


def test_a_gamepad_that_sleeps_stops_the_arm_and_comes_back(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pad = Pad()
    monkeypatch.setattr("pygame._sdl2.controller", pad)
    monkeypatch.setattr(pygame.joystick, "get_count", lambda: int(pad.there))
    window = OperatorWindow("gamepad")
    try:
        push = pygame.event.Event(pygame.CONTROLLERAXISMOTION, axis=pygame.CONTROLLER_AXIS_LEFTY, value=-32767)
        pygame.event.post(push)
        assert window.poll().velocity[0] == 1.0
        assert window.poll().velocity[0] == 1.0  # held
        pad.there = False  # with or without an event
        assert window.poll().velocity[0] == 0.0
        window.show([np.zeros((64, 64, 3), np.uint8)], ["pick up the red cube"])
        told = pygame.surfarray.array3d(pygame.display.get_surface())[:, 504:522].max()
        pad.there = True
        assert window.poll().velocity[0] == 0.0
        window.show([np.zeros((64, 64, 3), np.uint8)], ["pick up the red cube"])
        assert pygame.surfarray.array3d(pygame.display.get_surface())[:, 504:522].max() < told
        pygame.event.post(push)
        assert window.poll().velocity[0] == 1.0
    finally:
        window.close()


WITH_IMAGES = """
import gymnasium, smolvla_gym
from smolvla_gym.teleoperation.window import OperatorWindow
env = gymnasium.make(smolvla_gym.SIM_ID, cameras=("wrist",), image_size=(64, 64))
observation, _ = env.reset(seed=1)
window = OperatorWindow("keyboard")
import pygame
for _ in range(3):
    window.show([observation["pixels"]["wrist"]] * 2, ["instruction"])
    window.poll()
    observation, *_ = env.step(observation["agent_pos"])
print(pygame.display.get_driver(), observation["pixels"]["wrist"].std() > 0)
window.close()
env.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("xvfb-run") is None, reason="Xvfb is not installed")
def test_the_window_on_x11_leaves_the_simulation_its_opengl():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SDL_")}
    command = ["xvfb-run", "-a", sys.executable, "-c", WITH_IMAGES]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "x11 True"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there always is a display")
def test_a_window_without_a_display_is_refused(monkeypatch):
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RenderingError, match="xvfb-run"):
        OperatorWindow("keyboard")


def test_images_and_lines_are_drawn(window):
    window.show([np.full((64, 64, 3), (200, 10, 10), np.uint8)] * 2, ["pick up the red cube"])
    surface = pygame.display.get_surface()
    assert surface.get_size() == (960, 576)
    assert tuple(surface.get_at((700, 240)))[:3] == (200, 10, 10)
    assert pygame.surfarray.array3d(surface)[:, 480:].max() > 200  # letters


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-1, 1)] * 4, st.booleans()), min_size=1, max_size=60))
def test_targets_stay_within_reach_and_near(commands):
    jog = ToolJog(GRIPPER, 30.0)
    jog.reset(START)
    here = START
    for x, y, z, turn, grip in commands:
        action = jog.step(Command(np.array([x, y, z]), turn, grip), here)
        assert np.isfinite(action).all()
        assert np.all((action[:6] >= JOINT_LOWER - 1e-6) & (action[:6] <= JOINT_UPPER + 1e-6))
        way = forward_kinematics(action[:6], GRIPPER)[:3, 3] - forward_kinematics(here[:6], GRIPPER)[:3, 3]
        assert np.linalg.norm(way) < LEAD + 1e-3
        here = action


@pytest.mark.parametrize("turn", [-1.0, 1.0])
def test_the_jaws_stop_at_the_end_of_their_turn(turn):
    jog = ToolJog(GRIPPER, 30.0)
    jog.reset(START)
    here, turned = START, []
    for _ in range(300):
        action = jog.step(Command(turn=turn), here)
        turned.append(np.abs(action - here)[:6].max())
        here = action
    assert max(turned) < 0.1
    assert turned[-1] == 0.0  # J6 is at its end, and does not come from the other side
    assert abs(here[5] - START[5]) > 2.0


def test_the_target_stays_near_an_arm_that_is_held():
    jog = ToolJog(GRIPPER, 30.0)
    jog.reset(START)
    for _ in range(100):
        action = jog.step(Command(turn=1.0), START)
    assert np.abs(action - START)[:6].max() < 0.55
    back = jog.step(Command(turn=-1.0), START)
    assert np.abs(back - START)[:6].max() < np.abs(action - START)[:6].max()


def test_without_a_command_nothing_moves():
    jog = ToolJog(GRIPPER, 30.0)
    jog.reset(START)
    np.testing.assert_allclose(jog.step(Command(), START), START, atol=1e-6)
    moved = START.copy()
    for _ in range(30):
        moved = jog.step(Command(np.array([0, 0, -1.0])), moved)
    way = forward_kinematics(moved[:6], GRIPPER)[:3, 3] - forward_kinematics(START[:6], GRIPPER)[:3, 3]
    np.testing.assert_allclose(way, [0, 0, -0.12], atol=1e-4)


def test_the_arm_follows_the_operator(window):
    env = gym.make(smolvla_gym.SIM_ID, cameras=("wrist",), image_size=(64, 64), max_episode_steps=-1)
    try:
        agent = TeleoperationAgent(window, "keyboard", longest=60.0)
        agent.attach(env)
        observation, info = env.reset(seed=1)
        before = forward_kinematics(observation["agent_pos"][:6], GRIPPER)[:3, 3]
        press(pygame.K_SPACE)  # before the episode, which ignores it
        agent.reset(info["instruction"], 1)
        later(0.3, pygame.K_a)
        for _ in range(20):
            action = agent.act(observation)
            assert action is agent.label
            observation, *_ = env.step(action)
        way = forward_kinematics(observation["agent_pos"][:6], GRIPPER)[:3, 3] - before
        assert way[1] > 0.04
        assert abs(way[0]) < 0.01
        press(pygame.K_RETURN)
        with pytest.raises(EpisodeOver):
            agent.act(observation)
        assert agent.verdict is True
        agent.reset("again", 2)
        later(0.3, pygame.K_BACKSPACE)
        with pytest.raises(EpisodeOver):
            agent.act(observation)
        assert agent.verdict is None
        agent.reset("again", 3)
        later(0.3, pygame.K_ESCAPE)
        with pytest.raises(KeyboardInterrupt):
            agent.act(observation)
    finally:
        env.close()


def test_an_episode_that_gets_too_long_is_driven_and_recorded_no_further(window):
    env = gym.make(smolvla_gym.SIM_ID, cameras=("wrist",), image_size=(64, 64), max_episode_steps=-1)
    try:
        agent = TeleoperationAgent(window, "keyboard", longest=0.2)
        agent.attach(env)
        observation, info = env.reset(seed=1)
        agent.reset(info["instruction"], 1)
        later(0.1, pygame.K_a)
        recorded, sent = [], []
        for _ in range(12):
            action = agent.act(observation)
            recorded.append(agent.label is not None)
            sent.append(action)
            observation, *_ = env.step(action)
        assert recorded == [True] * 6 + [False] * 6
        assert not np.array_equal(sent[0], sent[5])
        np.testing.assert_array_equal(sent[6:], [sent[5]] * 6)
        press(pygame.K_RETURN)
        with pytest.raises(EpisodeOver):
            agent.act(observation)
        assert agent.verdict is True
        # The next one may be as long again.
        agent.reset(info["instruction"], 2)
        later(0.1, pygame.K_a)
        agent.act(observation)
        assert agent.label is not None
    finally:
        env.close()


def test_in_real_time_the_arm_holds_until_the_first_command(window):
    env = gym.make(smolvla_gym.SIM_ID, cameras=("wrist",), image_size=(64, 64), max_episode_steps=-1)
    env.unwrapped.metadata = {**env.unwrapped.metadata, "realtime": True}
    try:
        agent = TeleoperationAgent(window, "keyboard", longest=60.0)
        agent.attach(env)
        observation, info = env.reset(seed=1)
        agent.reset(info["instruction"], 1)
        for _ in range(3):
            action = agent.act(observation)
            np.testing.assert_allclose(action[:6], observation["agent_pos"][:6], atol=1e-6)
            assert agent.label is None
        press(pygame.K_a)
        agent.act(observation)
        assert agent.label is not None
    finally:
        env.close()


def test_a_missing_display_is_named(monkeypatch, capsys, tmp_path):
    pytest.importorskip("lerobot.datasets")
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    monkeypatch.delenv("DISPLAY", raising=False)
    assert main(["record", "--root", str(tmp_path / "data"), "--source", "keyboard", "--episodes", "1"]) == 1
    assert "xvfb-run" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_scripts_do_not_drive_a_real_arm(capsys, tmp_path):
    command = ["record", "--root", str(tmp_path / "data"), "--env", "real", "--port", "/dev/ttyACM9"]
    assert main(command) == 2
    assert "keyboard or gamepad" in capsys.readouterr().err
