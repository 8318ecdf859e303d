import json
from dataclasses import replace

import numpy as np
import pytest

from smolvla_gym.calibration.session import SESSION_FILE, Session, SessionCamera, read_image
from smolvla_gym.errors import CalibrationError
from smolvla_gym.parol6.calibration import BoardSpec
from tests.calibration.rendered import WRIST

CAMERAS = {"wrist": SessionCamera("405000000001", WRIST)}
IMAGE = np.full((480, 640, 3), 7, np.uint8)


def begun(folder):
    session = Session.open(folder, "ssg48", BoardSpec(), CAMERAS)
    session.plan(np.zeros((3, 6)) + 0.1)
    session.add(1, np.full(6, 0.11), {"wrist": IMAGE})
    return session


def test_a_session_goes_on_where_it_ended(tmp_path):
    begun(tmp_path)
    session = Session.open(tmp_path, "ssg48", BoardSpec(), CAMERAS)
    assert session.open_poses == [0, 2]
    np.testing.assert_array_equal(session.taken[1], np.full(6, 0.11))
    np.testing.assert_array_equal(session.image("wrist", 1), IMAGE)
    session.forget_images()
    assert Session.load(tmp_path).open_poses == [0, 1, 2]


def test_images_count_with_intrinsics_that_were_measured_later(tmp_path):
    begun(tmp_path)
    lens = replace(WRIST, fx=430.0, source="measured", rms_px=0.1)
    session = Session.open(tmp_path, "ssg48", BoardSpec(), {"wrist": SessionCamera("405000000001", lens)})
    assert session.open_poses == [0, 2]
    assert session.cameras["wrist"].intrinsics.fx == 430.0


@pytest.mark.parametrize(
    ("gripper", "board", "cameras"),
    [
        ("pneumatic", BoardSpec(), CAMERAS),
        ("ssg48", BoardSpec(square_m=0.0358), CAMERAS),
        ("ssg48", BoardSpec(), {"wrist": SessionCamera("1", WRIST)}),
    ],
)
def test_a_session_of_something_else_is_refused(tmp_path, gripper, board, cameras):
    begun(tmp_path)
    with pytest.raises(CalibrationError, match="--out"):
        Session.open(tmp_path, gripper, board, cameras)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(format="another"),
        lambda content: content["taken"].append({"pose": 7, "joints": [0.0] * 6}),
        lambda content: content.update(poses=[[0.0] * 5]),
        lambda content: content["cameras"]["wrist"].pop("serial"),
    ],
)
def test_a_broken_session_is_refused(tmp_path, change):
    begun(tmp_path)
    content = json.loads((tmp_path / SESSION_FILE).read_text())
    change(content)
    (tmp_path / SESSION_FILE).write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=r"session\.json"):
        Session.load(tmp_path)


def test_broken_images_are_refused(tmp_path):
    session = begun(tmp_path)
    path = session.image_path("wrist", 1)
    with pytest.raises(CalibrationError, match="640x480"):
        read_image(path, (100, 100))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CalibrationError):
        session.image("wrist", 1)
    with pytest.raises(CalibrationError, match="no image"):
        session.image("wrist", 0)
