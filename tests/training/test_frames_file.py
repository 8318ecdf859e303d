"""Demonstrations on the disk: they are restored exactly, and a file from elsewhere runs no code."""

import importlib.util
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smolvla_gym.errors import SmolVLAGymError
from smolvla_gym.training.tiny.frames import Frames
from smolvla_gym.training.tiny.frames_file import load_frames, save_frames

RNG = np.random.default_rng(0)
FULL = Frames(
    images={name: RNG.integers(0, 255, (3, 4, 4, 3), np.uint8) for name in ("wrist", "scene")},
    states=RNG.normal(size=(6, 7)).astype(np.float32),
    actions=RNG.normal(size=(6, 7)).astype(np.float32),
    instructions=["lift the red cube", "take the red cube", "¡lift the blue cube!"],
    instruction_ids=np.array([0, 0, 1, 1, 2, 2]),
    segments=np.array([0, 0, 0, 1, 1, 1]),
    image_frames=np.array([0, 2, 4]),
    targets=np.array([[0.1, np.nan]] * 3, np.float32),
    referents=np.zeros((3, 2), np.float32),
    weights=np.array([1.0, 4.0, 1.0]),
    paraphrases=[[0, 1], [0, 1], [2]],
)
BARE = replace(
    FULL, images={"wrist": RNG.integers(0, 255, (6, 4, 4, 3), np.uint8)}, image_frames=None, targets=None,
    referents=None, weights=None, paraphrases=None,
)  # fmt: skip


@pytest.mark.parametrize("frames", [FULL, BARE], ids=["full", "bare"])
def test_frames_are_restored(tmp_path, frames):
    save_frames(tmp_path / "frames.npz", frames)
    loaded = load_frames(tmp_path / "frames.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["frames.npz"]
    for name in ("states", "actions", "instruction_ids", "segments", "image_frames", "targets", "referents", "weights"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(frames, name))
    assert loaded.images.keys() == frames.images.keys()
    for camera, images in frames.images.items():
        np.testing.assert_array_equal(loaded.images[camera], images)
    assert (loaded.instructions, loaded.paraphrases) == (frames.instructions, frames.paraphrases)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def arrays(path):
    with np.load(path) as file:
        return dict(file)


def spoiled(path, ran):
    """Write other files to the path, one after another."""
    good = path.read_bytes()
    content = arrays(path)
    yield path.write_bytes(pickle.dumps(Bomb(ran)))
    yield np.savez(path, **{**content, "states": np.array([Bomb(ran)], dtype=object)})
    yield np.savez_compressed(path, **content)
    yield path.write_bytes(good[: len(good) // 2])
    changes = {
        "instruction_ids": np.array([0, 0, 1, 1, 2, 3]), "group_members": np.array([0, 1, 9]), "states": np.zeros(6),
        "group_sizes": np.array([2, 5]), "images.wrist": np.zeros((3, 4, 4, 3)), "segments": np.zeros(6),
    }  # fmt: skip
    for name, value in changes.items():
        yield np.savez(path, **{**content, name: value})
    del content["actions"]
    yield np.savez(path, **content)
    path.unlink()
    yield
    yield os.mkfifo(path)


def test_other_files_are_refused_and_run_nothing(tmp_path):
    path, ran = tmp_path / "frames.npz", tmp_path / "ran"
    save_frames(path, FULL)
    for _ in spoiled(path, ran):
        with pytest.raises(SmolVLAGymError):
            load_frames(path)
    assert not ran.exists()


def test_the_recipe_reads_what_it_recorded(tmp_path):
    pytest.importorskip("lerobot")
    source = Path(__file__).parents[2] / "examples" / "train_bundled.py"
    spec = importlib.util.spec_from_file_location("train_bundled", source)
    recipe = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["train_bundled"] = recipe  # dataclasses look their module up
    try:
        spec.loader.exec_module(recipe)
    finally:
        del sys.modules["train_bundled"]
    options = recipe.DemonstrationOptions(episodes=5)
    stage = recipe.STAGES[0]
    for task in stage.episodes:
        path, _ = recipe.recording(tmp_path, stage.name, task, options)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_frames(path, FULL)
    frames = recipe.read(tmp_path, stage, options)
    assert len(frames) == 6 * len(stage.episodes)
    assert frames.weights.sum() == pytest.approx(1.0)
