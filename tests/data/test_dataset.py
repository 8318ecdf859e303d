"""Datasets on the disk: LeRobot reads them, they can be continued, and crashes do not break them."""

import dataclasses
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("datasets")

from lerobot.datasets.lerobot_dataset import LeRobotDataset

from smolvla_gym.data.dataset import Dataset, Episode
from smolvla_gym.data.lerobot_writer import write_frames
from smolvla_gym.data.transaction import repair
from smolvla_gym.errors import DatasetError
from smolvla_gym.parol6 import ACTION_NAMES
from tests.data.processes import server_context


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, spec, make_episode):
    """A dataset with one episode. Not to be written to."""
    dataset = Dataset(tmp_path_factory.mktemp("recorded") / "data", spec)
    dataset.add(make_episode(1))
    return dataset.root


def load(root):
    return LeRobotDataset("local/parol6", root=root, video_backend="pyav")


def agrees(root, episodes):
    """Check that LeRobot finds exactly these episodes."""
    dataset = load(root)
    assert dataset.num_episodes == len(episodes)
    assert len(dataset) == sum(len(episode) for episode in episodes)
    index = 0
    for number, episode in enumerate(episodes):
        for i in range(len(episode)):
            frame = dataset[index]
            assert int(frame["episode_index"]) == number
            assert frame["task"] == episode.instruction
            np.testing.assert_array_equal(frame["observation.state"].numpy(), episode.states[i])
            np.testing.assert_array_equal(frame["action"].numpy(), episode.actions[i])
            image = 255 * frame["observation.images.wrist"].permute(1, 2, 0).numpy()
            assert np.abs(image - episode.images["wrist"][i]).mean() < 4
            index += 1


def test_cameras_of_any_name(tmp_path, spec, make_episode):
    names = ("side", "front-2")
    episode = make_episode(1)
    images = dict.fromkeys(names, episode.images["wrist"])
    dataset = Dataset(tmp_path / "data", dataclasses.replace(spec, cameras=names))
    dataset.add(dataclasses.replace(episode, images=images))
    assert set(load(dataset.root).meta.camera_keys) == {f"observation.images.{name}" for name in names}
    assert Dataset(dataset.root, dataclasses.replace(spec, cameras=names)).spec.cameras == names


def test_lerobot_reads_the_dataset(tmp_path, spec, make_episode):
    dataset = Dataset(tmp_path / "new" / "data", spec)
    assert (len(dataset), dataset.next_seed, dataset.repaired) == (0, None, None)
    assert not dataset.root.exists()
    episodes = [make_episode(3), make_episode(5, frames=7, instruction="take the blue cube")]
    for episode in episodes:
        dataset.add(episode)
    agrees(dataset.root, episodes)
    info = json.loads((dataset.root / "meta" / "info.json").read_text())
    assert (info["fps"], info["robot_type"]) == (30, "parol6")
    for name in ("action", "observation.state"):
        assert info["features"][name]["names"] == list(ACTION_NAMES)
        assert info["features"][name]["units"] == ["rad"] * 6 + ["opening 0..1"]
    assert info["features"]["observation.images.wrist"]["shape"] == [32, 48, 3]
    stats = json.loads((dataset.root / "meta" / "stats.json").read_text())
    states = np.concatenate([np.stack(episode.states) for episode in episodes])
    np.testing.assert_allclose(stats["observation.state"]["mean"], states.mean(axis=0), atol=1e-5)


def test_a_dataset_is_continued(tmp_path, spec, make_episode):
    first = Dataset(tmp_path / "data", spec)
    first.add(make_episode(3))
    first.leave_out(4)
    first.add(make_episode(5))
    again = Dataset(tmp_path / "data", spec)
    assert (len(again), again.next_seed, again.left_out) == (2, 6, 1)
    again.add(make_episode(6))
    agrees(again.root, [make_episode(seed) for seed in (3, 5, 6)])
    assert [episode["seed"] for episode in again.episodes] == [3, 5, 6]


MOMENTS = ("before", "saved", "finalized", "written", "committed")


def killed_at(moment, root, spec, episode):
    """Add an episode in a process that is killed meanwhile."""
    from smolvla_gym.data import dataset as module
    from smolvla_gym.data import transaction

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "before":
        LeRobotDataset.save_episode = die
    elif moment == "saved":
        LeRobotDataset.finalize = die
    elif moment == "finalized":
        json.dumps = die
    elif moment == "written":
        module.sync_tree = transaction.sync_tree = die
    else:
        remove = shutil.rmtree
        module.shutil.rmtree = lambda path, **k: die() if not k and ".meta" in str(path) else remove(path, **k)
    Dataset(root, spec).add(episode)
    os._exit(0)


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("there", [0, 1])
def test_a_kill_takes_no_finished_episode_with_it(tmp_path, spec, recorded, make_episode, moment, there):
    if moment == "committed" and not there:
        pytest.skip("the first episode is committed by a rename alone")
    root = tmp_path / "data"
    episodes = []
    if there:
        shutil.copytree(recorded, root)
        episodes.append(make_episode(1))
    process = server_context().Process(target=killed_at, args=(moment, root, spec, make_episode(9)))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL

    again = Dataset(root, spec)
    if moment == "committed":
        episodes.append(make_episode(9))
        assert again.repaired is None
    else:  # what was taken out is where the message says
        assert Path(again.repaired.rpartition(" ")[2]).is_dir()
    assert len(again) == len(episodes)
    again.add(make_episode(7))
    agrees(root, [*episodes, make_episode(7)])
    # Nothing is deleted.
    assert sorted(path.name for path in root.iterdir()) == [*([".removed"] if there else []), "data", "meta", "videos"]
    beside = [] if there or moment == "committed" else [".data.parol6.removed"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*beside, "data"]


def test_ctrl_c_takes_effect_after_the_writing(tmp_path, spec, make_episode):
    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        write_frames(*arguments, **options)

    dataset = Dataset(tmp_path / "data", spec, write=interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            dataset.add(make_episode(1))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(dataset) == 1
    agrees(dataset.root, [make_episode(1)])


def test_an_error_while_writing_keeps_the_other_episodes(tmp_path, spec, make_episode, monkeypatch):
    dataset = Dataset(tmp_path / "data", spec)
    dataset.add(make_episode(1))
    with monkeypatch.context() as patch:
        patch.setattr(LeRobotDataset, "finalize", lambda self: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            dataset.add(make_episode(2))
    assert (len(dataset), dataset.next_seed) == (1, 2)
    dataset.add(make_episode(3))
    agrees(dataset.root, [make_episode(1), make_episode(3)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 15}, "fps is 30, here 15"),
        ({"cameras": ("wrist", "scene")}, r"cameras is \['wrist'\], here \['scene', 'wrist'\]"),
        ({"image_size": (64, 64)}, r"shape of observation.images.wrist is \[32, 48, 3\], here \[64, 64, 3\]"),
        ({"gripper": "pneumatic"}, "gripper is ssg48, here pneumatic"),
    ],
)
def test_other_frames_are_refused(tmp_path, spec, recorded, change, message):
    shutil.copytree(recorded, tmp_path / "data")
    with pytest.raises(DatasetError, match=message):
        Dataset(tmp_path / "data", dataclasses.replace(spec, **change))


def test_another_arm_or_unit_is_refused(tmp_path, spec, recorded):
    shutil.copytree(recorded, tmp_path / "data")
    path = tmp_path / "data" / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["robot_type"] = "so100_follower"
    info["features"]["action"]["units"] = ["deg"] * 7
    path.write_text(json.dumps(info))
    with pytest.raises(DatasetError, match=r"robot_type is 'so100_follower', not 'parol6'; units of action are .'deg'"):
        Dataset(tmp_path / "data", spec)


def test_a_folder_without_a_dataset_is_refused(tmp_path, spec):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("my thesis")
    with pytest.raises(DatasetError, match=r"There is no LeRobot dataset in .*thesis: meta/info\.json is missing"):
        Dataset(tmp_path / "thesis", spec)
    assert repair(tmp_path / "thesis") is None
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "my thesis"


def test_broken_frames_are_refused(tmp_path, spec, make_episode):
    dataset = Dataset(tmp_path / "data", spec)
    broken = make_episode(1)
    broken.actions[2][4] = np.nan
    with pytest.raises(DatasetError, match="The action of frame 2 is nan in joint_5"):
        dataset.add(broken)
    with pytest.raises(DatasetError, match="without frames"):
        dataset.add(Episode.begin("", 0, "expert", spec.cameras))
    small = make_episode(1)
    small.images["wrist"][0] = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(DatasetError, match=r"images of wrist are \[\(8, 8, 3\), \(32, 48, 3\)\]"):
        dataset.add(small)
    assert not dataset.root.exists()


def test_a_full_disk_is_detected_before_the_episode(tmp_path, spec, make_episode, monkeypatch):
    dataset = Dataset(tmp_path / "deep" / "data", spec)
    dataset.check_disk(1000)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=201_000_000))
    dataset.check_disk(200)
    with pytest.raises(DatasetError, match="has 201 MB free, and the next episode may need 205 MB"):
        dataset.check_disk(1000)


def test_images_are_copied(spec):
    image = np.zeros((32, 48, 3), np.uint8)
    episode = Episode.begin("", 0, "expert", spec.cameras)
    episode.note({"pixels": {"wrist": image}, "agent_pos": np.zeros(7)}, np.zeros(7))
    image[:] = 255
    assert not episode.images["wrist"][0].any()


def test_an_interrupted_repair_is_repeated(tmp_path, spec, make_episode):
    """The last moment of a repair: the broken ``meta`` is removed and the copy is not renamed yet."""
    dataset = Dataset(tmp_path / "data", spec)
    for seed in (1, 2):
        dataset.add(make_episode(seed))
    (dataset.root / "meta").rename(dataset.root / ".meta_before")
    again = Dataset(dataset.root, spec)
    assert "the last episode" in again.repaired
    assert len(again) == 2
    again.add(make_episode(3))
    assert len(Dataset(dataset.root, spec)) == 3


def test_the_std_of_a_resting_joint_has_a_floor(tmp_path, spec, make_episode):
    """The floor holds for any number of episodes that LeRobot merges into the statistics."""
    dataset = Dataset(tmp_path / "data", spec)
    episodes = [make_episode(seed) for seed in range(3)]
    for episode in episodes:
        for state in episode.states:
            state[3] = 0.5
        dataset.add(episode)
    stats = json.loads((dataset.root / "meta" / "stats.json").read_text())
    true = np.concatenate([np.stack(episode.states) for episode in episodes]).std(axis=0)
    std = np.array(stats["observation.state"]["std"])
    assert std[3] == pytest.approx(0.01)
    np.testing.assert_allclose(np.delete(std, 3), np.delete(true, 3), rtol=1e-3)
    assert stats["observation.state"]["count"] == [15]


def test_a_second_recorder_is_refused(tmp_path, spec, make_episode):
    root = tmp_path / "data"
    one, two = Dataset(root, spec), Dataset(root, spec)
    one.add(make_episode(1))
    with pytest.raises(DatasetError, match=r"Another program has changed .*it had 0 episodes and now has 1"):
        two.add(make_episode(2))
    two = Dataset(root, spec)
    one.leave_out(2)
    for refused in (lambda: two.leave_out(2), lambda: two.add(make_episode(2))):
        with pytest.raises(DatasetError, match="Another program has changed"):
            refused()
    one.add(make_episode(3))
    shutil.move(root, tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="it had 2 episodes and now has 0"):
        one.add(make_episode(4))
    agrees(tmp_path / "elsewhere", [make_episode(1), make_episode(3)])


def test_seeds_of_failed_episodes_are_stored(tmp_path, spec, make_episode):
    dataset = Dataset(tmp_path / "data", spec)
    dataset.leave_out(2)
    dataset.add(make_episode(3))
    dataset.leave_out(4)
    dataset.leave_out(5, solved_alone=True)
    again = Dataset(tmp_path / "data", spec)
    assert (again.left_out, again.solved_alone, again.next_seed) == (2, 1, 6)
    assert again.tried == {2, 3, 4, 5}


def test_scene_options_are_stored(tmp_path, spec, make_episode):
    root = tmp_path / "data"
    scene = {"task": "lift", "num_objects": 2}
    Dataset(root, spec, scene).add(make_episode(1))
    Dataset(root, spec, {**scene, "task": "push"}).add(make_episode(2))
    assert Dataset(root, spec).episodes == [
        {"seed": 1, "source": "expert", **scene},
        {"seed": 2, "source": "expert", "task": "push", "num_objects": 2},
    ]
    content = json.loads((root / "meta" / "parol6.json").read_text())
    assert (content["task"], content["num_objects"]) == (None, 2)  # what all episodes agree in


@pytest.mark.parametrize("content", ["{", "[]", '{"episodes": [{}]}', '{"episodes": [{"seed": "3"}]}'])
def test_broken_seeds_are_named(tmp_path, spec, recorded, content):
    shutil.copytree(recorded, tmp_path / "data")
    (tmp_path / "data" / "meta" / "parol6.json").write_text(content)
    with pytest.raises(DatasetError, match=r"parol6\.json is broken .*or remove it"):
        Dataset(tmp_path / "data", spec)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("there", [0, 1])
def test_an_episode_is_on_the_disk_before_it_counts(tmp_path, spec, make_episode, monkeypatch, there):
    root = tmp_path / "data"
    dataset = Dataset(root, spec)
    for seed in range(there):
        dataset.add(make_episode(seed))
    before = set(root.rglob("*"))
    events, fsync, rename = [], os.fsync, type(root).rename

    def note_sync(handle):
        events.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def note_rename(path, to):
        events.append("renamed")
        return rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", note_sync)
        patch.setattr(type(root), "rename", note_rename)
        dataset.add(make_episode(9))
    committed = len(events) - 1 - events[::-1].index("renamed")
    written = root if there else root.with_name(".data.parol6.part")
    new = {path for path in root.rglob("*") if path not in before or path.is_dir() or path.parent == root / "meta"}
    assert len([path for path in new if path.is_file()]) == 7
    assert {str(written / path.relative_to(root)) for path in new} <= set(events[:committed])
    assert str(root if there else tmp_path) in events[committed:]
    if there:  # what a repair would put back was there before anything was overwritten
        copied = set(events[: events.index("renamed")])
        assert {str(root / ".meta_before.part" / name) for name in ("info.json", "stats.json")} <= copied
