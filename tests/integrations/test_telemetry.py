"""Callbacks for telemetry: their files are read back by the formats' own readers."""

from __future__ import annotations

import io
import json
import time
from collections import defaultdict

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

import smolvla_gym
from smolvla_gym.agent.scripted import ExpertAgent
from smolvla_gym.cli.main import main
from smolvla_gym.episodes.background import Background
from smolvla_gym.episodes.callback import Callback, Step
from smolvla_gym.episodes.record import EpisodeRecord
from smolvla_gym.episodes.rollout import rollout
from smolvla_gym.episodes.runner import run_episode
from smolvla_gym.errors import RecordingError
from smolvla_gym.integrations import ros_messages as ros
from smolvla_gym.integrations.scene_pose import ScenePose
from smolvla_gym.parol6 import ACTION_NAMES, forward_kinematics


class Notes(Callback):
    """Keeps everything in memory."""

    def __init__(self, seconds=0.0, error=None):
        self.steps, self.events, self.closed = [], [], 0
        self.seconds, self._error = seconds, error

    def begin(self, env, record):
        self.events.append(("begin", record.seed, record.instruction))

    def step(self, record, step):
        time.sleep(self.seconds)
        if self._error:
            raise self._error
        self.steps.append(step)

    def end(self, record):
        self.events.append(("end", record.end, record.success))

    def close(self):
        self.closed += 1


@pytest.fixture
def make():
    envs = []

    def build(**options):
        envs.append(gym.make(smolvla_gym.SIM_ID, **{"cameras": (), **options}))
        return envs[-1]

    yield build
    for env in envs:
        env.close()


def test_a_callback_sees_what_the_agent_did(make):
    env, notes = make(task="reach"), Notes()
    summary = rollout(env, ExpertAgent(), seed=3, episodes=2, callbacks=[notes])
    steps = [episode.steps for episode in summary.episodes]
    assert [event[0] for event in notes.events] == ["begin", "end"] * 2
    assert notes.events[1] == ("end", "terminated", True)
    assert len(notes.steps) == sum(steps) + 2
    first = notes.steps[: steps[0] + 1]
    assert first[0].action is None
    assert first[0].label is None
    np.testing.assert_allclose([step.time for step in first], np.arange(len(first)) / 30)
    assert first[-1].info["is_success"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_ends_every_callback_that_had_begun(make, error):
    class Failing(Notes):
        def step(self, record, step):
            super().step(record, step)
            if len(self.steps) == 3:
                raise error

        def end(self, record):
            super().end(record)
            raise RecordingError("the disk is full")

    failing, other = Failing(), Notes()
    with pytest.raises(RecordingError) as caught:
        run_episode(make(task="reach"), ExpertAgent(), [failing, other], seed=3)
    assert isinstance(caught.value.__context__, error)
    assert other.events[-1] == ("end", "interrupted", False)
    assert (len(failing.steps), len(other.steps)) == (3, 2)

    class Refusing(Notes):
        def begin(self, env, record):
            raise error

    first, last = Notes(), Notes()
    with pytest.raises(error):
        run_episode(make(task="reach"), ExpertAgent(), [first, Refusing(), last], seed=3)
    assert first.events[-1] == ("end", "interrupted", False)
    assert last.events == []


def test_the_plan_is_seen(make):
    pytest.importorskip("lerobot")
    from smolvla_gym.agent import SmolVLAAgent

    agent, notes = SmolVLAAgent.from_pretrained("bundled"), Notes()
    env = make(cameras=agent.cameras, image_size=(64, 64), max_episode_steps=4)
    rollout(env, agent, seed=1, callbacks=[notes])
    plans = [step.plan for step in notes.steps[1:]]
    assert [len(plan) for plan in plans] == [agent.n_action_steps - i - 1 for i in range(4)]
    np.testing.assert_array_equal(plans[0][0], notes.steps[2].action)


RECORD = EpisodeRecord(1, "reach", "x", success=True, end="terminated")
STEP = Step(0.0, {}, None, None, 0.0, {}, np.zeros((0, 7), np.float32))


def test_a_slow_callback_in_the_background_delays_no_step(capsys):
    slow = Notes(seconds=0.05)
    background = Background(slow)
    background.begin(None, RECORD)
    began = time.monotonic()
    for _ in range(310):
        background.step(RECORD, STEP)
    assert time.monotonic() - began < 5
    slow.seconds = 0.0
    background.end(RECORD)
    background.close()
    background.close()
    assert slow.closed == 1
    assert slow.events[-1] == ("end", "terminated", True)
    assert len(slow.steps) + int(capsys.readouterr().err.split("left out ")[1].split()[0]) == 310


def test_what_fails_in_the_background_is_raised_at_the_end():
    background = Background(Notes(error=RecordingError("the disk is full")))
    background.begin(None, RECORD)
    for _ in range(3):
        background.step(RECORD, STEP)
    with pytest.raises(RecordingError, match="disk is full"):
        background.close()


@pytest.mark.parametrize("gripper", ["ssg48", "pneumatic"])
def test_the_scene_pose_follows_the_arm(make, gripper):
    env = make(gripper=gripper)
    observation, _ = env.reset(seed=4)
    world = env.unwrapped.backend.world
    scene_pose = ScenePose(env)
    before = world.data.qpos.copy()
    for _ in range(12):
        observation, *_ = env.step(env.unwrapped.expert_action())
    frames = scene_pose.frames(observation["agent_pos"])
    pose = forward_kinematics(observation["agent_pos"][:6], env.unwrapped.gripper)
    np.testing.assert_allclose(frames["tool"][0], pose[:3, 3], atol=1e-5)
    # The wrist's camera looks the way the fingers point, from behind them; the other one looks down at the table.
    position, axes = frames["wrist_camera"]
    ahead = frames["tool"][0] - position
    assert 0.02 < np.linalg.norm(ahead) < 0.25
    assert axes[:, 2] @ ahead > 0
    assert frames["scene_camera"][1][2, 2] < 0
    lying = scene_pose.poses(observation["agent_pos"])["object_0"][0]
    np.testing.assert_allclose(lying, world.object_position(0), atol=1e-6)
    # Looking at it moved nothing.
    after = world.data.qpos.copy()
    scene_pose.tool_path(np.zeros((3, 7)))
    np.testing.assert_array_equal(world.data.qpos, after)
    assert not np.array_equal(before, after)
    assert any(shape.kind == "mesh" for shape in scene_pose.shapes)


def test_a_pixel_of_the_camera_is_where_the_object_is(make):
    """Projects a cube through the pose and the intrinsics that are published, and finds its colour there."""
    env = make(task="lift", cameras=("wrist", "scene"), image_size=(240, 320), randomization=0)
    seen = 0
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        scene_pose = ScenePose(env)
        frames = scene_pose.frames(observation["agent_pos"])
        layout = env.unwrapped.backend.layout
        for name, image in observation["pixels"].items():
            position, axes = frames[f"{name}_camera"]
            camera = scene_pose.intrinsics(name, (240, 320))
            for index in range(len(layout.colors)):
                x, y, z = axes.T @ (env.unwrapped.backend.world.object_position(index) - position)
                column, row = round(camera.fx * x / z + camera.ppx), round(camera.fy * y / z + camera.ppy)
                if z > 0 and 3 < column < 317 and 3 < row < 237:
                    pixel = image[row, column].astype(float)
                    wanted = {"red": 0, "green": 1, "blue": 2}.get(layout.colors[index])
                    if wanted is not None:
                        assert pixel.argmax() == wanted, (name, seed, layout.colors[index])
                        seen += 1
    assert seen >= 4


def test_another_env_is_another_scene(make, tmp_path):
    pytest.importorskip("mcap_ros2")
    from smolvla_gym.integrations.mcap_log import McapLog

    log = McapLog(tmp_path / "run.mcap")
    for task in ("reach", "stack"):
        env = make(task=task)
        env.reset(seed=0)
        log.begin(env, EpisodeRecord(0, task, task))
        assert log.scene_pose.shows(env)
        before = log.scene_pose
        log.begin(env, EpisodeRecord(1, task, task))
        assert log.scene_pose is before
    log.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two episodes on the command line."""
    pytest.importorskip("rerun")
    pytest.importorskip("mcap_ros2")
    folder = tmp_path_factory.mktemp("telemetry")
    code = main(
        ["rollout", "--policy", "expert", "--task", "reach", "--episodes", "2", "--no-video", "--out",
         str(folder / "out"), "--rerun", str(folder / "run.rrd"), "--mcap", str(folder / "run.mcap")]
    )  # fmt: skip
    assert code == 0
    steps = [e["steps"] for e in json.loads((folder / "out" / "summary.json").read_text())["episodes"]]
    return folder, steps


def test_mcap_is_read_by_its_own_reader(files):
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    folder, steps = files
    topics, times = defaultdict(list), []
    with (folder / "run.mcap").open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        for _, channel, message, decoded in reader.iter_decoded_messages():
            topics[channel.topic].append(decoded)
            if channel.topic == "/joint_states":
                times.append(message.log_time)
    assert len(topics["/joint_states"]) == sum(steps) + 2
    assert len(topics["/joint_commands"]) == sum(steps)
    assert len(topics["/instruction"]) == 2
    state = topics["/joint_states"][-1]
    assert list(state.name) == list(ACTION_NAMES)
    image = topics["/camera/wrist/image/compressed"][0]
    assert np.asarray(Image.open(io.BytesIO(bytes(image.data)))).shape == (256, 256, 3)
    info = topics["/camera/wrist/camera_info"][0]
    assert (info.width, info.height) == (256, 256)
    assert info.k[0] == pytest.approx(431.17 * 256 / 480)
    tool = next(t for t in topics["/tf"][-1].transforms if t.child_frame_id == "tool")
    where = tool.transform.translation
    from smolvla_gym.parol6 import get_gripper

    pose = forward_kinematics(state.position[:6], get_gripper("ssg48"))
    np.testing.assert_allclose([where.x, where.y, where.z], pose[:3, 3], atol=1e-5)
    np.testing.assert_allclose(np.diff(times[: steps[0]]), 1e9 / 30, rtol=1e-3)
    assert np.min(np.diff(times)) > 0
    events = [json.loads(message.data).get("event") for message in topics["/status"]]
    assert [event for event in events if event] == ["begin", "end"] * 2


def test_rerun_files_hold_everything(files):
    reader = pytest.importorskip("rerun.experimental").RrdReader
    folder, steps = files
    for name, count in zip(("run.rrd", "run_001.rrd"), steps, strict=True):
        rows = defaultdict(int)
        for chunk in reader(folder / name).stream().to_chunks():
            if not chunk.is_static:
                rows[chunk.entity_path] += chunk.num_rows
            else:
                rows[f"static {chunk.entity_path}"] += 1
        for path in ("/state/joints", "/cameras/wrist", "/scene/link3", "/scene/plan", "/latency/planned_actions"):
            assert rows[path] == count + 1, path
        assert rows["/target/joints"] == count
        assert any(path.startswith("/shaping/") for path in rows)
        assert "/safety" in rows  # how the episode ended
        assert rows["static /instruction"]
        assert sum(path.startswith("static /scene/link3/") for path in rows) >= 2
        assert sum(path.startswith("static /scene/object_0/") for path in rows) == 1


@pytest.mark.parametrize(("option", "value"), [("--rerun", "run.mp4"), ("--mcap", "run.bag")])
def test_a_wrong_ending_is_refused_before_anything_runs(option, value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["rollout", "--policy", "expert", option, value]) == 2
    assert value in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path):
    pytest.importorskip("mcap_ros2")
    from smolvla_gym.integrations.mcap_log import McapLog

    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match="file"):
        McapLog(tmp_path / "file" / "run.mcap")


def test_definitions_bring_their_parts():
    text = ros.definition("tf2_msgs/TFMessage")
    for part in (
        "geometry_msgs/TransformStamped",
        "std_msgs/Header",
        "builtin_interfaces/Time",
        "geometry_msgs/Vector3",
    ):
        assert f"MSG: {part}\n" in text
    assert text.count("MSG: geometry_msgs/Transform\n") == 1


def test_a_quaternion():
    np.testing.assert_allclose(ros.quaternion(np.diag([1.0, -1.0, -1.0])), [1, 0, 0, 0], atol=1e-12)
