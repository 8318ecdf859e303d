"""Defects of the files of a dataset are found before training starts."""

import json
import shutil

import pytest

pytest.importorskip("lerobot.datasets")

from smolvla_gym.data.reader import open_recording
from smolvla_gym.errors import DatasetError
from tests.training.datasets import edit_json, make_dataset


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("recorded") / "data")


@pytest.fixture
def root(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path / "data")


def video(root):
    return sorted((root / "videos" / "observation.images.scene").rglob("*.mp4"))[1]


def lost(root):
    """Return the loss that is reported for a dataset with one incomplete episode."""
    recording = open_recording(root)
    assert recording.missing == 1
    assert len(recording.files) == recording.episodes == len(recording.seeds) - 1
    return recording.lost


def test_a_missing_video_is_found(root):
    path = video(root)
    path.unlink()
    assert lost(root).endswith(f"{path.name} is missing")


def test_a_missing_data_file_is_named(root):
    path = sorted((root / "data").rglob("*.parquet"))[1]
    path.unlink()
    assert lost(root).endswith(f"{path.name} is missing")


@pytest.mark.parametrize(
    ("share", "message"), [(0.0, "is empty"), (0.5, "cannot be opened"), (0.99, "cannot be opened")]
)
def test_a_truncated_video_is_found(root, share, message):
    path = video(root)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert f"{path.name} {message}" in lost(root)


def test_a_video_that_is_too_short_is_found(root, tmp_path):
    path = video(root)
    shutil.copy(video(make_dataset(tmp_path / "short", frames=12)), path)
    assert lost(root).endswith(f"{path.name} has 12 frames, and the episodes in it have 20")


def test_info_that_is_not_an_object_is_refused(root):
    (root / "meta" / "info.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"info\.json .*no JSON object"):
        open_recording(root)


@pytest.mark.parametrize("changes", [{"total_frames": None}, {"fps": None}, {"fps": 0}])
def test_info_without_a_number_is_refused(root, changes):
    edit_json(root / "meta" / "info.json", **changes)
    with pytest.raises(DatasetError, match=rf"info\.json .*{next(iter(changes))} is (missing|0; expected)"):
        open_recording(root)


@pytest.mark.parametrize("name", ["action", "observation.images.wrist"])
def test_a_feature_without_a_shape_is_refused(root, name):
    path = root / "meta" / "info.json"
    features = json.loads(path.read_text())["features"]
    del features[name]["shape"]
    edit_json(path, features=features)
    with pytest.raises(DatasetError, match=rf"{name}: shape is missing"):
        open_recording(root)


def test_scene_options_are_read(root):
    path = root / "meta" / "parol6.json"
    edit_json(path, num_objects=None, randomization=None)  # as an earlier version recorded it
    recording = open_recording(root)
    assert (recording.seeds, recording.gripper, recording.num_objects) == ({7, 8}, "ssg48", None)
    edit_json(path, num_objects=3, randomization=2)
    recording = open_recording(root)
    assert (recording.num_objects, recording.randomization) == (3, 2)
    path.unlink()
    assert open_recording(root).seeds is None  # unknown is not none


@pytest.mark.parametrize("text", ['{"episodes": [', "[]", '{"episodes": [{}]}'])
def test_broken_scene_options_are_refused(root, text):
    (root / "meta" / "parol6.json").write_text(text)
    with pytest.raises(DatasetError, match=r"parol6\.json is broken .* Take another copy"):
        open_recording(root)
