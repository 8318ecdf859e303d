"""Table files: what they may say, and what is said about those that are wrong."""

import os
import tomllib

import numpy as np
import pytest
from PIL import Image

from smolvla_gym.errors import OptionError, UnknownNameError
from smolvla_gym.sim.own_table import read_table
from smolvla_gym.sim.own_table.keys import NAMED_COLORS, SECTIONS, json_schema
from smolvla_gym.sim.own_table.template import TEMPLATE

BOX = '[[objects]]\nname = "box"\nshape = "box"\nsize = [0.06, 0.03, 0.02]\n'


def read(tmp_path, text):
    path = tmp_path / "table.toml"
    path.write_text(text)
    return read_table(path)


def test_the_template_is_a_table(tmp_path):
    table = read(tmp_path, TEMPLATE)
    assert [thing.name for thing in table.objects] == ["box", "can", "marker"]
    box, can, marker = table.objects
    assert box.phrases == ("red box",)
    assert box.color == NAMED_COLORS["red"]
    assert can.phrases == ("blue can", "blue tin")
    assert box.half_height == pytest.approx(0.01)
    assert can.half_height == pytest.approx(0.025)
    assert marker.half_height == pytest.approx(0.008, abs=2e-4)  # on its side
    assert marker.radius == pytest.approx(0.04, abs=1e-3)
    commented = TEMPLATE.replace("# [", "[").replace("# name", "name").replace("# center", "center")
    assert set(tomllib.loads(commented)) <= set(SECTIONS)


def test_the_schema_has_each_key_with_a_description():
    schema = json_schema()["properties"]
    assert set(schema) == set(SECTIONS)
    assert all(entry["description"] for entry in schema["objects"]["items"]["properties"].values())
    assert schema["objects"]["items"]["required"] == ["name"]


@pytest.mark.parametrize(
    ("text", "option"),
    [
        (BOX + "mass = 3\n", "table.toml: objects[0].mass"),
        (BOX + "mass = nan\n", "table.toml: objects[0].mass"),
        (BOX + "color = 'mauve'\n", "table.toml: objects[0].color"),
        (BOX + "nouns = ['{object}']\n", "table.toml: objects[0].nouns"),
        (BOX + "scale = 0.001\n", "table.toml: objects[0].scale"),
        (BOX.replace("0.06, ", ""), "table.toml: objects[0].size"),
        (BOX.replace("0.06, 0.03, 0.02", "0.03, 0.03, 0.2"), "table.toml: objects[0]"),
        (BOX.replace('shape = "box"\n', ""), "table.toml: objects[0].shape"),
        (BOX.replace('name = "box"\n', ""), "table.toml: objects[0].name"),
        (BOX + "[[obstacles]]\nname = 'shelf'\ncenter = [0, 0.4, 0.1]\n", "table.toml: obstacles[0].size"),
        (BOX + "[table]\nheight = -0.1\n", "table.toml: table.height"),
        (BOX + "[table]\nheight = 0.05\n", "table.toml: table.height"),  # the arm stands in it
        (BOX + "[table]\narea = [[0.3, 0.1], [0, 0.1]]\n", "table.toml: table.area"),
        (BOX + "[cameras.wrist]\nfovy = 40\n", "table.toml: cameras.wrist.fovy"),
        (BOX + "[cameras.scene]\nposition = [0, 0, 1]\ntarget = [0, 0, 0]\n", "table.toml: cameras.scene.target"),
        ("[table]\n", "table.toml: objects"),
        (BOX * 17, "table.toml: objects"),
        ("objects = 3\n", "table.toml: objects"),
        ("no toml", "table"),
        ("a = " + "[" * 5000, "table"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_key(tmp_path, text, option):
    with pytest.raises(OptionError) as caught:
        read(tmp_path, text)
    assert caught.value.option == option
    assert caught.value.allowed


@pytest.mark.parametrize(
    "text", [BOX + "colour = 'red'\n", BOX + "[tabel]\n", BOX + "[cameras.left]\n", BOX + "[gripper]\nnam = 'ssg48'\n"]
)
def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path, text):
    with pytest.raises(UnknownNameError) as caught:
        read(tmp_path, text)
    assert caught.value.known


def test_objects_that_an_instruction_cannot_tell_apart_are_refused(tmp_path):
    other = BOX.replace('name = "box"', 'name = "brick"\nnouns = ["box"]')
    with pytest.raises(OptionError, match="box"):
        read(tmp_path, BOX + other)
    with pytest.raises(OptionError, match="box"):  # "the small box" would be both
        read(tmp_path, BOX + other + 'adjectives = ["small"]\n')
    table = read(tmp_path, BOX + 'adjectives = ["large"]\n' + other + 'adjectives = ["small"]\n')
    assert [thing.phrases for thing in table.objects] == [("large box",), ("small box",)]


@pytest.mark.parametrize("name", ["../box.stl", "/etc/passwd", "a/../../b.stl", "link.stl", "folder/b.stl", "C:/b.stl"])
def test_files_are_beside_the_table_file_and_no_links(tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.stl").write_bytes(b"solid")
    (tmp_path / "inside").mkdir()
    os.symlink(outside / "b.stl", tmp_path / "inside" / "link.stl")
    os.symlink(outside, tmp_path / "inside" / "folder")
    with pytest.raises(OptionError) as caught:
        read(tmp_path / "inside", f'[[objects]]\nname = "part"\nmesh = "{name}"\n')
    assert caught.value.option == "table.toml: objects[0].mesh"
    assert "beside" in caught.value.allowed


def test_a_texture_is_an_image_or_one_of_the_package(tmp_path):
    Image.fromarray(np.full((8, 12, 3), 90, np.uint8)).save(tmp_path / "top.png")
    table = read(tmp_path, BOX + '[table]\ntexture = "top.png"\n')
    assert table.texture.pixels.shape == (8, 12, 3)
    assert read(tmp_path, BOX + '[table]\ntexture = "wood"\n').texture == "wood"
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    for name in ("bad.png", "missing.png"):
        with pytest.raises(OptionError) as caught:
            read(tmp_path, BOX + f'[table]\ntexture = "{name}"\n')
        assert caught.value.option == "table.toml: table.texture"


def test_a_measured_pose_is_that_of_the_calibration(tmp_path):
    pose = '{"parent": "base", "position": [0.6, -0.3, 0.4], "quaternion": [0, 1, 0, 0]}'
    (tmp_path / "calibration.json").write_text(
        f'{{"format": "smolvla_gym calibration", "cameras": {{"scene": {{"pose": {pose}}}}}}}'
    )
    table = read(tmp_path, BOX + '[cameras.scene]\ncalibration = "calibration.json"\n')
    camera = table.cameras["scene"]
    assert camera.position == (0.6, -0.3, 0.4)
    assert np.abs(camera.rotation) == pytest.approx([1, 0, 0, 0])  # OpenCV's camera looked down, as MuJoCo's does
    with pytest.raises(OptionError, match="no pose"):
        read(tmp_path, BOX + '[cameras.wrist]\ncalibration = "calibration.json"\n')
