"""``smolvla-gym table`` and the option ``--table`` of other commands."""

import json

import pytest
from PIL import Image

from smolvla_gym.cli.main import main


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.toml"
    assert main(["table", "new", str(path)]) == 0
    return path


def test_a_new_file_passes_the_check(table, capsys):
    assert main(["table", "check", str(table)]) == 0
    text = capsys.readouterr().out
    assert "blue tin" in text
    assert "stack the red box on the blue can" in text


def test_the_check_prints_json(table, capsys):
    capsys.readouterr()
    assert main(["table", "check", str(table), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [thing["name"] for thing in found["objects"]] == ["box", "can", "marker"]
    assert [thing["held_width"] for thing in found["objects"]] == pytest.approx([0.03, 0.03, 0.016], abs=0.002)
    assert set(found["tasks"]) == {"lift", "place", "stack", "push"}


def test_an_existing_file_stays(table, capsys):
    table.write_text("mine")
    assert main(["table", "new", str(table)]) == 2
    assert table.read_text() == "mine"


def test_the_schema_is_written(tmp_path):
    schema = tmp_path / "schema.json"
    assert main(["table", "new", str(tmp_path / "a.toml"), "--schema", str(schema)]) == 0
    assert json.loads(schema.read_text())["title"]


def test_a_wrong_file_is_named_with_its_key(table, capsys):
    table.write_text(table.read_text().replace("size = [0.06, 0.03, 0.02]", "size = [6, 3, 2]"))
    assert main(["table", "check", str(table)]) == 2
    assert "objects[0].size" in capsys.readouterr().err


def test_show_writes_an_image(table):
    assert main(["table", "show", str(table)]) == 0
    assert Image.open(table.with_suffix(".png")).size == (640, 480)


def test_the_expert_rolls_out_on_a_table(table, tmp_path, capsys):
    capsys.readouterr()
    out = tmp_path / "out"
    arguments = ["rollout", "--policy", "expert", "--table", str(table), "--no-video", "--json", "--out", str(out)]
    assert main(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["success_rate"] == 1.0


@pytest.mark.parametrize(
    "arguments", [["--task", "reach"], ["--num-objects", "4"], ["--table", "missing.toml"], ["--gripper", "other"]]
)
def test_what_does_not_fit_the_table_is_refused(table, arguments):
    assert main(["rollout", "--policy", "expert", "--no-video", "--table", str(table), *arguments]) == 2
