"""Conversion of datasets that other recorders wrote."""

import json
import shutil
import sys
import time

import numpy as np
import pytest

pytest.importorskip("lerobot.datasets")

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from smolvla_gym.cli.main import main
from smolvla_gym.data import convert
from smolvla_gym.data.checks.check import check_dataset
from smolvla_gym.data.convert import convert_dataset
from smolvla_gym.data.decoding import decode_images
from smolvla_gym.data.info import read_info
from smolvla_gym.data.mapping import convert_values, parse_renames, plan_mapping
from smolvla_gym.data.reader import open_recording
from smolvla_gym.errors import DatasetError
from smolvla_gym.parol6 import ACTION_NAMES
from tests.data.foreign import PERCENT, VECTORS, disguise, make_moving_dataset
from tests.data.processes import server_context

CAMERAS = {"wrist": "scene", "scene": "front"}
BACK = {"scene": "wrist", "front": "scene"}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return make_moving_dataset(tmp_path_factory.mktemp("ours") / "data")


@pytest.fixture(scope="module")
def foreign(ours, tmp_path_factory):
    to = tmp_path_factory.mktemp("foreign") / "data"
    return disguise(ours, to, cameras=CAMERAS, order=(6, 2, 0, 1, 5, 3, 4), seeds=True)


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def edit_info(root, change):
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def edit_values(root, change):
    """Change the values of state and action, shape (frames, components), in each file."""
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        for name in VECTORS:
            values = change(np.array(table[name].to_pylist()))
            column = pa.array(values.astype(np.float32).tolist(), pa.list_(pa.float32()))
            table = table.set_column(table.schema.get_field_index(name), name, column)
        pq.write_table(table, path)


def assert_same(one, other, tmp_path, pixels=True):
    one, other = open_recording(one), open_recording(other)
    assert one.lengths == other.lengths
    np.testing.assert_allclose(one.states, other.states, atol=2e-6)
    np.testing.assert_allclose(one.actions, other.actions, atol=2e-6)
    assert one.instructions == other.instructions
    np.testing.assert_array_equal(one.instruction_ids, other.instruction_ids)
    if pixels:
        images = [decode_images(r, ("wrist", "scene"), (64, 64), tmp_path / str(i)) for i, r in enumerate((one, other))]
        for camera in ("wrist", "scene"):
            np.testing.assert_array_equal(images[0][camera], images[1][camera])


def test_round_trip(ours, foreign, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    before = contents(foreign)
    info = convert_dataset(foreign, tmp_path / "copy", BACK)
    assert contents(foreign) == before
    assert info.robot_type == "parol6"
    assert set(info.cameras) == {"wrist", "scene"}
    assert_same(tmp_path / "copy", ours, tmp_path)
    assert open_recording(tmp_path / "copy").seeds == {7, 8}
    assert check_dataset(tmp_path / "copy").findings == check_dataset(ours).findings == ()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    video = "videos/observation.images.{}/chunk-000/file-000.mp4"
    assert (tmp_path / "copy" / video.format("wrist")).samefile(foreign / video.format("scene"))

    loaded, original = (LeRobotDataset("local/x", root=root, video_backend="pyav") for root in (info.root, ours))
    assert len(loaded) == 40
    for name in ("action", "observation.images.wrist", "observation.images.scene", "timestamp"):
        np.testing.assert_allclose(loaded[25][name], original[25][name], atol=2e-6)
    assert loaded[25]["task"] == original[25]["task"] == "lift the red cube 8"
    for feature in VECTORS:
        for name in ("min", "max", "mean", "std", "q01", "q50"):
            wanted = original.meta.stats[feature][name]
            np.testing.assert_allclose(loaded.meta.stats[feature][name], wanted, atol=1e-4)
    for mine, theirs in zip(
        sorted((info.root / "meta" / "episodes").rglob("*.parquet")),
        sorted((ours / "meta" / "episodes").rglob("*.parquet")),
        strict=True,
    ):
        mine, theirs = pq.read_table(mine), pq.read_table(theirs)
        assert set(mine.column_names) == set(theirs.column_names)
        assert mine["tasks"].to_pylist() == theirs["tasks"].to_pylist()
        for column in ("stats/action/mean", "stats/observation.images.wrist/max"):
            np.testing.assert_allclose(
                np.ravel(mine[column].to_pylist()), np.ravel(theirs[column].to_pylist()), atol=1e-4
            )


def test_the_copy_can_be_recorded_into(ours, foreign, tmp_path):
    convert_dataset(foreign, tmp_path / "copy", BACK)
    before = contents(foreign)
    make_moving_dataset(tmp_path / "copy", seeds=(9,))
    assert open_recording(tmp_path / "copy").episodes == 3
    assert contents(foreign) == before


@pytest.mark.parametrize("degrees", [True, False])
def test_recordings_of_the_plugin_need_no_option(ours, tmp_path, degrees):
    source = disguise(ours, tmp_path / "source", degrees=degrees, robot_type="parol6_follower")
    assert main(["dataset", "convert", str(source), str(tmp_path / "copy")]) == 0
    assert_same(tmp_path / "copy", ours, tmp_path, pixels=False)
    # LeRobot's programs keep no seeds, and those that are unknown are not none.
    assert [finding.code for finding in check_dataset(tmp_path / "copy").findings] == ["seeds_unknown"]


def test_other_names_and_further_components(ours, tmp_path):
    source = disguise(ours, tmp_path / "source", robot_type="other", names={"joint_1": "base", "joint_2": "shoulder"})
    edit_values(source, lambda rows: np.hstack([np.full((len(rows), 1), 500), rows]))

    def widen(info):
        for name in VECTORS:
            info["features"][name]["names"] = {"motors": ["rail.pos", *info["features"][name]["names"]]}
            info["features"][name]["shape"] = [8]

    edit_info(source, widen)
    command = ["dataset", "convert", str(source), str(tmp_path / "copy"), "--rename", "base.pos=joint_1"]
    assert main(command) == 1
    assert main([*command, "--rename", "shoulder.pos=joint_2"]) == 0
    assert_same(tmp_path / "copy", ours, tmp_path, pixels=False)


def test_components_without_names_need_units(ours, tmp_path):
    source = disguise(ours, tmp_path / "source", robot_type=None)

    def strip(info):
        for name in VECTORS:
            info["features"][name]["names"] = None

    edit_info(source, strip)
    with pytest.raises(DatasetError, match="--units"):
        convert_dataset(source, tmp_path / "copy", {"wrist": "hand"})
    convert_dataset(source, tmp_path / "copy", units="degrees")
    assert_same(tmp_path / "copy", ours, tmp_path, pixels=False)


@pytest.mark.parametrize(
    ("renames", "message"),
    [
        ({"nose": "wrist"}, "front"),  # says which there are
        ({"front": "scene"}, "both"),
        ({"joint_1.pos": "joint_2"}, "missing"),
        ({"joint_1.pos": "elbow"}, "joint_6"),
        ({"front": "../../x"}, "letters"),
        ({"front": "a", "observation.images.front": "b"}, "twice"),
        ({"front": "observation.state"}, None),
    ],
)
def test_wrong_renames(foreign, tmp_path, renames, message):
    if message is None:  # it is a camera of that name, below observation.images.
        assert plan_mapping(read_info(foreign), renames).cameras["observation.images.front"].endswith(".state")
        return
    with pytest.raises(DatasetError, match=message):
        convert_dataset(foreign, tmp_path / "copy", renames)
    assert list(tmp_path.iterdir()) == []


def test_two_components_of_one_name(ours, tmp_path):
    source = disguise(ours, tmp_path / "source")
    edit_info(source, lambda info: info["features"]["action"]["names"].__setitem__(1, "joint_1"))
    with pytest.raises(DatasetError, match=r"joint_2.*--rename"):
        convert_dataset(source, tmp_path / "copy")
    edit_info(source, lambda info: info["features"]["action"]["names"].append("joint_2.pos"))
    for name in VECTORS:
        edit_info(source, lambda info, name=name: info["features"][name].__setitem__("shape", [8]))
    edit_info(source, lambda info: info["features"]["observation.state"]["names"].append("joint_2"))
    with pytest.raises(DatasetError, match="both be joint_"):
        convert_dataset(source, tmp_path / "copy")


@pytest.mark.parametrize("text", ["front", "=wrist", "front=", "a=b=c"])
def test_wrong_form_of_renames(text):
    with pytest.raises(DatasetError, match="OLD=NEW"):
        parse_renames([text])
    with pytest.raises(DatasetError, match="two new names"):
        parse_renames(["a=b", "a=c"])


def test_another_robot_needs_an_option(ours, tmp_path):
    source = disguise(ours, tmp_path / "source", robot_type="xarm6")
    with pytest.raises(DatasetError, match=r"xarm6.*--units"):
        convert_dataset(source, tmp_path / "copy")
    convert_dataset(source, tmp_path / "copy", units="degrees")


def halves(rows):
    return np.where(np.arange(len(rows))[:, None] < len(rows) // 2, rows, rows / PERCENT)


@pytest.mark.parametrize(
    ("change", "units", "message"),
    [
        (halves, "auto", "ambiguous"),
        (lambda rows: rows * 0, "auto", "ambiguous"),
        (lambda rows: rows, "rad", "--units degrees"),
        (lambda rows: rows / PERCENT, "degrees", "--units rad"),
        (lambda rows: rows * np.nan, "auto", "not finite"),
        (lambda rows: rows * np.append(np.ones(6), 2.0), "auto", "gripper"),
        (lambda rows: rows / np.append(PERCENT[:6], 1.0), "auto", "gripper"),
        (lambda rows: np.hstack([rows[:, :6] / PERCENT[:6] + [9, 0, 0, 0, 0, 9], rows[:, 6:] / 100]), "auto", "rad"),
    ],
)
def test_wrong_units(ours, tmp_path, change, units, message):
    source = disguise(ours, tmp_path / "source")
    edit_values(source, change)
    with pytest.raises(DatasetError, match=message):
        convert_dataset(source, tmp_path / "copy", units=units)
    assert not (tmp_path / "copy").exists()


def test_an_opening_beside_degrees(ours, tmp_path):
    source = disguise(ours, tmp_path / "source", robot_type="other")
    edit_values(source, lambda rows: rows / np.append(np.ones(6), 100))
    with pytest.raises(DatasetError, match="gripper"):
        convert_dataset(source, tmp_path / "copy", units="degrees")


@pytest.mark.parametrize(
    "place",
    [
        "videos/observation.images.front/chunk-000/file-000.mp4", "videos/observation.images.front", "data",
        "data/chunk-000/file-000.parquet", "meta", "meta/stats.json", "meta/episodes/chunk-000",
    ],
)  # fmt: skip
def test_links_are_not_followed(foreign, tmp_path, place):
    source = shutil.copytree(foreign, tmp_path / "source")
    (source / place).rename(tmp_path / "elsewhere")
    (source / place).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="link"):
        convert_dataset(source, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_targets(foreign, tmp_path):
    source = shutil.copytree(foreign, tmp_path / "source")
    before = contents(source)
    for target in (source, source / "copy", tmp_path):
        with pytest.raises(DatasetError):
            convert_dataset(source, target)
    assert contents(source) == before


@pytest.mark.parametrize("name", ["data/chunk-000/file-001.parquet", "meta/tasks.parquet"])
def test_a_missing_or_truncated_file(foreign, tmp_path, name):
    source = shutil.copytree(foreign, tmp_path / "source")
    (source / name).write_bytes((source / name).read_bytes()[:100])
    with pytest.raises(DatasetError):
        convert_dataset(source, tmp_path / "copy")
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_a_file_system_without_links(foreign, ours, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr("os.link", refuse)
    convert_dataset(foreign, tmp_path / "copy", BACK)
    video = "videos/observation.images.{}/chunk-000/file-000.mp4"
    assert not (tmp_path / "copy" / video.format("wrist")).samefile(foreign / video.format("scene"))
    assert_same(tmp_path / "copy", ours, tmp_path)


def hang_when_written(source, target, sender):
    """Convert in a process of its own, and hang before the finished copy gets its name."""
    convert.sync_tree = lambda part: (sender.send("written"), time.sleep(60))
    convert_dataset(source, target)


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork server")
def test_a_killed_conversion_leaves_nothing(foreign, tmp_path):
    context = server_context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=hang_when_written, args=(foreign, tmp_path / "copy", sender))
    process.start()
    try:
        assert receiver.poll(60)
        with pytest.raises(DatasetError, match="Another program"):
            convert_dataset(foreign, tmp_path / "copy")
    finally:
        process.kill()
        process.join()
    assert not (tmp_path / "copy").exists()
    convert_dataset(foreign, tmp_path / "copy")
    assert not [path for path in tmp_path.iterdir() if "part" in path.name]


NAMES = st.sampled_from(
    ["front", "scene", "observation.images.front", *ACTION_NAMES, "joint_1.pos", "gripper.pos", "x"]
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES | st.text(max_size=5), NAMES | st.text(max_size=5), max_size=5))
def test_renames_map_one_to_one_or_are_refused(foreign_info, renames):
    try:
        mapping = plan_mapping(foreign_info, renames)
    except DatasetError:
        return
    for columns in mapping.components.values():
        assert len(set(columns)) == 7
    assert len(set(mapping.cameras.values())) == len(mapping.cameras) == 2
    assert all(name.isprintable() and "/" not in name for name in mapping.cameras.values())
    taken = {name.removeprefix("observation.images.") for name in mapping.cameras.values()}
    for old, new in renames.items():  # none is ignored
        names = foreign_info.features["action"].names
        if old in names:
            target = ACTION_NAMES.index(new.removesuffix(".pos"))
            assert mapping.components["action"][target] == names.index(old)
        else:
            assert new.removeprefix("observation.images.") in taken


@pytest.fixture(scope="module")
def foreign_info(foreign):
    return read_info(foreign)


@given(st.lists(st.floats(-7, 7), min_size=7, max_size=7))
def test_values_come_back(values):
    rows = np.array([values])
    np.testing.assert_allclose(convert_values(rows * PERCENT, "degrees"), rows, atol=1e-5)
