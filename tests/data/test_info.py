"""Broken metadata is refused with an error message of one line."""

import json
import os
import shutil
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("lerobot.datasets")

from smolvla_gym.data.info import DATA_PATH, VIDEO_PATH, read_info
from smolvla_gym.data.reader import open_recording
from smolvla_gym.errors import DatasetError, SmolVLAGymError
from tests.training.datasets import edit_json, make_dataset

WRIST = "observation.images.wrist"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("recorded") / "data")


@pytest.fixture
def root(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path / "data")


def refused(root, *words):
    begin = time.monotonic()
    with pytest.raises(DatasetError) as caught:
        open_recording(root)
    assert time.monotonic() - begin < 1
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_the_content_is_read(root):
    info = read_info(root)
    assert (info.fps, info.robot_type, info.total_episodes, info.total_frames, info.total_tasks) == (
        30, "parol6", 2, 40, 1,
    )  # fmt: skip
    assert info.cameras == ("wrist", "scene")
    assert (info.data_path, info.video_path) == (DATA_PATH, VIDEO_PATH)
    assert info.features[WRIST].image_size == (64, 64)
    assert info.features["action"].units == ("rad",) * 6 + ("opening 0..1",)
    assert info.data_file(0, 1) == root / "data" / "chunk-000" / "file-001.parquet"
    assert info.video_file(WRIST, 12, 3456) == root / "videos" / WRIST / "chunk-012" / "file-3456.mp4"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fps", float("nan")), ("fps", True), ("fps", "30"), ("fps", 29.97), ("fps", 10**6), ("fps", -30),
        ("total_frames", -1), ("total_frames", 10**30), ("total_episodes", 10**15), ("total_episodes", "2"),
        ("features", None), ("features", []), ("features", {"action": None}), ("features", {"a/b": {}}),
        ("robot_type", ["parol6"]), ("codebase_version", None), ("codebase_version", 3), ("codebase_version", "v9.0"),
        ("data_path", None), ("data_path", 7), ("video_path", None),
        ("data_path", "{0.__class__}"), ("data_path", "{chunk_index.__class__}"), ("data_path", "{x:>1000000000}"),
        ("data_path", "{chunk_index:>1000000000}"), ("data_path", "{chunk_index!r}"), ("data_path", "{}"),
        ("data_path", "{file_index"), ("data_path", "../{file_index}.parquet"), ("data_path", "/etc/{file_index}"),
        ("video_path", "../../{video_key}/{file_index}.mp4"), ("video_path", "C:/{file_index}.mp4"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named(root, name, value):
    edit_json(root / "meta" / "info.json")
    path = root / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    refused(root, "info.json" if name != "codebase_version" else "v")


@pytest.mark.parametrize("shape", [None, [], [64, 64], [64, 64, 0], [10**9, 64, 3], ["64", 64, 3], [64, 64, 3.0]])
def test_a_camera_of_a_wrong_shape_is_named(root, shape):
    path = root / "meta" / "info.json"
    features = json.loads(path.read_text())["features"]
    features[WRIST]["shape"] = shape
    edit_json(path, features=features)
    refused(root, WRIST, "shape")


def test_another_size_of_the_video_is_named(root):
    path = root / "meta" / "info.json"
    features = json.loads(path.read_text())["features"]
    features[WRIST]["shape"] = [32, 48, 3]
    edit_json(path, features=features)
    refused(root, "64x64", "32x48")


def test_another_rate_of_time_stamps_and_videos_is_named(root):
    edit_json(root / "meta" / "info.json", fps=15)
    refused(root, "15 Hz", "30 Hz")
    for file in (root / "data").rglob("*.parquet"):
        change(file, "timestamp", lambda old: [i / 15 for i in range(len(old))])
    refused(root, "15 Hz", "30 frames a second")


def test_another_format_is_named_with_its_converter(root):
    edit_json(root / "meta" / "info.json", codebase_version="v2.1")
    shutil.rmtree(root / "meta" / "episodes")
    refused(root, "v2.1", "python -m lerobot.scripts.convert_dataset_v21_to_v30", "--push-to-hub=false")


def change(file, name, values, kind=None):
    """Replace a column of a Parquet file, perhaps with one of another type."""
    table = pq.read_table(file)
    index = table.column_names.index(name)
    column = pa.array(values(table[name]), kind or table.schema.field(name).type)
    pq.write_table(table.set_column(index, pa.field(name, column.type), column), file)


def first(root, pattern):
    return sorted(root.rglob(pattern))[0]


def test_episodes_that_name_files_elsewhere_are_refused(root):
    file = first(root, "meta/episodes/**/*.parquet")
    change(file, "data/file_index", lambda old: ["../../../etc"], pa.string())
    refused(root, "data/file_index")


@pytest.mark.parametrize(
    ("name", "value"),
    [("length", 10**15), ("length", 0), ("length", 19), ("episode_index", -1), ("episode_index", 1),
     ("data/chunk_index", 10**12), (f"videos/{WRIST}/from_timestamp", float("nan"))],
)  # fmt: skip
def test_wrong_numbers_of_episodes_are_refused(root, name, value):
    change(first(root, "meta/episodes/**/*.parquet"), name, lambda old: [value])
    refused(root)


def test_columns_of_other_types_are_refused(root):
    file = first(root, "data/**/*.parquet")
    kept = file.read_bytes()
    for name, values, kind in (
        ("action", lambda old: ["x"] * len(old), pa.string()),
        ("action", lambda old: [[0.0] * (i % 3 + 6) for i in range(len(old))], pa.list_(pa.float32())),
        ("action", lambda old: [None] * len(old), pa.list_(pa.float32())),
        ("observation.state", lambda old: [[[0.0]] * 5] * len(old), pa.list_(pa.list_(pa.float32()))),
        ("task_index", lambda old: [0.5] * len(old), pa.float64()),
        ("task_index", lambda old: [99] * len(old), pa.int64()),
        ("task_index", lambda old: [None] * len(old), pa.int64()),
        ("frame_index", lambda old: [0] * len(old), pa.int64()),
        ("timestamp", lambda old: [float("nan")] * len(old), pa.float32()),
    ):
        change(file, name, values, kind)
        refused(root)
        file.write_bytes(kept)


def test_a_table_that_unpacks_into_billions_of_rows_is_refused(root):
    """A page that says `this value, again and again` has a few bytes."""
    file = first(root, "data/**/*.parquet")
    names = pq.read_schema(file).names
    rows = 3_000_000
    bomb = pa.table(
        {name: pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int8()), rows), [0]) for name in names}
    )
    pq.write_table(bomb, file, compression="zstd", row_group_size=rows)
    assert file.stat().st_size < 100_000
    assert f"claims {rows} rows" in open_recording(root).lost
    sentences = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int8()), 90_000), ["x" * 10**6])
    pq.write_table(
        pa.table({"task_index": pa.array(range(90_000)), "task": sentences}), root / "meta" / "tasks.parquet"
    )
    shutil.copy(sorted(root.rglob("data/**/*.parquet"))[1], file)
    refused(root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
@pytest.mark.parametrize(
    "name", ["meta/info.json", "meta/parol6.json", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"]
)
def test_a_fifo_in_place_of_a_file_does_not_block(root, name):
    (root / name).unlink()
    os.mkfifo(root / name)
    refused(root, name.rpartition("/")[2])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
@pytest.mark.parametrize("pattern", ["data/**/*.parquet", "*.mp4"])
def test_a_fifo_in_place_of_a_file_costs_only_its_episode(root, pattern):
    path = first(root, pattern)
    path.unlink()
    os.mkfifo(path)
    recording = open_recording(root)
    assert recording.missing == 1
    assert "is not a regular file" in recording.lost


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "ffconcat version 1.0\nfile /etc/passwd\n"])
def test_a_playlist_is_no_video(root, text):
    first(root, "*.mp4").write_text(text)
    assert "cannot be opened" in open_recording(root).lost


@pytest.mark.parametrize("column", ["task", "__index_level_0__", "sentence"])
def test_instructions_are_found_under_any_name(root, column):
    pq.write_table(pa.table({"task_index": [0], column: ["lift the red cube"]}), root / "meta" / "tasks.parquet")
    assert open_recording(root).instructions == ("lift the red cube",)


@pytest.mark.parametrize(
    "table",
    [{"task_index": [0]}, {"task": ["lift it"]}, {"task_index": [0], "a": ["x"], "b": ["y"]},
     {"task_index": [0], "task": [" "]}, {"task_index": [0], "task": [7]}, {"task_index": [0, 0], "task": ["x", "y"]}],
)  # fmt: skip
def test_ambiguous_instructions_are_refused(root, table):
    pq.write_table(pa.table(table), root / "meta" / "tasks.parquet")
    refused(root, "tasks.parquet")


def test_images_in_parquet_are_named_with_their_converter(root):
    path = root / "meta" / "info.json"
    features = json.loads(path.read_text())["features"]
    features[WRIST]["dtype"] = "image"
    edit_json(path, features=features)
    refused(root, "wrist", "convert_image_to_video")


@pytest.mark.parametrize(
    "content", ["[" * 300_000, '{"gripper": 7}', '{"num_objects": "--out=/"}', '{"episodes": [{"seed": -1}]}', "[1]"]
)
def test_broken_seeds_are_refused(root, content):
    (root / "meta" / "parol6.json").write_text(content)
    refused(root, "parol6.json")


def test_errors_are_of_this_package():
    assert issubclass(DatasetError, SmolVLAGymError)
