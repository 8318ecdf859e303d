import io
import json
import os
import re
import shutil
import subprocess
import sys

import av
import gymnasium
import numpy as np
import pytest

from smolvla_gym.cli.main import main
from smolvla_gym.errors import DeviceError, OptionError
from tests.episodes.injectors import Disturbed, Faulty, throw
from tests.training.full_disk import full_disk

SHORT = ["rollout", "--task", "reach", "--max-steps", "3"]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def wrapped(monkeypatch):
    """Returns a function that has the command's envs, the real ones, wrapped."""
    make = gymnasium.make

    def wrap(wrapper):
        monkeypatch.setattr(gymnasium, "make", lambda *args, **options: wrapper(make(*args, **options)))

    return wrap


@pytest.fixture
def made(wrapped):
    """The real envs that the command made."""
    envs = []
    wrapped(lambda env: envs.append(env) or env)
    return envs


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """An untrained checkpoint with two cameras of 64 px."""
    pytest.importorskip("lerobot")
    from smolvla_gym.data.statistics import compute_stats
    from smolvla_gym.training.tiny.checkpoint import build_tiny_checkpoint

    joints = np.random.default_rng(0).uniform(0.0, 1.0, (100, 7)).astype(np.float32)
    folder = tmp_path_factory.mktemp("policies") / "tiny"
    return build_tiny_checkpoint(folder, cameras=("wrist", "scene"), stats=compute_stats(joints, joints))


@pytest.fixture(scope="module")
def lenient(policy):
    """The same checkpoint, which states that one of its cameras may be absent."""
    folder = shutil.copytree(policy, policy.with_name("lenient"))
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"empty_cameras": 1}))
    return folder


def frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def files(folder):
    return sorted(file.name for file in folder.iterdir())


def load(folder):
    return json.loads((folder / "summary.json").read_text())


def test_the_expert_reaches(capsys, tmp_path):
    # With fewer frames a second the video is made sooner.
    assert main(["rollout", "--policy", "expert", "--task", "reach", "--control-hz", "10", "--out", "out"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    summary = load(tmp_path / "out")
    (episode,) = summary["episodes"]
    assert (summary["env_id"], summary["policy"], summary["control_hz"]) == ("PAROL6Sim-v0", "expert", 10.0)
    assert (summary["success_rate"], summary["interrupted"]) == (1.0, False)
    assert (episode["task"], episode["success"], episode["end"]) == ("reach", True, "terminated")
    words = ("seed", "instruction", "success", "steps", "return", episode["instruction"], "yes", str(episode["steps"]))
    for word in (*words, f"{episode['return']:.2f}", "100% (1 of 1)", "policy expert", f"out{os.sep}"):
        assert word in printed.out
    assert files(tmp_path / "out") == ["rollout.mp4", "summary.json"]
    with av.open(str(tmp_path / "out" / "rollout.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.average_rate) == (640 + 480, 10)  # the wrist view stands beside the scene
        texts = [frame.to_ndarray(format="rgb24").astype(int)[435:] for frame in container.decode(video=0)]
    # SUCCESS is written in green.
    assert [(text[..., 1] - text[..., 0]).max() > 80 for text in texts] == [False] * episode["steps"] + [True]


def test_defaults(made, capsys, tmp_path):
    assert main(["rollout", "--policy", "expert", "--no-video"]) == 0
    (env,) = made
    assert (env.spec.id, env.spec.max_episode_steps, env.render_mode) == ("PAROL6Sim-v0", 450, None)
    assert env.spec.kwargs["randomization"] == 1
    arm = env.unwrapped
    assert (arm.task, arm.gripper.name, arm.control_hz) == ("lift", "ssg48", 30.0)
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        env.reset()
    (folder,) = (tmp_path / "outputs" / "rollout").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", folder.name)
    assert files(folder) == ["summary.json"]
    assert [episode["seed"] for episode in load(folder)["episodes"]] == [5]
    assert load(folder)["success_rate"] == 1.0
    assert str(folder.relative_to(tmp_path)) in capsys.readouterr().out


def test_options_arrive(made, tmp_path):
    line = "rollout --task stack --policy random --episodes 2 --seed 7 --randomization 2 --gripper pneumatic"
    assert main([*line.split(), *["--control-hz", "10", "--max-steps", "4", "--out", "a/b", "--no-video"]]) == 0
    (env,) = made
    arm = env.unwrapped
    assert (arm.task, arm.gripper.name, arm.control_hz, env.render_mode) == ("stack", "pneumatic", 10.0, None)
    assert (env.spec.kwargs["randomization"], env.spec.max_episode_steps) == (2, 4)
    assert files(tmp_path / "a" / "b") == ["summary.json"]
    episodes = [(episode["seed"], episode["steps"], episode["end"]) for episode in load(tmp_path / "a/b")["episodes"]]
    assert episodes == [(7, 4, "truncated"), (8, 4, "truncated")]


def test_each_episode_has_its_video(capsys, tmp_path):
    assert main([*SHORT, "--policy", "expert", "--episodes", "2", "--out", "out"]) == 0
    assert files(tmp_path / "out") == ["rollout_000.mp4", "rollout_001.mp4", "summary.json"]
    assert [frames(tmp_path / "out" / f"rollout_00{i}.mp4") for i in range(2)] == [4, 4]
    assert "0% (0 of 2)" in capsys.readouterr().out


def test_an_episode_of_each_task(made, capsys, tmp_path):
    line = "rollout --task reach push --policy expert --max-steps 2 --episodes 2 --out out"
    assert main(line.split()) == 0
    assert [env.unwrapped.task for env in made] == ["reach", "push"]
    videos = ["push_000.mp4", "push_001.mp4", "reach_000.mp4", "reach_001.mp4"]
    assert files(tmp_path / "out") == [*videos, "summary.json"]
    episodes = [(episode["task"], episode["seed"], episode["video"]) for episode in load(tmp_path / "out")["episodes"]]
    assert episodes == [
        ("reach", 5, "reach_000.mp4"), ("reach", 6, "reach_001.mp4"), ("push", 5, "push_000.mp4"),
        ("push", 6, "push_001.mp4"),
    ]  # fmt: skip
    assert "0% (0 of 4)" in capsys.readouterr().out


def test_an_earlier_recording_outlives_an_arm_that_is_not_there(monkeypatch, tmp_path):
    pytest.importorskip("mcap_ros2")
    (tmp_path / "run.mcap").write_bytes(b"earlier")

    def make(*args, **options):
        raise DeviceError("it is not there")

    monkeypatch.setattr(gymnasium, "make", make)
    assert main([*SHORT, "--policy", "expert", "--mcap", "run.mcap"]) == 1
    assert (tmp_path / "run.mcap").read_bytes() == b"earlier"


def test_an_interruption_between_two_tasks_is_noted(monkeypatch, tmp_path):
    make, made = gymnasium.make, []

    def once(*args, **options):
        if made:
            raise KeyboardInterrupt
        made.append(make(*args, **options))
        return made[-1]

    monkeypatch.setattr(gymnasium, "make", once)
    line = "rollout --task reach push --policy random --max-steps 2 --no-video --out out"
    assert main(line.split()) == 130
    summary = load(tmp_path / "out")
    assert summary["interrupted"]
    assert [episode["task"] for episode in summary["episodes"]] == ["reach"]


def test_rollouts_that_start_together_have_folders_of_their_own(tmp_path):
    for _ in range(3):
        assert main([*SHORT, "--policy", "random", "--no-video"]) == 0
    assert len(files(tmp_path / "outputs" / "rollout")) == 3


def test_json_is_alone_on_stdout(wrapped, capsys, tmp_path):
    class Noisy(gymnasium.Wrapper):
        def render(self):
            print("noise")
            return super().render()

    wrapped(Noisy)
    assert main([*SHORT, "--policy", "random", "--json", "--out", "out"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == load(tmp_path / "out")
    assert printed.out.count("\n") == 1
    assert printed.err == "noise\n" * 4


def test_a_policy_gets_the_cameras_it_needs(made, policy, capsys, tmp_path):
    command = [*SHORT, "--policy", str(policy), "--device", "cpu", "--json", "--out", "out"]
    assert main(command) == 0
    pixels = made[0].observation_space["pixels"]
    # Four times as large as the policy's images, so that the video is legible.
    assert {name: box.shape for name, box in pixels.items()} == {"wrist": (256, 256, 3), "scene": (256, 256, 3)}
    printed = capsys.readouterr()
    assert json.loads(printed.out) == load(tmp_path / "out"), "lerobot's messages have to stay out"
    assert f"loading policy {policy}" in printed.err
    assert load(tmp_path / "out")["policy"] == str(policy)
    assert frames(tmp_path / "out" / "rollout.mp4") == 4
    assert main([*command[:-1], "again"]) == 0
    assert load(tmp_path / "again") == load(tmp_path / "out"), "the seed decides"
    assert main([*command, "--device", "nonsense"]) == 2


@pytest.mark.parametrize(
    ("realtime", "arguments", "mode"),
    [
        (False, [], "auto"),
        (True, [], "auto"),
        (True, ["--aggregate", "average"], "auto"),
        (True, ["--mode", "sync"], "sync"),
        (False, ["--mode", "rtc"], "rtc"),
    ],
)
def test_the_default_mode(monkeypatch, realtime, arguments, mode):
    """The agent itself chooses by the policy, the latency and the env."""
    from smolvla_gym.agent import SmolVLAAgent
    from smolvla_gym.cli.options.agent import AgentOptions
    from smolvla_gym.cli.options.parser import CommandParser, add_options

    class Loaded(Exception):  # noqa: N818 - no error
        pass

    def load(*_, **options):
        raise Loaded(options["mode"])

    monkeypatch.setattr(SmolVLAAgent, "from_pretrained", load)
    parser = CommandParser()
    add_options(parser, AgentOptions)
    with pytest.raises(Loaded, match=f"^{mode}$"):
        AgentOptions.build(parser.parse_args(arguments)).load("bundled", realtime=realtime)


def test_the_operator_enters_success(monkeypatch, capsys, tmp_path):
    answers = iter(["what?", "Y", "n"])
    monkeypatch.setattr("builtins.input", lambda prompt: print(prompt) or next(answers))
    assert main([*SHORT, "--policy", "random", "--episodes", "2", "--ask", "--no-video", "--json", "--out", "out"]) == 0
    summary = load(tmp_path / "out")
    assert [episode["success"] for episode in summary["episodes"]] == [True, False]
    assert summary["success_rate"] == 0.5
    printed = capsys.readouterr()
    assert json.loads(printed.out) == summary
    assert printed.err.count("(seed 5): success? [y/n]") == 2


def test_a_question_without_a_terminal(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main([*SHORT, "--policy", "random", "--ask", "--no-video", "--out", "out"]) == 2
    assert "--ask: only in a terminal" in capsys.readouterr().err
    assert load(tmp_path / "out")["interrupted"]


def test_cameras_of_other_names_are_mapped(made, policy, capsys, tmp_path):
    """As those of lerobot/smolvla_base are called camera1 to camera3."""
    other = tmp_path / "other"
    shutil.copytree(policy, other)
    for file in other.glob("*.json"):
        text = file.read_text()
        for env_camera, policy_camera in (("wrist", "camera1"), ("scene", "camera2")):
            text = text.replace(f"observation.images.{env_camera}", f"observation.images.{policy_camera}")
        file.write_text(text)
    command = [*SHORT, "--policy", str(other), "--device", "cpu", "--no-video"]
    assert main(command) == 1
    assert not made
    assert "camera_map={'camera1': 'wrist', 'camera2': 'scene'}" in capsys.readouterr().err
    assert main([*command, "--camera-map", "camera1=scene", "camera2=wrist"]) == 0
    assert sorted(made[0].observation_space["pixels"]) == ["scene", "wrist"]
    evaluated = ["eval", "--policy", str(other), "--task", "reach", "--episodes", "1", "--workers", "1", "--json"]
    assert main(evaluated) == 1
    assert "camera_map={'camera1': 'wrist', 'camera2': 'scene'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("--task raech", "Did you mean 'reach'? Known: reach, lift, place, stack, push"),
        ("--policy expertt", "Did you mean 'expert'?"),
        ("--policy ./no/such/folder", "bundled, expert, random"),
        ("--gripper ssg", "Did you mean 'ssg48'?"),
        ("--gripper vacuum", "no gripper 'vacuum'. Known: ssg48, pneumatic."),
        ("--randomization 7", "--randomization 7: expected one of 0, 1, 2"),
        ("--randomization -1", "--randomization -1: expected an integer of at least 0"),
        ("--episodes 0", "expected an integer of at least 1"),
        ("--max-steps 0", "expected an integer of at least 1"),
        ("--max-steps 2.5", "expected an integer of at least 1"),
        ("--seed x", "expected an integer of at least 0"),
        ("--control-hz -3", "expected a number above 0"),
        ("--control-hz nan", "expected a number above 0"),
        ("--control-hz 1000", "--control-hz 1000: expected a number from 5 to 100"),
        ("--task lift lift", "each task once"),
        ("--task lift push --env real --port twin --camera twin", "one task with --env real"),
        ("--nonsense", "unrecognized arguments"),
    ],
)
def test_wrong_arguments(made, capsys, tmp_path, arguments, hint):
    # Whatever policy there is: none is loaded first.
    assert main(["rollout", "--policy", "owner/name", *arguments.split()]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("smolvla-gym: error: ")
    assert hint in line
    assert printed.out == ""
    assert made == []
    assert files(tmp_path) == []


def test_a_policy_that_cannot_be_had(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(pytest.importorskip("huggingface_hub").constants, "HF_HUB_OFFLINE", True)
    for name, hint in (("owner/name", "HF_HUB_OFFLINE"), (str(tmp_path), "config.json is missing")):
        assert main(["rollout", "--policy", name, "--out", "out"]) == 1
        loading, error = capsys.readouterr().err.splitlines()
        assert f"loading policy {name}" in loading
        assert error.startswith("smolvla-gym: error: ")
        assert hint in error
    assert files(tmp_path) == []


def test_a_fault(wrapped, capsys, tmp_path):
    wrapped(lambda env: Faulty(env, at=2))
    assert main([*SHORT, "--policy", "expert", "--out", "one"]) == 0
    assert "fault ESTOP" in capsys.readouterr().out
    assert load(tmp_path / "one")["episodes"][0]["fault"] == "ESTOP"
    assert main([*SHORT, "--policy", "expert", "--episodes", "2", "--out", "two"]) == 1
    printed = capsys.readouterr()
    error, note = printed.err.splitlines()
    assert error.startswith("smolvla-gym: error: The arm is held by the fault 'ESTOP'")
    assert note == "smolvla-gym: what was recorded until then is in two"
    assert printed.out == ""
    assert load(tmp_path / "two")["interrupted"] is True
    assert frames(tmp_path / "two" / "rollout_000.mp4") == 3


def test_a_full_disk(capsys, tmp_path):
    out = tmp_path / "out"
    with full_disk(1500):
        assert main([*SHORT, "--policy", "expert", "--out", "out"]) == 1
    assert capsys.readouterr().err.splitlines()[0].endswith("could not be written: File too large.")
    assert files(out) == ["summary.json"]
    assert load(out)["episodes"][0]["video"] is None


def test_tracebacks_on_request(monkeypatch):
    monkeypatch.setenv("SMOLVLA_GYM_TRACEBACK", "1")
    with pytest.raises(OptionError):
        main([*SHORT, "--randomization", "7"])


def test_an_output_folder_that_cannot_be_made(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert main([*SHORT, "--policy", "random", "--out", "file/out"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_failure_before_the_first_episode_leaves_only_what_was_there(wrapped, tmp_path):
    wrapped(lambda env: Disturbed(env, 0, lambda: throw(ZeroDivisionError())))
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for name in ("new", "empty", "full"):
        with pytest.raises(ZeroDivisionError) as caught:
            main([*SHORT, "--policy", "random", "--out", name])
        assert not hasattr(caught.value, "__notes__"), "nothing was recorded"
    assert files(tmp_path) == ["empty", "full"]
    assert files(tmp_path / "full") == ["file"]


def test_tasks_version_and_help(capsys):
    assert main(["tasks"]) == 0
    assert "pick up the red cube" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("smolvla-gym ")
    assert main(["rollout", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "default: bundled" in printed
    assert "--max-steps N give an episode up after N steps (default: the env's own limit)" in printed
    assert main([]) == 2


def test_as_a_module_and_without_torch():
    code = "import sys, smolvla_gym.cli.main as m; m.main(['--version']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    done = subprocess.run([sys.executable, "-m", "smolvla_gym", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("smolvla-gym ")


def test_the_policys_control_rate_counts_where_none_is_given(made, policy, capsys, tmp_path):
    slow = shutil.copytree(policy, tmp_path / "slow")
    (slow / "parol6.json").write_text('{"control_hz": 15}')
    command = [*SHORT, "--policy", str(slow), "--device", "cpu", "--no-video"]
    assert main([*command, "--out", "out"]) == 0
    assert made[0].unwrapped.control_hz == 15.0
    assert "15 Hz" in capsys.readouterr().err
    assert main([*command, "--control-hz", "30"]) == 1
    assert "30 Hz" in capsys.readouterr().err


@pytest.mark.parametrize("cameras", [["wrist"], ["scene"], ["scene", "wrist"]])
def test_a_policy_that_allows_it_runs_with_one_camera(lenient, made, cameras, recwarn):
    command = [*SHORT, "--policy", str(lenient), "--cameras", *cameras, "--no-video"]
    assert main(command) == 0
    assert set(made[0].observation_space["pixels"].spaces) == set(cameras)
    said = [str(warning.message) for warning in recwarn if "computes without" in str(warning.message)]
    assert bool(said) == (len(cameras) == 1)


@pytest.mark.parametrize("cameras", [["wrist"], ["side"]])
def test_cameras_that_a_policy_needs_are_not_left_out(policy, cameras, capsys):
    assert main([*SHORT, "--policy", str(policy), "--cameras", *cameras]) == 2 - (cameras == ["wrist"])
    said = capsys.readouterr().err
    assert "needs the cameras 'wrist', 'scene'" in said if cameras == ["wrist"] else "no camera 'side'" in said
    assert main(["eval", "--policy", str(policy), "--cameras", *cameras]) == 2
    assert "--cameras wrist: expected wrist, scene" in capsys.readouterr().err or cameras == ["side"]
