"""``smolvla-gym train`` on datasets of other recorders."""

import json
import shutil

import pytest

pytest.importorskip("lerobot.datasets")
pytest.importorskip("accelerate")

from smolvla_gym.cli.main import main
from smolvla_gym.data.reader import open_recording
from tests.data.foreign import disguise, make_moving_dataset


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    return disguise(make_moving_dataset(folder / "ours"), folder / "theirs", cameras={"scene": "front"})


def command(root, out, *more):
    return ["train", "--dataset", str(root), "--out", str(out), "--batch-size", "2", "--device", "cpu",
            "--eval-episodes", "0", *more]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--from", "tiny"], ["--from", "bundled", "--trainer", "lerobot", "--workers", "0"]])
def test_training_uses_a_converted_copy(foreign, tmp_path, capsys, more):
    source = shutil.copytree(foreign, tmp_path / "source")
    out = tmp_path / "run"
    assert main(command(source, out, "--steps", "2", "--rename", "front=scene", *more)) == 0
    assert f"copy is in {out / 'dataset'}" in capsys.readouterr().err
    assert open_recording(out / "dataset").cameras == ("wrist", "scene")
    assert json.loads((out / "run.json").read_text())["rename"] == ["front=scene"]
    assert main(command(source, out, "--steps", "3", "--resume", "--rename", "front=top")) == 2
    assert "--rename" in capsys.readouterr().err
    (source / "meta" / "info.json").unlink()  # it goes on from the copy
    assert main(command(source, out, "--steps", "3", "--resume")) == 0


def test_a_refused_run_leaves_nothing(foreign, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(command(foreign, out, "--cameras", "scene")) == 2  # after the conversion
    assert main(command(foreign, out, "--rename", "nose=wrist")) == 1
    assert "front" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_advice_names_the_options(foreign, tmp_path, capsys):
    theirs = disguise(foreign.parent / "ours", tmp_path / "theirs", robot_type="other")
    assert main(command(theirs, tmp_path / "run")) == 1
    said = capsys.readouterr().err
    assert "--units degrees" in said
    assert "--rename" in said
    assert not (tmp_path / "run").exists()
