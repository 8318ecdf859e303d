"""``smolvla-gym dataset check``: each defect is found in a dataset that is clean without it."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("lerobot.datasets")

from smolvla_gym.cli.main import main
from smolvla_gym.data.checks.check import check_dataset
from smolvla_gym.data.dataset import Dataset, Episode
from smolvla_gym.data.spec import DatasetSpec
from smolvla_gym.parol6 import STANDBY
from tests.training.datasets import edit_json

FRAMES = 40
WRIST = "observation.images.wrist"


def moving_pattern(rng, frames=FRAMES):
    """A bright pattern that moves by a pixel each frame."""
    image = np.kron(rng.integers(60, 200, (8, 16), np.uint8), np.ones((8, 8), np.uint8))
    return [np.repeat(np.roll(image, 2 * i, axis=1)[:, :64, None], 3, axis=2) for i in range(frames)]


def make(root, cameras=("wrist", "scene"), change=lambda seed, states, actions, images: None):
    """Record two episodes in which all joints move; ``change`` spoils one before it is written."""
    spec = DatasetSpec(30, cameras, (64, 64), "ssg48")
    dataset = Dataset(root, spec, {"task": "lift", "num_objects": 2, "randomization": 1})
    rng = np.random.default_rng(0)
    for seed in (7, 8):
        phase = np.linspace(0, 1, FRAMES)[:, None]
        states = np.hstack([STANDBY - 0.3 * phase, 0.2 + 0.5 * phase]).astype(np.float32)
        actions = np.vstack([states[1:], states[-1:]])
        images = {camera: moving_pattern(rng) for camera in cameras}
        change(seed, states, actions, images)
        dataset.add(Episode("lift the red cube", seed, "expert", images, list(states), list(actions)))
    return root


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return make(tmp_path_factory.mktemp("clean") / "data")


@pytest.fixture
def root(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "data")


def codes(root, **options):
    return {finding.code for finding in check_dataset(root, **options).findings}


def column(file, name, values):
    """Replace a column of a Parquet file."""
    table = pq.read_table(file)
    index = table.column_names.index(name)
    kept = table.schema.field(name)
    pq.write_table(table.set_column(index, kept, pa.array(list(values(table[name])), kept.type)), file)


def rows(root, number=0):
    return sorted((root / "data").rglob("*.parquet"))[number]


def test_a_clean_dataset_has_no_findings(root, capsys):
    before = {path: path.read_bytes() for path in root.parent.rglob("*") if path.is_file()}
    seen = []
    report = check_dataset(root, progress=lambda done, total: seen.append((done, total)))
    assert (report.episodes, report.frames, report.findings) == (2, 2 * FRAMES, ())
    assert seen[-1] == (4 * FRAMES, 4 * FRAMES)
    assert main(["dataset", "check", str(root)]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in root.parent.rglob("*") if path.is_file()} == before


def vectors(change):
    """Spoil states and actions of the second episode in its Parquet file."""

    def spoil(root):
        for name in ("observation.state", "action"):
            file = rows(root, 1)
            values = np.array(pq.read_table(file)[name].to_pylist(), np.float32)
            change(name, values)
            column(file, name, lambda _, values=values: values)

    return spoil


def nan(name, values):
    values[5, 2] = np.nan if name == "action" else values[5, 2]


def degrees(name, values):
    values[:, :6] = np.rad2deg(values[:, :6])


def percent(name, values):
    values[:, 6] *= 100


def beyond(name, values):
    values[10:, 0] = 3.0 if name == "action" else values[10:, 0]


def jump(name, values):
    values[20, 3] += 0.5


def stuck(name, values):
    values[:, 1] = values[0, 1] if name == "observation.state" else values[:, 1]


def nothing(name, values):
    values[:] = values[0]


def skip_one(frames):
    return [*range(5), *range(6, FRAMES + 1)]


def wait(times):
    return [time.as_py() + 0.1 * (i > 9) for i, time in enumerate(times)]


def info(**changes):
    return lambda root: edit_json(root / "meta" / "info.json", **changes)


def tasks(**columns):
    return lambda root: pq.write_table(
        pa.table(columns).replace_schema_metadata({"pandas": "{}"}), root / "meta" / "tasks.parquet"
    )


def size(root):
    path = root / "meta" / "info.json"
    features = json.loads(path.read_text())["features"]
    features[WRIST]["shape"] = [32, 32, 3]
    edit_json(path, features=features)


def remove(pattern):
    return lambda root: sorted(root.rglob(pattern))[0].unlink()


def cut(pattern, share):
    def spoil(root):
        path = sorted(root.rglob(pattern))[0]
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return spoil


def garble(root):
    """Leave the header of a video and spoils its frames."""
    path = sorted(root.rglob("*.mp4"))[0]
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 1200
    content[start : start + 4000] = bytes(4000)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (remove("data/**/*.parquet"), "missing_file"),
        (remove("*.mp4"), "missing_file"),
        (remove("stats.json"), "missing_file"),
        (remove("tasks.parquet"), "unreadable_file"),
        (cut("data/**/*.parquet", 0.5), "truncated_file"),
        (cut("*.mp4", 0.5), "truncated_file"),
        (cut("info.json", 0.5), "unreadable_dataset"),
        (remove("info.json"), "unreadable_dataset"),
        (info(total_frames=99), "contradictory_counts"),
        (info(total_episodes=3), "contradictory_counts"),
        (info(total_tasks=3), "contradictory_counts"),
        (info(fps=15), "timestamps_rate"),
        (info(fps=15), "video_rate"),
        (info(codebase_version="v2.1"), "unreadable_dataset"),
        (size, "video_size"),
        (lambda root: column(rows(root), "frame_index", skip_one), "missing_frames"),
        (lambda root: column(rows(root), "timestamp", wait), "timestamps_irregular"),
        (lambda root: column(rows(root), "task_index", lambda old: [99] * FRAMES), "unknown_task"),
        (lambda root: column(rows(root), "episode_index", lambda old: [5] * FRAMES), "contradictory_counts"),
        (tasks(task_index=[0], task=[" "]), "empty_sentence"),
        (tasks(task_index=[0, 1], task=["lift the red cube", "Lift the  red cube"]), "duplicate_sentence"),
        (tasks(task_index=[1, 0], task=["lift it", "lift the red cube"]), "task_order"),
        (lambda root: pq.write_table(pa.table({"task_index": [0], "task": ["x"]}), root / "meta" / "tasks.parquet"),
         "tasks_without_index"),
        (lambda root: (root / "meta" / "parol6.json").unlink(), "seeds_unknown"),
        (lambda root: (root / "meta" / "parol6.json").write_text("{"), "unreadable_file"),
        (lambda root: edit_json(root / "meta" / "parol6.json", episodes=[{"seed": 7}, {"seed": 7}]), "seeds_repeated"),
        (vectors(nan), "not_finite"),
        (vectors(degrees), "mixed_units"),
        (vectors(percent), "mixed_units"),
        (vectors(beyond), "action_limits"),
        (vectors(jump), "jump"),
        (vectors(stuck), "stuck_joint"),
        (vectors(nothing), "does_nothing"),
    ],
)  # fmt: skip
def test_each_defect_is_found(root, spoil, code):
    spoil(root)
    assert code in codes(root, video=False)


def test_a_video_that_cannot_be_decoded_is_found(root):
    garble(root)
    assert codes(root) & {"undecodable_video", "truncated_file", "frozen_camera", "dark_camera"}


def test_where_a_defect_is(root):
    vectors(jump)(root)
    found = check_dataset(root, video=False).findings
    assert {(finding.code, finding.episode, finding.frame) for finding in found} == {("jump", 1, 20)}


def test_cameras(tmp_path):
    def change(seed, states, actions, images):
        if seed == 8:
            images["wrist"][3:] = [images["wrist"][3]] * (FRAMES - 3)
            images["scene"][:] = [image // 40 for image in images["scene"]]

    root = make(tmp_path / "data", change=change)
    found = {(f.code, f.episode, f.camera) for f in check_dataset(root).findings}
    assert ("frozen_camera", 1, "wrist") in found
    assert ("dark_camera", 1, "scene") in found
    assert {episode for _, episode, _ in found} == {1}
    assert codes(root, video=False) == set()


def test_a_constant_image_of_a_resting_arm_is_no_defect(tmp_path):
    def change(seed, states, actions, images):
        states[3:] = states[3]
        actions[3:] = actions[3]
        images["wrist"][3:] = [images["wrist"][3]] * (FRAMES - 3)

    assert codes(make(tmp_path / "data", ("wrist",), change)) == set()


def test_json_and_the_exit_code(root, capsys):
    vectors(nan)(root)
    assert main(["dataset", "check", str(root), "--no-video", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["episodes"], report["clean"]) == (2, False)
    [finding] = report["findings"]
    assert (finding["code"], finding["severity"], finding["episode"], finding["frame"]) == ("not_finite", "error", 1, 5)
    assert main(["dataset", "check", str(root), "--no-video"]) == 1
    assert "not_finite [episode 1, frame 5]" in capsys.readouterr().out
    assert main(["dataset", "check", str(root / "nowhere")]) == 1
    assert "There is no LeRobot dataset" in capsys.readouterr().out


def test_another_robot(tmp_path):
    """Six joints in degrees, a gripper in percent and names of its own: what LeRobot records of an SO-101."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    names = [
        f"{name}.pos" for name in ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
    ]
    vector = {"dtype": "float32", "shape": (6,), "names": names}
    camera = {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]}
    features = {"observation.state": dict(vector), "action": dict(vector), "observation.images.front": camera}
    root = tmp_path / "data"
    made = LeRobotDataset.create("local/x", 30, features, root, "so101_follower")
    rng = np.random.default_rng(0)
    for episode in range(2):
        images = moving_pattern(rng)
        for i in range(FRAMES):
            state = (np.array([10, 40, -60, 20, 5, 50]) * np.sin(0.1 * i + episode)).astype(np.float32)
            made.add_frame({"observation.state": state, "action": state + 1, "observation.images.front": images[i],
                            "task": "put the brick into the box"})  # fmt: skip
        made.save_episode(parallel_encoding=False)
    made.finalize()
    assert codes(root) == set()
    file = rows(root)
    values = np.array(pq.read_table(file)["observation.state"].to_pylist(), np.float32)
    values[50:, 0] = np.nan
    values[:30, 1] = values[0, 1]
    column(file, "observation.state", lambda old: values)
    assert {"not_finite", "stuck_joint"} <= codes(root, video=False) <= {"not_finite", "stuck_joint", "jump"}
