"""Verdicts of the mount guard, and the guard on the twin."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest

import smolvla_gym
from smolvla_gym.calibration.mount_check import Verdict, compare, limit_of
from smolvla_gym.calibration.mount_guard import MountGuard, default_folder, keep_references
from smolvla_gym.calibration.mount_mask import draw_mark
from smolvla_gym.calibration.mount_reference import load_reference
from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.episodes.mount_guard import MountGuardCallback
from smolvla_gym.errors import CalibrationError
from smolvla_gym.parol6 import GRIPPERS, forward_kinematics
from smolvla_gym.parol6.calibration import BoardSpec, Calibration, CameraCalibration, CameraIntrinsics, CameraPose
from smolvla_gym.sim.world import start_pose
from tests.calibration.mount_rig import GRIPPER, POSE, VIEWS, Mounts

BOTH = ("scene", "wrist")


@pytest.fixture(scope="module")
def mounts():
    made = Mounts()
    yield made
    made.close()


@pytest.fixture(scope="module")
def kept(mounts):
    return {name: mounts.reference(name, np.random.default_rng(0)) for name in BOTH}


@pytest.fixture(scope="module")
def images(mounts):
    return {name: mounts.image(name, np.random.default_rng(1)) for name in BOTH}


def judge(reference, image, joints=POSE, opening=1.0, gripper="ssg48", others=None):
    check = compare(reference, image, joints, opening, gripper, others)
    assert repr(reference.camera) in check.message
    return check


@pytest.mark.parametrize("name", BOTH)
def test_in_place(kept, images, name):
    check = judge(kept[name], images[name])
    assert check.verdict is Verdict.IN_PLACE
    assert check.shift.rms < limit_of(kept[name]) / 2


@pytest.mark.parametrize("name", BOTH)
def test_moved_by_how_much_and_what_to_do(kept, images, name):
    shifted = replace(images[name], pixels=np.roll(images[name].pixels, (3, -4), (0, 1)))
    check = judge(kept[name], shifted)
    assert check.verdict is Verdict.MOVED
    assert check.shift.rms == pytest.approx(5.0, abs=0.3)
    assert (check.shift.right, check.shift.down) == pytest.approx((-4.0, 3.0), abs=0.3)
    millimetres = 1e3 * check.shift.rms / VIEWS[name].fx * kept[name].distance
    assert f"{millimetres:.1f} mm" in check.message


@pytest.mark.parametrize("name", BOTH)
def test_covered(kept, images, name):
    for pixels in (np.zeros_like(images[name].pixels), np.full_like(images[name].pixels, 200)):
        assert judge(kept[name], replace(images[name], pixels=pixels)).verdict is Verdict.NOT_RECOGNISED


def test_another_camera(kept, images):
    check = judge(kept["wrist"], replace(images["wrist"], serial="9"), others=kept)
    assert check.verdict is Verdict.OTHER_CAMERA


def test_exchanged_by_their_serial_numbers(kept, images):
    for name, other in (BOTH, BOTH[::-1]):
        assert judge(kept[name], images[other], others=kept).verdict is Verdict.EXCHANGED


def test_exchanged_cameras_without_serial_numbers(kept, images):
    references = {name: replace(reference, serial="") for name, reference in kept.items()}
    for name, other in (BOTH, BOTH[::-1]):
        swapped = replace(images[other], serial="")
        assert judge(references[name], swapped, others=references).verdict is Verdict.EXCHANGED
        assert judge(references[name], swapped).verdict is Verdict.NOT_RECOGNISED


@pytest.mark.parametrize("name", BOTH)
def test_what_cannot_be_compared(kept, images, name):
    turned = POSE + np.deg2rad([0, 0, 2.0, 0, 0, 0])
    small = replace(images[name], pixels=images[name].pixels[:240, :320])
    for check in (
        judge(kept[name], images[name], joints=turned),
        judge(kept[name], images[name], opening=0.5),
        judge(kept[name], images[name], gripper="pneumatic"),
        judge(kept[name], small),
    ):
        assert check.verdict is Verdict.NOT_COMPARED
        assert check.shift is None


@pytest.mark.parametrize("gripper", GRIPPERS)
@pytest.mark.parametrize("name", BOTH)
def test_every_gripper_and_camera_has_a_mark(gripper, name):
    model = GRIPPERS[gripper]
    drawn = draw_mark(name, VIEWS[name], model, start_pose(model), 1.0)
    low, high = {"gripper": (0.03, 0.2), "base": (0.4, 1.0)}[drawn.mark]
    assert drawn.mark == {"wrist": "gripper", "scene": "base"}[name]
    assert drawn.mask.shape == (480, 640)
    assert 0.005 < drawn.mask.mean() < 0.3
    assert low < drawn.distance < high


def camera_pose(mounts, name, parent):
    """The pose of a camera of the model as a calibration has it."""
    mounts.image(name, np.random.default_rng(0), other_day=False)
    camera = mounts.world.data.camera(name)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = camera.xmat.reshape(3, 3) @ np.diag([1.0, -1.0, -1.0]), camera.xpos
    matrix = np.linalg.inv(forward_kinematics(POSE, GRIPPER) if parent == "tool" else np.eye(4)) @ pose
    w = np.sqrt(max(1.0 + np.trace(matrix[:3, :3]), 0.0)) / 2
    r = matrix[:3, :3]
    x, y, z = (r[2, 1] - r[1, 2]) / (4 * w), (r[0, 2] - r[2, 0]) / (4 * w), (r[1, 0] - r[0, 1]) / (4 * w)
    return CameraPose(parent, tuple(matrix[:3, 3]), (w, x, y, z), (1e-4,) * 3, (1e-4,) * 3, 0.1, 15)


@pytest.mark.parametrize(("name", "parent"), [("wrist", "tool"), ("scene", "base")])
def test_the_mask_follows_a_measured_pose(mounts, kept, name, parent):
    pose = camera_pose(mounts, name, parent)
    drawn = draw_mark(name, VIEWS[name], GRIPPER, POSE, 1.0, pose)
    assert np.mean(drawn.mask != kept[name].mask) < 1e-3
    assert drawn.distance == pytest.approx(kept[name].distance, rel=0.01)
    nearer = replace(pose, position=tuple(np.add(pose.position, (0.0, 0.0, 0.01))))
    assert np.mean(draw_mark(name, VIEWS[name], GRIPPER, POSE, 1.0, nearer).mask != drawn.mask) > 1e-3
    other = draw_mark("side", VIEWS[name], GRIPPER, POSE, 1.0, pose)
    assert other.mark == drawn.mark, "a camera of any name that was measured"
    np.testing.assert_array_equal(other.mask, drawn.mask)


def test_a_camera_that_does_not_see_its_mark_is_refused(mounts):
    away = replace(camera_pose(mounts, "scene", "base"), position=(5.0, 5.0, 0.5))
    with pytest.raises(CalibrationError, match="base"):
        draw_mark("scene", VIEWS["scene"], GRIPPER, POSE, 1.0, away)
    with pytest.raises(CalibrationError, match="pose"):
        draw_mark("side", Intrinsics.from_fovy(60.0, 640, 480), GRIPPER, POSE, 1.0)


def test_where_images_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "smolvla_gym" / "calibration"
    assert default_folder(twin=True).parent == default_folder()
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".local" / "share" / "smolvla_gym" / "calibration"


def test_the_simulation_has_nothing_to_guard(tmp_path):
    env = gymnasium.make(smolvla_gym.SIM_ID, cameras=("wrist",), image_size=(32, 32))
    assert MountGuard(env, tmp_path).check() == []
    with pytest.raises(CalibrationError):
        keep_references(env, tmp_path)
    env.close()


class TestTwin:
    """The guard on the twin in lockstep."""

    @pytest.fixture
    def env(self):
        pytest.importorskip("pyrealsense2")
        from tests.envs.twin_rig import make_twin

        env = make_twin(cameras=("wrist", "scene"), image_size=(64, 64), twin_options={"homed": True, "noise": 2.0})
        env.reset(seed=1)
        yield env
        env.close()

    @staticmethod
    def knock(env, name, by):
        world = env.unwrapped.backend.twin.world
        world.model.camera(name).pos[:] += by
        world.settle()

    def test_from_the_image_that_is_kept_to_the_warning(self, env, tmp_path):
        saved = keep_references(env, tmp_path)
        assert [reference.camera for reference in saved] == ["wrist", "scene"]
        assert load_reference(tmp_path, "scene").serial == "435000000002"
        env.reset(seed=2)
        guard = MountGuard(env, tmp_path)
        assert {check.verdict for check in guard.check()} == {Verdict.IN_PLACE}
        self.knock(env, "wrist", (0.001, 0.0, 0.0))
        found = {check.camera: check.verdict for check in guard.check()}
        assert found == {"wrist": Verdict.MOVED, "scene": Verdict.IN_PLACE}
        self.knock(env, "scene", (0.002, 0.0, 0.0))
        assert {check.verdict for check in guard.check()} == {Verdict.MOVED}

    def test_observations_are_cropped_again(self, env):
        images = env.unwrapped.backend.whole_images()
        assert {image.pixels.shape for image in images.values()} == {(480, 640, 3)}
        action = np.append(env.unwrapped.backend.commanded, 1.0).astype(np.float32)
        observation, *_ = env.step(action)
        assert {pixels.shape for pixels in observation["pixels"].values()} == {(64, 64, 3)}

    def test_the_measured_pose_of_a_calibration_draws_the_mask(self, env, tmp_path, mounts):
        view = VIEWS["scene"]
        intrinsics = CameraIntrinsics(640, 480, view.fx, view.fy, view.ppx, view.ppy)
        pose = camera_pose(mounts, "scene", "base")
        away = replace(pose, position=(5.0, 5.0, 0.5))
        for serial, position, seen in (("435000000002", pose, True), ("435000000002", away, False), ("1", away, True)):
            camera = CameraCalibration(serial, intrinsics, position)
            made = Calibration("ssg48", "2026-11-30T12:00:00+00:00", BoardSpec(), {"scene": camera})
            made.save(tmp_path / "calibration.json")
            if seen:
                assert len(keep_references(env, tmp_path)) == 2
            else:
                with pytest.raises(CalibrationError):
                    keep_references(env, tmp_path)
                with pytest.raises(CalibrationError):
                    keep_references(env, tmp_path / "other", tmp_path / "calibration.json")

    def test_exchanged_cameras_are_not_kept(self, env, tmp_path, monkeypatch):
        backend = env.unwrapped.backend
        images = backend.whole_images()
        swapped = {
            name: replace(images[name], pixels=images[other].pixels)
            for name, other in (("wrist", "scene"), ("scene", "wrist"))
        }
        monkeypatch.setattr(backend, "whole_images", lambda: swapped)
        with pytest.raises(CalibrationError, match="exchanged"):
            keep_references(env, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_callback_compares_once(self, env, tmp_path):
        keep_references(env, tmp_path)
        told = []
        callback = MountGuardCallback(MountGuard(env, tmp_path), told.append)
        callback.begin(env, None)
        callback.begin(env, None)
        assert len(told) == 1
        assert callback.checks == told[0]
        assert len(callback.checks) == 2
