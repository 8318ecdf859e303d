import json
import math
from dataclasses import replace

import numpy as np
import pytest

from smolvla_gym.errors import CalibrationError
from smolvla_gym.parol6.calibration import (
    MAX_BYTES,
    BoardSpec,
    Calibration,
    CameraCalibration,
    CameraIntrinsics,
    CameraPose,
    JointOffsets,
    load_calibration,
    parse_calibration,
)

POSE = CameraPose("tool", (0.0, -0.07, -0.08), (0.6, 0.0, 0.8, 0.0), (5e-4,) * 3, (1e-3,) * 3, 0.08, 15)
VIEW = CameraIntrinsics(640, 480, 431.17, 429.98, 317.47, 237.27)
SCENE = CameraCalibration("435000000002", replace(VIEW, source="measured", rms_px=0.1), None)


def make_calibration(**changes):
    cameras = {"wrist": CameraCalibration("405000000001", VIEW, POSE), "scene": SCENE}
    offsets = JointOffsets((0.0, 0.001, -0.002, 0.003, 0.004, 0.0))
    made = Calibration("ssg48", "2026-11-30T12:00:00+00:00", BoardSpec(), cameras, offsets)
    return replace(made, **changes)


def content(calibration):
    return json.loads(json.dumps(calibration.to_dict()))


def test_a_file_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "calibration.json"
    calibration = make_calibration()
    calibration.save(path)
    loaded = load_calibration(path)
    assert loaded == calibration
    assert loaded.digest == calibration.digest
    assert loaded.differences(calibration) == []


def test_the_digest_depends_on_what_was_measured():
    calibration = make_calibration()
    assert replace(calibration, gripper="pneumatic").digest != calibration.digest


def test_the_pose_is_a_rigid_transform():
    turn = POSE.matrix[:3, :3]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(POSE.matrix[:3, 3], POSE.position)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c.update(version=2), "version"),
        (lambda c: c.update(more=1), "more"),
        (lambda c: c.pop("units"), "units"),
        (lambda c: c["units"].update(length="mm"), "length"),
        (lambda c: c.update(created="yesterday"), "created"),
        (lambda c: c.update(created="2026-11-30T12:00:00"), "created"),
        (lambda c: c.update(gripper="hand"), "gripper"),
        (lambda c: c["board"].update(rows=6), "board"),
        (lambda c: c["board"].update(marker_m=0.04), "board"),
        (lambda c: c["cameras"].update(front=c["cameras"]["wrist"]), "front"),
        (lambda c: c["cameras"]["wrist"]["pose"].update(parent="base"), "wrist"),
        (lambda c: c["cameras"]["wrist"]["pose"].update(quaternion=[1.0, 0.1, 0.0, 0.0]), "quaternion"),
        (lambda c: c["cameras"]["wrist"]["pose"].update(position=[0.0, 0.0, 1e9]), "position"),
        (lambda c: c["cameras"]["wrist"]["intrinsics"].update(fx=True), "fx"),
        (lambda c: c["cameras"]["wrist"]["intrinsics"].update(fx=0.0), "fx"),
        (lambda c: c["joint_offsets"].update(offsets_rad=[0.0] * 5), "offsets_rad"),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(tmp_path, change, word):
    changed = content(make_calibration())
    change(changed)
    with pytest.raises(ValueError, match=word):
        parse_calibration(changed)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(changed))
    with pytest.raises(CalibrationError, match=word):
        load_calibration(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": NaN}', "x" * (MAX_BYTES + 1)])
def test_what_is_no_calibration_is_refused(tmp_path, text):
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(CalibrationError):
        load_calibration(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CalibrationError, match="There is no calibration"):
        load_calibration(tmp_path / "calibration.json")


def test_differences_beyond_the_intervals_are_named():
    calibration = make_calibration()
    cameras = dict(calibration.cameras)
    assert replace(calibration, gripper="pneumatic").differences(calibration)
    moved = replace(POSE, position=(0.0, -0.07, -0.08 + 3e-3))
    near = replace(POSE, position=(0.0, -0.07, -0.08 + 5e-4))
    unsure = replace(moved, position_interval_m=(5e-3,) * 3)
    half = math.radians(0.5) / 2
    w, x, y, z = POSE.quaternion
    turned = replace(
        POSE,
        quaternion=tuple(np.cos(half) * np.array([w, x, y, z]) + np.sin(half) * np.array([-x, w, z, -y])),
    )
    for pose, count in ((near, 0), (unsure, 0), (moved, 1), (turned, 1)):
        wrist = replace(cameras["wrist"], pose=pose)
        other = replace(calibration, cameras=cameras | {"wrist": wrist})
        assert len(calibration.differences(other)) == count
    other_serial = replace(cameras["wrist"], serial="1")
    assert "wrist" in calibration.differences(replace(calibration, cameras=cameras | {"wrist": other_serial}))[0]
    assert calibration.differences(replace(calibration, cameras={"wrist": cameras["wrist"]}))
