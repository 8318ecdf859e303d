"""A cheap policy, requests to it, and a program that serves it."""

import argparse
import threading
import time

import numpy as np

from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy, ChunkRequest, PolicyCard
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER

HEIGHT, WIDTH = 6, 8


class Wave(ChunkPolicy):
    """Moves on from where the arm is. All that a request holds shows in the chunk.

    Attributes:
        free: While it is not set, the policy hangs.
        error: What it raises instead of an answer.
        count: How many requests it got.
        most: How many of them it had at once.
    """

    def __init__(self, name="wave", chunk_size=16, delay_s=0.0):
        cameras = {"top": (HEIGHT, WIDTH), "hand": (HEIGHT, WIDTH)}
        self._card = PolicyCard(name, cameras, {"top": "scene", "hand": "wrist"}, chunk_size, 8, 5, 9, "cpu")
        self.delay_s = delay_s
        self.free = threading.Event()
        self.free.set()
        self.error = None
        self.count = self.most = self._running = 0

    @property
    def card(self):
        return self._card

    def infer(self, request):
        self.count += 1
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            time.sleep(self.delay_s)
            self.free.wait()
            if self.error is not None:
                raise self.error
            return self.chunk(request)
        finally:
            self._running -= 1

    def chunk(self, request):
        ahead = np.arange(1, self._card.chunk_size + 1, dtype=np.float32)[:, None] * np.float32(0.001)
        images = request.observation["pixels"]
        offset = np.float32(images["scene"].mean() + 2 * images["wrist"].mean()) * np.float32(1e-6)
        actions = np.asarray(request.observation["agent_pos"], np.float32) + ahead + offset
        latent = request.noise[:, :7] + np.float32(len(request.instruction) + request.inference_delay)
        if request.leftover is not None:
            latent[: len(request.leftover)] += request.leftover
        return Chunk(actions, latent)


def make_request(seed=0, leftover=None, delay=0):
    rng = np.random.default_rng(seed)
    pixels = {name: rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for name in ("wrist", "scene")}
    state = np.append(rng.uniform(JOINT_LOWER, JOINT_UPPER), rng.uniform())
    observation = {"pixels": pixels, "agent_pos": state.astype(np.float32)}
    noise = rng.standard_normal((16, 9), dtype=np.float32)
    return ChunkRequest(observation, "pick up the red cube", noise, leftover, delay)


def request_map(**changes):
    """The same request as it travels; what is changed to ``...`` is left out."""
    request = make_request()
    pixels = request.observation["pixels"]
    message = {
        "prompt": request.instruction,
        "state": request.observation["agent_pos"],
        "images": {"top": pixels["scene"], "hand": pixels["wrist"]},
        "noise": request.noise,
    }
    return {key: value for key, value in {**message, **changes}.items() if value is not ...}


def assert_same(left, right):
    assert left.actions.tobytes() == right.actions.tobytes()
    assert left.normalized.tobytes() == right.normalized.tobytes()


if __name__ == "__main__":
    from smolvla_gym.agent.policies.remote.server import PolicyServer

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--name", default="wave")
    arguments = parser.parse_args()
    with PolicyServer(port=arguments.port) as server:
        server.serve(Wave(arguments.name), ready=lambda: print(server.address, flush=True))
