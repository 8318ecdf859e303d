"""Nothing outside a dataset is written, moved or removed, and nothing inside is deleted by a repair."""

import json
import os
import shutil
import sys

import pytest

pytest.importorskip("datasets")

from smolvla_gym.cli.main import main
from smolvla_gym.data.dataset import Dataset
from smolvla_gym.data.lock import lock
from smolvla_gym.data.reader import open_recording
from smolvla_gym.data.transaction import repair
from smolvla_gym.errors import DatasetError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, spec, make_episode):
    dataset = Dataset(tmp_path_factory.mktemp("recorded") / "data", spec)
    for seed in (1, 2):
        dataset.add(make_episode(seed))
    return dataset.root


@pytest.fixture
def root(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path / "data")


@pytest.fixture
def precious(tmp_path):
    folder = tmp_path / "my_documents"
    (folder / "deeper").mkdir(parents=True)
    (folder / "thesis.tex").write_text("precious")
    (folder / "deeper" / "file-009.parquet").write_text("precious")
    return folder


def tree(folder):
    return {
        str(path.relative_to(folder)): (os.lstat(path).st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def cut_off(root):
    """Make the state after a kill during the writing of an episode."""
    shutil.copytree(root / "meta", root / ".meta_before", symlinks=True)


def stranger(root, precious):
    """A folder of another program that seems to need a repair, with links in it."""
    (root / ".meta_before").mkdir(parents=True)
    info = {"codebase_version": "v3.0", "total_episodes": 0, "total_frames": 0, "fps": 30, "features": {},
            "robot_type": "parol6", "data_path": "d/{chunk_index}/{file_index}", "video_path": None}  # fmt: skip
    (root / ".meta_before" / "info.json").write_text(json.dumps(info))
    (root / ".meta_before" / "parol6.json").write_text("{}")
    (root / "data").symlink_to(precious)
    return root


def test_a_dataset_of_another_program_is_not_changed(tmp_path, spec, precious):
    root = stranger(tmp_path / "downloaded", precious)
    before = tree(tmp_path)
    for opened in (lambda: Dataset(root, spec), lambda: open_recording(root), lambda: repair(root)):
        with pytest.raises(DatasetError):
            opened()
        assert tree(tmp_path) == before


LINKS = ("data", "videos", "meta", ".meta_before", ".meta_before.part", "images", "tmp1", ".removed", "meta/episodes")


@pytest.mark.parametrize("crashed", [False, True])
@pytest.mark.parametrize("name", LINKS)
def test_nothing_is_written_through_a_link(root, tmp_path, spec, make_episode, precious, name, crashed):
    if crashed:
        cut_off(root)
    place = root / name
    if place.is_dir():  # the link leads to what was there, and to more
        shutil.copytree(place, precious, dirs_exist_ok=True)
        shutil.rmtree(place)
    place.symlink_to(precious)
    before = tree(tmp_path)
    with pytest.raises(DatasetError, match="link"):
        Dataset(root, spec)
    assert tree(tmp_path) == before


def test_a_link_within_data_is_refused(root, tmp_path, spec, precious):
    cut_off(root)
    (root / "data" / "chunk-001").symlink_to(precious)
    before = tree(tmp_path)
    with pytest.raises(DatasetError, match="is a link"):
        Dataset(root, spec)
    assert tree(tmp_path) == before


def test_hard_links_to_files_are_not_changed(root, tmp_path, spec, make_episode):
    """A copy made of hard links, as `cp -al` does, stays as it is."""
    shutil.copytree(root, tmp_path / "copy", copy_function=os.link)
    (root / "meta" / "parol6.json.part").hardlink_to(tmp_path / "copy" / "meta" / "stats.json")
    before = tree(tmp_path / "copy")
    Dataset(root, spec).add(make_episode(3))
    assert tree(tmp_path / "copy") == before
    assert len(Dataset(root, spec)) == 3


def test_readers_change_nothing(root, tmp_path):
    cut_off(root)
    (root / "meta" / "info.json").write_text("{")
    before = tree(tmp_path)
    recording = open_recording(root)
    assert (recording.episodes, "last episode" in recording.lost) == (2, True)
    assert main(["dataset", "check", str(root), "--no-video"]) == 1
    assert tree(tmp_path) == before


def test_files_that_a_repair_removes_are_kept(root, spec):
    cut_off(root)
    left = {"data/chunk-000/file-002.parquet": "rows", "tmpabc/x.mp4": "video", "images/a/b.png": "image"}
    for name, text in left.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    repaired = Dataset(root, spec).repaired
    [kept] = (root / ".removed").iterdir()
    assert str(kept) in repaired
    assert {name: (kept / name).read_text() for name in left} == left
    assert json.loads((kept / "meta" / "info.json").read_text())["total_episodes"] == 2
    assert len(Dataset(root, spec)) == 2


def test_an_existing_folder_of_images_is_kept(root, spec, make_episode):
    (root / "images").mkdir()
    (root / "images" / "mine.png").write_text("mine")
    Dataset(root, spec).add(make_episode(3))
    [kept] = (root / ".removed").rglob("mine.png")
    assert kept.read_text() == "mine"


def test_a_lock_is_not_opened_through_a_link(root, precious):
    path = root.with_name(".data.parol6.lock")
    for make in (lambda: path.symlink_to(precious / "thesis.tex"), lambda: path.hardlink_to(precious / "thesis.tex"),
                 lambda: os.mkfifo(path), lambda: path.write_text("somebody's")):  # fmt: skip
        make()
        with pytest.raises(DatasetError, match="lock"), lock(root):
            pass
        assert (precious / "thesis.tex").read_text() == "precious"
        path.unlink()


@pytest.mark.parametrize("name", [".data.parol6.part", ".data.parol6.removed"])
def test_links_beside_the_dataset_are_not_followed(tmp_path, spec, precious, name):
    (tmp_path / name).symlink_to(precious)
    if name != ".data.parol6.part":
        (tmp_path / ".data.parol6.part").mkdir()
    before = tree(tmp_path)
    with pytest.raises(DatasetError, match="is a link"):
        Dataset(tmp_path / "data", spec)
    assert tree(tmp_path) == before


def test_folders_that_cannot_be_a_dataset_are_refused(tmp_path, spec, monkeypatch):
    (tmp_path / "file").write_text("x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    monkeypatch.chdir(tmp_path)
    for name in ("file", "nowhere", "/", ".", ".."):
        with pytest.raises(DatasetError):
            Dataset(name, spec)


def test_an_error_while_writing_removes_only_new_files(root, spec, make_episode):
    (root / "tmp_notes").mkdir()
    (root / "tmp_notes" / "note.txt").write_text("mine")
    (root / "data" / "mine.txt").write_text("mine")
    before = tree(root)

    def fail(*_, **__):
        raise RuntimeError("no such encoder")

    with pytest.raises(DatasetError, match="no such encoder"):
        Dataset(root, spec, write=fail).add(make_episode(3))
    assert tree(root) == before
