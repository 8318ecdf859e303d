"""An env is made in one thread and used in others, one after the other."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import mujoco
import numpy as np
import pytest

import smolvla_gym
from tests.envs.episodes import bits, episode

OPTIONS = {"image_size": (32, 32), "cameras": ("wrist", "scene"), "depth": True, "render_mode": "rgb_array"}


def elsewhere(function):
    """Return the result of a function in a new thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(timeout=60.0)


def contexts(env):
    """Return the OpenGL contexts that an environment has open."""
    world = env.unwrapped.backend.world
    return [
        renderer._gl
        for renderer in (world._renderer, world._overview)
        if renderer is not None and renderer._gl is not None
    ]


def test_every_call_may_come_from_another_thread():
    env = elsewhere(lambda: gym.make(smolvla_gym.SIM_ID, **OPTIONS))
    same = gym.make(smolvla_gym.SIM_ID, **OPTIONS)
    first = elsewhere(lambda: env.reset(seed=3)[0])
    assert bits(first) == bits(same.reset(seed=3)[0])
    for _ in range(2):
        observation, *_ = elsewhere(lambda: env.step(env.action_space.high))
        assert bits(observation) == bits(same.step(same.action_space.high)[0])
    np.testing.assert_array_equal(elsewhere(env.render), env.render())
    elsewhere(env.close)
    assert not contexts(env)
    env.close()
    same.close()


def test_the_virtual_arm_too():
    options = {"port": "twin", "camera": "twin", "realtime": False, "log": None, "image_size": (32, 32)}
    options |= {"twin_options": {"homed": True, "noise": 0.0}}
    env = gym.make(smolvla_gym.REAL_ID, **options)
    expected = episode(env, seed=1, steps=2)
    assert elsewhere(lambda: episode(env, seed=1, steps=2)) == expected
    elsewhere(env.close)


def test_what_fails_to_close_keeps_nothing_else_open(monkeypatch):
    env = gym.make(smolvla_gym.SIM_ID, **OPTIONS)
    env.reset(seed=0)
    env.render()
    assert len(contexts(env)) == 2
    window = env.unwrapped.backend.window
    calls = []

    def fail():
        calls.append(1)
        if len(calls) == 1:
            raise OSError("the window does not close")

    monkeypatch.setattr(window, "close", fail)
    with pytest.raises(OSError, match="does not close"):
        env.close()
    assert not contexts(env)
    env.close()  # tried again
    assert len(calls) == 2


def test_an_error_while_drawing_leaves_the_env_usable(monkeypatch):
    env = gym.make(smolvla_gym.SIM_ID, **OPTIONS)
    env.reset(seed=0)
    draw = mujoco.mjr_render
    monkeypatch.setattr(mujoco, "mjr_render", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        env.step(env.action_space.high)
    monkeypatch.setattr(mujoco, "mjr_render", draw)
    assert env.step(env.action_space.high)[0]["pixels"]["wrist"].std() > 5
    env.close()


def test_the_callers_own_opengl_context_stays_current():
    egl = pytest.importorskip("mujoco.egl")
    context = egl.GLContext(16, 16)
    try:
        context.make_current()
        mine = egl.EGL.eglGetCurrentContext().address
        env = gym.make(smolvla_gym.SIM_ID, **OPTIONS)
        env.reset(seed=0)
        env.close()
        assert egl.EGL.eglGetCurrentContext().address == mine
    finally:
        context.free()


@pytest.mark.parametrize("call", ["render", "clear_fault"])
def test_a_closed_env_opens_nothing_again(call):
    env = gym.make(smolvla_gym.SIM_ID, **OPTIONS).unwrapped
    env.reset(seed=0)
    env.close()
    with pytest.raises(gym.error.ClosedEnvironmentError):
        getattr(env, call)()
    assert not contexts(env)


def test_all_envs_draw_in_one_thread():
    envs = [gym.make(smolvla_gym.SIM_ID, **OPTIONS) for _ in range(3)]
    envs[0].reset(seed=0)
    threads = threading.active_count()
    for env in envs[1:]:
        env.reset(seed=0)
    assert threading.active_count() == threads
    for env in envs:
        env.close()


def test_an_env_that_is_collected_during_an_image_does_not_spoil_it(monkeypatch):
    env = gym.make(smolvla_gym.SIM_ID, **OPTIONS)
    expected = bits(env.reset(seed=3)[0])
    others = [gym.make(smolvla_gym.SIM_ID, **OPTIONS)]
    others[0].reset(seed=4)
    (context,) = contexts(others[0])
    freed = []
    monkeypatch.setattr(context, "free", lambda free=context.free: (free(), freed.append(True)))
    del context
    draw = mujoco.mjr_render

    def drop_and_draw(*arguments):
        others.clear()
        gc.collect()
        draw(*arguments)

    monkeypatch.setattr(mujoco, "mjr_render", drop_and_draw)
    assert bits(env.reset(seed=3)[0]) == expected
    assert freed
    env.close()
