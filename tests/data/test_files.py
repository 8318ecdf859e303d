"""Complete and truncated files of a dataset."""

import pytest

pytest.importorskip("lerobot.datasets")

from smolvla_gym.data.dataset import Dataset
from smolvla_gym.data.files import examine_files
from smolvla_gym.data.info import read_info


def test_a_truncated_file_costs_only_its_episode(tmp_path, spec, make_episode):
    dataset = Dataset(tmp_path / "data", spec)
    for seed in range(4):
        dataset.add(make_episode(seed, frames=5 + seed))
    root, info = dataset.root, read_info(dataset.root)
    rows, videos = (sorted((root / name).rglob("file-*")) for name in ("data", "videos"))
    report = examine_files(info)
    episodes, broken = report.complete, report.problems
    assert [(e.index, e.length, e.data, *e.videos.values()) for e in episodes] == [
        (i, 5 + i, rows[i], videos[i]) for i in range(4)
    ]
    assert broken == {}

    rows[3].write_bytes(rows[3].read_bytes()[:-10])
    videos[0].write_bytes(videos[0].read_bytes()[:300])
    videos[2].unlink()
    report = examine_files(info)
    episodes, broken = report.complete, report.problems
    assert [episode.index for episode in episodes] == [1]
    assert list(broken) == sorted([rows[3], videos[0], videos[2]])
    assert broken[videos[2]] == "is missing"
