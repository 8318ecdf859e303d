"""``smolvla-gym record`` as a user calls it."""

import json

import pytest

pytest.importorskip("datasets")

from smolvla_gym.cli.main import main
from smolvla_gym.data.dataset import Dataset

SMALL = ["record", "--task", "reach", "--image-size", "32", "--cameras", "wrist"]


def seeds(root):
    return [episode["seed"] for episode in json.loads((root / "meta" / "parol6.json").read_text())["episodes"]]


def test_it_records_and_goes_on(tmp_path, capfd):
    root = tmp_path / "data"
    command = [*SMALL, "--root", str(root)]
    assert main([*command, "--episodes", "2"]) == 0
    printed = capfd.readouterr()
    assert printed.out == (f"Recorded 2 episodes; left out, because they failed: 0\nDataset: {root}/, 2 episodes\n")
    assert printed.err == ""  # neither libx264 nor LeRobot's libraries have a word
    assert main([*command, "--episodes", "3", "--noise", "0.01"]) == 0
    assert "Recorded 1 episodes (2 were there)" in capfd.readouterr().out
    assert seeds(root) == [1_000_000, 1_000_001, 1_000_002]
    assert main([*command, "--episodes", "3"]) == 2
    assert "--episodes 3: expected more than the 3 that" in capfd.readouterr().err
    assert main([*command, "--episodes", "4", "--control-hz", "15"]) == 1
    assert "cannot be continued: fps is 30, here 15" in capfd.readouterr().err

    again = tmp_path / "again"
    replay = ["--source", "replay", "--replay", str(root), "--episodes", "9"]
    assert main([*SMALL, "--root", str(again), *replay]) == 0
    # Pushed by noise the third one took another way than its clean actions do.
    assert seeds(again)[:2] == [1_000_000, 1_000_001]


def test_the_same_command_with_a_seed_goes_on(tmp_path, capfd):
    command = [*SMALL, "--root", str(tmp_path / "data"), "--seed", "7"]
    for episodes in ("1", "2"):
        assert main([*command, "--episodes", episodes]) == 0
    assert seeds(tmp_path / "data") == [7, 8]
    replay = ["record", "--root", str(tmp_path / "again"), "--source", "replay", "--replay", str(tmp_path / "data")]
    assert main([*replay, "--task", "push", "--image-size", "32", "--cameras", "wrist"]) == 1
    assert "it has 2 episodes with --task reach. Give these options." in capfd.readouterr().err
    assert not (tmp_path / "again").exists()


def test_ctrl_c_keeps_what_is_complete(tmp_path, capsys, monkeypatch):
    add = Dataset.add

    def once(self, episode):
        add(self, episode)
        if len(self) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Dataset, "add", once)
    assert main([*SMALL, "--root", str(tmp_path / "data"), "--episodes", "5"]) == 130
    assert "data has 2 complete episodes; the same command goes on" in capsys.readouterr().err
    assert len(seeds(tmp_path / "data")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--task fly", "There is no task 'fly'"),
        ("--gripper hand", "hand"),
        ("--cameras left", "left"),
        ("--episodes 0", "--episodes 0: expected an integer of at least 1"),
        ("--noise 7", "--noise 7: expected"),
        ("--source dagger", "--policy: needed with --source dagger"),
        ("--max-seconds 5", "--max-seconds 5: only with --source keyboard or gamepad"),
        ("--policy bundled", "--policy bundled: only with --source dagger"),
        ("--source replay", "--replay: needed with --source replay"),
        ("--source replay --replay nowhere", "There is no LeRobot dataset in nowhere"),
        ("--source dagger --policy bundled --noise 0.1", "only with --source expert"),
        ("--env real", "--source expert: only with keyboard"),
        ("--port twin", "only with --env real"),
        ("--control-hz 12.5", "--control-hz 12.5: expected an integer"),
        ("--randomization 3", "--randomization 3: expected"),
    ],
)
def test_wrong_arguments_write_nothing(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["record", "--root", "data", *arguments.split()]) in (1, 2)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
