import json

import numpy as np
import pytest

pytest.importorskip("cv2")

from smolvla_gym.calibration import load_calibration
from smolvla_gym.calibration.geometry import distance
from smolvla_gym.calibration.rig import Rig
from smolvla_gym.calibration.session import Session, save_image
from smolvla_gym.calibration.virtual import VirtualViews
from smolvla_gym.cli.main import main
from smolvla_gym.parol6 import get_gripper
from tests.calibration.rendered import Rig as RenderedRig

TWIN = ["--port", "twin", "--camera", "twin", "--lockstep", "--yes"]


def test_a_board_is_written(tmp_path, capsys):
    assert main(["calibrate", "board", "--out", str(tmp_path / "b.pdf"), "--paper", "letter"]) == 0
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")
    assert "252 mm" in capsys.readouterr().out


def test_the_wrist_camera_of_the_twin_is_measured_and_an_interrupted_session_goes_on(tmp_path, monkeypatch, capsys):
    out = tmp_path / "calibration"
    command = ["calibrate", "hand-eye", *TWIN, "--poses", "8", "--out", str(out)]
    shoot, shots = Rig.shoot, []

    def shoot_and_stop(self):
        taken = shoot(self)
        shots.append(1)
        if len(shots) == 4:
            self.stop()
        return taken

    monkeypatch.setattr(Rig, "shoot", shoot_and_stop)
    assert main(command) == 1
    assert "operator stopped" in capsys.readouterr().err
    done = len(Session.load(out).taken)
    assert 0 < done < 8
    assert main(command) == 0
    assert len(shots) == 4 + 8 - done
    printed = capsys.readouterr().out
    assert "95 % within" in printed
    calibration = load_calibration(out / "calibration.json")
    assert calibration.digest in printed
    wrist = calibration.cameras["wrist"]
    views = VirtualViews(get_gripper("ssg48"), None)
    metres, radians = distance(wrist.pose.matrix, views.camera_pose("wrist"))
    assert metres < 2e-3
    assert np.rad2deg(radians) < 0.5  # with the error of J6, of up to 0.3 deg
    assert wrist.serial == "405000000001"
    assert (out / "planned.png").exists()
    assert len(list((out / "corners").iterdir())) == 8
    assert json.loads((out / "report.json").read_text())["joint_sigma_rad"] < 0.01


def test_without_a_terminal_nothing_moves_unless_yes_is_given(tmp_path, capsys):
    command = ["calibrate", "hand-eye", *TWIN[:-1], "--out", str(tmp_path / "c")]
    assert main(command) == 1
    assert "--yes" in capsys.readouterr().err


def test_the_width_of_a_real_board_has_to_be_known(tmp_path, capsys):
    assert main(["calibrate", "hand-eye", "--port", "/dev/none", "--yes", "--out", str(tmp_path / "c")]) == 2
    assert "--measured-mm" in capsys.readouterr().err


def test_a_lens_is_measured_from_a_folder_of_images(tmp_path, capsys):
    rig = RenderedRig()
    images = tmp_path / "images"
    for number, joints in enumerate(rig.poses(count=10, wanted=40)):
        save_image(images / f"{number}.png", np.repeat(rig.shoot("wrist", joints)[..., None], 3, axis=2))
    rig.views.close()
    out = tmp_path / "out"
    command = ["calibrate", "intrinsics", str(images), "--camera-name", "wrist", "--serial", "7", "--out", str(out)]
    assert main([*command, "--measured-mm", "252"]) == 0
    calibration = load_calibration(out / "calibration.json")
    assert calibration.cameras["wrist"].serial == "7"
    assert calibration.cameras["wrist"].intrinsics.fx == pytest.approx(431.17, abs=2.5)
    assert "reprojection error" in capsys.readouterr().out
