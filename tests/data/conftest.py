import numpy as np
import pytest

from smolvla_gym.data.dataset import Episode
from smolvla_gym.data.spec import DatasetSpec


@pytest.fixture(scope="session")
def spec():
    return DatasetSpec(30, ("wrist",), (32, 48), "ssg48")


@pytest.fixture(scope="session")
def make_episode(spec):
    def make(seed=0, frames=5, instruction="lift the red cube"):
        rng = np.random.default_rng(seed)
        episode = Episode.begin(instruction, seed, "expert", spec.cameras)
        shade = np.linspace(40, 200, 48, dtype=np.uint8)[None, :, None]
        for _ in range(frames):
            image = np.broadcast_to(shade, (32, 48, 3)) + np.uint8(rng.integers(40))
            pos = np.append(rng.uniform(-1, 1, 6), rng.uniform(0, 0.8)).astype(np.float32)
            episode.note({"pixels": {"wrist": image}, "agent_pos": pos}, pos + np.float32(0.25))
        return episode

    return make
