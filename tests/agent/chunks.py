"""A policy and an env for tests of chunk scheduling; the number of an action is the control step that it is for."""

import itertools
import time

import gymnasium as gym
import numpy as np

from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy, PolicyCard
from smolvla_gym.agent.smolvla_agent import SmolVLAAgent

CHUNK = 20


class Numbered(ChunkPolicy):
    """Action i of a chunk is the number of the step it is for; the observation tells the step.

    What it is asked is kept. ``before`` is called with each request and may sleep or raise.
    """

    def __init__(self, before=lambda request: None):
        self.requests, self.before = [], before

    @property
    def card(self):
        return PolicyCard("numbered", {"wrist": (16, 16)}, {"wrist": "wrist"}, CHUNK, 8, 5, 32, "cpu")

    def infer(self, request):
        self.requests.append(request)
        self.before(request)
        first = step_of(request)
        actions = np.repeat(np.arange(first, first + CHUNK, dtype=np.float32)[:, None], 7, axis=1)
        # The noise shows which draw a chunk was made of.
        actions[:, 1] = request.noise[0, 0]
        return Chunk(actions, actions / 10)


class Clock(gym.Env):
    """An env of which only the clock and the spaces matter."""

    observation_space = gym.spaces.Dict({
        "pixels": gym.spaces.Dict({"wrist": gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)}),
        "agent_pos": gym.spaces.Box(-10, 10, (7,), np.float32),
    })  # fmt: skip
    action_space = gym.spaces.Box(-10, 10, (7,), np.float32)

    def __init__(self, realtime=False, hz=30.0):
        self.metadata = {"render_fps": hz, "realtime": realtime}


def observe(step):
    """The image tells the step: no arm has joints at 100 rad."""
    image = np.zeros((16, 16, 3), np.uint8)
    image.reshape(-1)[:4] = np.frombuffer(np.float32(step).tobytes(), np.uint8)
    state = np.full(7, min(step, 1.0), np.float32)
    state[0] = step if step < 6 else 1.0
    return {"pixels": {"wrist": image}, "agent_pos": state}


def step_of(request):
    return float(request.observation["pixels"]["wrist"].reshape(-1)[:4].copy().view(np.float32)[0])


def make(policy=None, *, realtime=False, hz=30.0, **options):
    agent = SmolVLAAgent(policy or Numbered(), **options)
    agent.attach(Clock(realtime, hz))
    return agent


def play(agent, steps, period=0.0, seed=1, advance=True):
    """Runs an arm that is where its actions put it, and returns those; a held step repeats the last one."""
    agent.reset("count", seed=seed)
    actions, at = [], 0.0
    for _ in range(steps):
        began = time.monotonic()
        action = agent.act(observe(at))
        actions.append(action)
        at = float(action[0]) + 1 if advance and (len(actions) < 2 or action[0] != actions[-2][0]) else at
        time.sleep(max(0.0, began + period - time.monotonic()))
    return np.array(actions)


def wait_for(true):
    deadline = time.monotonic() + 10.0
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def failing(error, after=1):
    calls = itertools.count()

    def before(request):
        if next(calls) == after:
            raise error

    return Numbered(before)
