"""Datasets as training data: refused, decoded, and after a crash."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("lerobot.datasets")

from smolvla_gym.data.dataset import Dataset
from smolvla_gym.data.decoding import decode_images
from smolvla_gym.data.reader import open_recording
from smolvla_gym.data.replay import ReplayAgent
from smolvla_gym.errors import DatasetError
from smolvla_gym.training.tiny.frames import Frames


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, spec, make_episode):
    dataset = Dataset(tmp_path_factory.mktemp("recorded") / "data", spec)
    for seed, frames, text in ((1, 5, "lift the red cube"), (2, 7, "lift the blue cube"), (3, 4, "lift the red cube")):
        dataset.add(make_episode(seed, frames, text))
    return dataset.root


@pytest.fixture
def root(recorded, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(recorded, tmp_path / "data")


def edit_info(root, **changes):
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    for name, value in changes.items():
        if name in info:
            info[name] = value
        else:
            info["features"]["action"][name] = value
    path.write_text(json.dumps(info))


def test_everything_is_read(root, make_episode, tmp_path):
    recording = open_recording(root)
    assert (recording.episodes, recording.lengths, recording.fps) == (3, (5, 7, 4), 30)
    assert (recording.cameras, recording.image_size, recording.lost) == (("wrist",), (32, 48), None)
    assert [recording.instructions[i] for i in recording.instruction_ids[[0, 5, 12]]] == [
        "lift the red cube", "lift the blue cube", "lift the red cube",
    ]  # fmt: skip
    second = make_episode(2, 7)
    np.testing.assert_array_equal(recording.states[5:12], np.stack(second.states))
    np.testing.assert_array_equal(recording.actions[5:12], np.stack(second.actions))

    seen = []
    frames = Frames.of(recording, decode_images(recording, ("wrist",), (32, 32), tmp_path / "cache", seen.append))
    assert seen[-1] == len(frames) == 16
    assert frames.segments.tolist() == [0] * 5 + [1] * 7 + [2] * 4
    wanted = np.stack(second.images["wrist"])[:, :, 8:40].astype(int)
    assert np.abs(frames.images["wrist"][5:12] - wanted).mean() < 4  # they were compressed

    for video in (root / "videos").rglob("*.mp4"):
        video.unlink()
    again = decode_images(recording, ("wrist",), (32, 32), tmp_path / "cache")
    np.testing.assert_array_equal(again["wrist"], frames.images["wrist"])
    with pytest.raises(DatasetError, match="cannot be decoded"):
        decode_images(recording, ("wrist",), (16, 16), tmp_path / "cache")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robot_type": "so100"}, "robot_type is 'so100'"),
        ({"shape": [6]}, r"action has shape \[6\]"),
        ({"names": list("abcdefg")}, "names of action are"),
        ({"units": ["deg"] * 7}, "units of action are"),
        ({"total_episodes": 0}, "is empty"),
        ({"total_frames": 99}, "should have 99 frames and has 16"),
    ],
)
def test_the_differences_of_another_arm_are_named(root, changes, message):
    edit_info(root, **changes)
    with pytest.raises(DatasetError, match=message):
        open_recording(root)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        (2, np.nan, "is nan in"),
        (2, 90.0, "seem to be in degrees"),
        (6, 50.0, "gripper openings from .* to 50"),
        (6, -1.0, "gripper openings from -1 to"),
    ],
)
def test_bad_numbers_are_found(root, part, value, message):
    file = sorted((root / "data").rglob("*.parquet"))[1]  # a file an episode
    table = pq.read_table(file)
    actions = np.array(table["action"].to_pylist(), np.float32)
    actions[3, part] = value
    column = table.column_names.index("action")
    table = table.set_column(
        column, table.schema.field("action"), pa.array(list(actions), table.schema.field("action").type)
    )
    pq.write_table(table, file)
    with pytest.raises(DatasetError, match=message) as caught:
        open_recording(root)
    if np.isnan(value):
        assert "episode 1, frame 3" in str(caught.value)


def test_a_folder_without_a_dataset_is_named(tmp_path, root):
    with pytest.raises(DatasetError, match=r"meta/info\.json is missing"):
        open_recording(tmp_path / "nothing")
    for file in (root / "data").rglob("*.parquet"):
        file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DatasetError, match="no episode is complete: data"):
        open_recording(root)


def test_the_complete_episodes_of_half_a_copy_are_read(root, make_episode, tmp_path):
    rows, videos = (sorted((root / name).rglob("file-*")) for name in ("data", "videos"))
    rows[2].write_bytes(rows[2].read_bytes()[:500])
    videos[0].unlink()
    recording = open_recording(root)
    assert recording.lengths == (7,)
    assert recording.lost.startswith("2 episodes of 3: data/chunk-000/file-002.parquet cannot be opened (")
    second = make_episode(2, 7)
    np.testing.assert_array_equal(recording.actions, np.stack(second.actions))
    images = decode_images(recording, ("wrist",), (32, 32), tmp_path / "cache")
    wanted = np.stack(second.images["wrist"])[:, :, 8:40].astype(int)
    assert np.abs(images["wrist"] - wanted).mean() < 4
    assert ReplayAgent(root).seeds == [2]


def test_a_dataset_that_is_being_recorded_is_not_read(root):
    """Another program that trains meanwhile must not take it for what a crash has left."""
    script = (
        "import sys, time; from pathlib import Path\n"
        "from smolvla_gym.data.lock import lock; from smolvla_gym.data.transaction import transaction\n"
        "root = Path(sys.argv[1])\n"
        "with lock(root), transaction(root): print('writing', flush=True); time.sleep(60)"
    )
    recorder = subprocess.Popen([sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE, text=True)
    try:
        assert recorder.stdout.readline() == "writing\n"
        with pytest.raises(DatasetError, match="Another program"):
            open_recording(root)
        assert (root / ".meta_before").is_dir()
    finally:
        recorder.kill()
        recorder.wait()
        recorder.stdout.close()
    recording = open_recording(root)
    assert recording.lost is not None
    assert recording.episodes == 3


def test_a_crash_costs_the_episode_in_progress(root):
    (root / ".meta_before").mkdir()
    for entry in (root / "meta").iterdir():
        if entry.is_file():
            (root / ".meta_before" / entry.name).write_bytes(entry.read_bytes())
    shutil.copytree(root / "meta" / "episodes", root / ".meta_before" / "episodes")
    (root / "meta" / "info.json").write_text("{")
    recording = open_recording(root)
    assert recording.episodes == 3
    assert "last episode" in recording.lost
