"""A dataset that is continued with other cameras."""

import pytest

from smolvla_gym.data.camera_serials import compare_serials
from smolvla_gym.data.dataset import Dataset
from smolvla_gym.data.seeds import read_seeds
from smolvla_gym.errors import DatasetError

BEFORE = {"wrist": "1", "scene": "2"}


@pytest.mark.parametrize(
    ("before", "now", "count"),
    [
        (BEFORE, BEFORE, 0),
        ({}, {}, 0),
        ({}, BEFORE, 1),
        (BEFORE, {}, 1),
        (BEFORE, {"wrist": "1", "scene": "3"}, 1),
        (BEFORE, {"wrist": "4", "scene": "3"}, 2),
        (BEFORE, {"wrist": "", "scene": ""}, 2),
        ({"wrist": "", "scene": ""}, {"wrist": "", "scene": ""}, 0),
    ],
)
def test_each_other_camera_is_named(tmp_path, before, now, count):
    assert len(compare_serials(tmp_path, before, now)) == count


@pytest.mark.parametrize("now", [{"wrist": "2", "scene": "1"}, {"wrist": "2", "scene": "5"}])
def test_exchanged_cameras_are_refused(tmp_path, now):
    with pytest.raises(DatasetError, match="scene"):
        compare_serials(tmp_path, BEFORE, now)


def test_a_dataset_keeps_the_serial_numbers_of_its_latest_episode(tmp_path, spec, make_episode):
    root = tmp_path / "data"
    dataset = Dataset(root, spec, serials=BEFORE)
    assert dataset.camera_changes == []
    dataset.add(make_episode(seed=1))
    assert read_seeds(root)["camera_serials"] == BEFORE
    assert Dataset(root, spec, serials=BEFORE).camera_changes == []
    with pytest.raises(DatasetError):
        Dataset(root, spec, serials={"wrist": "2"})
    other = Dataset(root, spec, serials={"wrist": "1", "scene": "3"})
    assert len(other.camera_changes) == 1
    other.add(make_episode(seed=2))
    other.leave_out(3)
    other.add(make_episode(seed=4))
    assert read_seeds(root)["camera_serials"] == {"wrist": "1", "scene": "3"}
    simulated = Dataset(root, spec)
    assert len(simulated.camera_changes) == 1
    simulated.add(make_episode(seed=5))
    assert "camera_serials" not in read_seeds(root)
    assert len(simulated) == 4
