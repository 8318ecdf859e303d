"""Meshes of table files: formats, convex parts and their cache, rest, and broken files."""

import numpy as np
import pytest

from smolvla_gym.errors import OptionError
from smolvla_gym.sim.own_table import convex_parts as parts
from smolvla_gym.sim.own_table import read_table
from smolvla_gym.sim.own_table.description import Triangles

trimesh = pytest.importorskip("trimesh")


def mesh_table(tmp_path, name, more=""):
    (tmp_path / "table.toml").write_text(f'[[objects]]\nname = "part"\nmesh = "{name}"\n{more}')
    return read_table(tmp_path / "table.toml").objects[0]


def triangles(mesh):
    return Triangles(np.array(mesh.vertices, np.float64), np.array(mesh.faces, np.int32))


@pytest.mark.parametrize("kind", ["obj", "stl", "glb"])
def test_a_file_in_mm_becomes_a_part_in_m(tmp_path, kind):
    trimesh.creation.box((60, 30, 20)).apply_translation([100, 0, 50]).export(tmp_path / f"part.{kind}")
    part = mesh_table(tmp_path, f"part.{kind}", "scale = 0.001\n")
    assert np.ptp(part.surface.vertices, axis=0) == pytest.approx([0.06, 0.03, 0.02])
    assert len(part.parts) == 1
    assert part.half_height == pytest.approx(0.01, abs=2e-4)
    assert part.mass == pytest.approx(700 * 3.6e-5, rel=0.01)


def test_a_concave_part_is_split_and_the_parts_are_kept(tmp_path, monkeypatch):
    pytest.importorskip("vhacdx")
    bowl = trimesh.util.concatenate([
        trimesh.creation.annulus(0.016, 0.020, 0.04, sections=24),
        trimesh.creation.cylinder(0.020, 0.004, sections=24).apply_translation([0, 0, -0.018]),
    ])  # fmt: skip
    found = parts.convex_parts(triangles(bowl), "auto")
    assert 4 <= len(found) <= parts.MAX_PARTS
    assert sum(map(parts.convex_volume, found)) < 1.5 * abs(bowl.volume)  # its hull has 2.6 times its volume
    assert len(list(parts.cache_folder().iterdir())) == 1
    monkeypatch.setattr(parts, "_split", lambda mesh: pytest.fail("the cache was not read"))
    again = parts.convex_parts(triangles(bowl), "auto")
    assert all(np.array_equal(a.vertices, b.vertices) for a, b in zip(found, again, strict=True))
    assert len(parts.convex_parts(triangles(bowl), "hull")) == 1


def test_a_broken_cache_is_written_anew(tmp_path):
    box = triangles(trimesh.creation.box((0.06, 0.03, 0.02)))
    first = parts.convex_parts(box, "auto")
    (file,) = parts.cache_folder().iterdir()
    file.write_bytes(b"broken")
    again = parts.convex_parts(box, "auto")
    assert np.array_equal(first[0].vertices, again[0].vertices)
    assert file.read_bytes() != b"broken"


def test_boxes_that_touch_nowhere_are_exact():
    boxes = [trimesh.creation.box((0.02, 0.02, 0.02)).apply_translation([x, 0, 0]) for x in (0.0, 0.05)]
    found = parts.convex_parts(triangles(trimesh.util.concatenate(boxes)), "auto")
    assert [parts.convex_volume(part) for part in found] == pytest.approx([8e-6, 8e-6], rel=1e-4)


def test_a_part_that_falls_over_is_described_as_it_lies(tmp_path):
    trimesh.creation.box((0.01, 0.01, 0.06)).export(tmp_path / "part.stl")
    part = mesh_table(tmp_path, "part.stl", "rotation = [60, 0, 0]\n")
    assert part.half_height == pytest.approx(0.005, abs=3e-4)
    assert part.radius == pytest.approx(0.0304, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("part.stl", b""),
        ("part.stl", b"\0" * 80 + b"\xff\xff\xff\x7f" + b"\0" * 50),
        ("part.obj", b"v 0 0 0\nf 1 2 3\n"),
        ("part.obj", b"v 0 0 0\nv nan 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n"),
        ("part.glb", b"glTF" + b"\0" * 40),
        ("part.glb", b'glTF\2\0\0\0\x40\0\0\0\x2c\0\0\0JSON{"accessors":[{"count":1000000000000}]}   '),
        ("part.ply", b"ply"),
        ("missing.stl", None),
    ],
)
def test_a_broken_mesh_is_an_option_error(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OptionError) as caught:
        mesh_table(tmp_path, name)
    assert caught.value.option == "table.toml: objects[0].mesh"


def test_a_mesh_in_the_wrong_unit_is_refused_with_its_size(tmp_path):
    trimesh.creation.box((60, 30, 20)).export(tmp_path / "part.stl")
    with pytest.raises(OptionError, match="60 x 30 x 20 m"):
        mesh_table(tmp_path, "part.stl")


def test_a_material_opens_no_other_file(tmp_path):
    (tmp_path / "secret.mtl").write_text("newmtl a\nmap_Kd secret.png\n")
    text = trimesh.creation.box((0.06, 0.03, 0.02)).export(file_type="obj")
    (tmp_path / "part.obj").write_text("mtllib secret.mtl\nusemtl a\n" + text)
    assert mesh_table(tmp_path, "part.obj").texture is None
