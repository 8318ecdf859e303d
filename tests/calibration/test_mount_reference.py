import json
import os

import numpy as np
import pytest

from smolvla_gym.calibration.mount_reference import MountReference, load_reference
from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.errors import CalibrationError, RecordingError

VIEW = Intrinsics.from_fovy(40.0, 64, 48)
IMAGE, MASK, HEAD = "mount_wrist.png", "mount_wrist_mask.png", "mount_wrist.json"


def make_reference(**changes):
    rng = np.random.default_rng(0)
    values = {
        "camera": "wrist", "serial": "405000000001", "created": "2026-11-30T12:00:00+00:00", "gripper": "ssg48",
        "joints": np.linspace(-1.0, 1.0, 6), "opening": 1.0, "view": VIEW, "mark": "gripper", "distance": 0.08,
        "image": rng.integers(0, 255, (48, 64, 3), dtype=np.uint8), "mask": rng.random((48, 64)) > 0.5,
    }  # fmt: skip
    return MountReference(**values | changes)


@pytest.fixture
def folder(tmp_path):
    make_reference().save(tmp_path)
    return tmp_path


def test_what_was_kept_is_read(folder):
    kept, loaded = make_reference(), load_reference(folder, "wrist")
    for name in ("camera", "serial", "created", "gripper", "opening", "view", "mark", "distance"):
        assert getattr(loaded, name) == getattr(kept, name)
    for name in ("joints", "image", "mask"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(kept, name))
    assert sorted(os.listdir(folder)) == sorted([IMAGE, MASK, HEAD])


def test_without_an_image_there_is_none(folder, tmp_path):
    assert load_reference(folder, "scene") is None
    assert load_reference(tmp_path / "absent", "wrist") is None


def test_a_new_image_replaces_the_old_one(folder):
    image = np.zeros((48, 64, 3), np.uint8)
    make_reference(image=image, serial="2").save(folder)
    loaded = load_reference(folder, "wrist")
    assert loaded.serial == "2"
    assert not loaded.image.any()


def test_the_mask_may_be_drawn_anew(folder):
    make_reference(mask=np.ones((48, 64), bool)).save(folder / "other")
    os.replace(folder / "other" / MASK, folder / MASK)
    assert load_reference(folder, "wrist").mask.all()


def change(folder, **values):
    content = json.loads((folder / HEAD).read_text())
    (folder / HEAD).write_text(json.dumps(content | values))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"camera": "scene"}, "scene"),
        ({"created": "today"}, "created"),
        ({"created": "2026-11-30T12:00:00"}, "created"),
        ({"created": "2026-11-30\x1b12:00:00+00:00"}, "created"),
        ({"serial": "1\x1b[2J"}, "serial"),
        ({"joints_rad": [0.0] * 5}, "joints_rad"),
        ({"joints_rad": [0.0] * 5 + [99.0]}, "joints_rad"),
        ({"gripper": "hand"}, "gripper"),
        ({"width": 10**9}, "width"),
        ({"width": 65}, "64x48"),
        ({"fx": 0.0}, "fx"),
        ({"image_sha256": "0" * 64}, IMAGE),
        ({"mark": "hand"}, "mark"),
        ({"version": 2}, "version"),
        ({"format": "other"}, "format"),
        ({"more": 1}, "more"),
        ({"mark_distance_m": -1.0}, "mark_distance_m"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(folder, values, word):
    change(folder, **values)
    with pytest.raises(CalibrationError, match=word):
        load_reference(folder, "wrist")


@pytest.mark.parametrize("name", [IMAGE, MASK])
def test_a_missing_or_broken_image_is_refused(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    with pytest.raises(CalibrationError, match="missing"):
        load_reference(folder, "wrist")
    for broken in (b"", b"GIF89a", content[: len(content) // 2], content[:30]):
        (folder / name).write_bytes(broken)
        with pytest.raises(CalibrationError, match=name):
            load_reference(folder, "wrist")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"format": NaN}', b"\xff", b"[" * 100])
def test_a_broken_file_is_refused(folder, content):
    (folder / HEAD).write_bytes(content)
    with pytest.raises(CalibrationError, match=HEAD):
        load_reference(folder, "wrist")


def test_a_link_to_nothing_is_refused(folder):
    (folder / HEAD).unlink()
    (folder / HEAD).symlink_to(folder / "absent")
    with pytest.raises(CalibrationError):
        load_reference(folder, "wrist")


@pytest.mark.parametrize("camera", ["", "../wrist", "a/b", ".", "wrist\n", "x" * 65])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, camera):
    with pytest.raises(CalibrationError):
        load_reference(tmp_path, camera)
    with pytest.raises(CalibrationError):
        make_reference(camera=camera).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError):
        make_reference().save(tmp_path / "file")
