"""``smolvla-gym mount-guard``, and the guard in ``rollout`` and ``record``, on the twin in lockstep."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from smolvla_gym.calibration.mount_reference import load_reference
from smolvla_gym.cli.main import main
from smolvla_gym.envs import make_twin
from smolvla_gym.twin.twin import Twin

pytest.importorskip("serial")
pytest.importorskip("pyrealsense2")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

TWIN = "--port twin --camera twin --lockstep --gripper pneumatic"
CAMERAS = "--cameras wrist scene"
ROLLOUT = f"rollout --env real {TWIN} --policy random --max-steps 2 --no-video --out out"


class HomedTwin(Twin):
    """A twin whose homing takes no time."""

    def __init__(self, **options):
        super().__init__(**options | {"homed": True})


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    monkeypatch.setattr(make_twin, "Twin", HomedTwin)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


def run(line):
    return main(line.split())


def knock(folder, camera):
    """Shift the image that is kept, as if the camera had moved since."""
    kept = load_reference(folder, camera)
    replace(kept, image=np.roll(kept.image, 4, axis=0), mask=np.roll(kept.mask, 4, axis=0)).save(folder)


def test_from_keeping_to_the_warning_of_a_rollout(capsys, tmp_path):
    folder = tmp_path / "share" / "smolvla_gym" / "calibration" / "twin"
    assert run(f"mount-guard check {TWIN}") == 1
    assert "mount-guard keep" in capsys.readouterr().err
    assert run(f"mount-guard keep {TWIN} {CAMERAS}") == 0
    assert str(folder) in capsys.readouterr().out
    assert run(f"mount-guard check {TWIN} {CAMERAS} --json") == 0
    checks = json.loads(capsys.readouterr().out)
    assert {check["camera"]: check["verdict"] for check in checks} == {"wrist": "in_place", "scene": "in_place"}
    assert run(ROLLOUT) == 0
    printed = capsys.readouterr()
    assert "cameras in place" in printed.err
    assert "warning" not in printed.err
    knock(folder, "wrist")
    assert run(ROLLOUT) == 0
    assert "warning: The camera 'wrist' has moved" in capsys.readouterr().err
    assert run(f"{ROLLOUT} --no-mount-guard") == 0
    printed = capsys.readouterr().err
    assert "camera" not in printed.replace("camera twin", "")
    assert run(f"mount-guard check {TWIN} {CAMERAS}") == 1
    (folder / "mount_wrist.png").write_bytes(b"")
    assert run(ROLLOUT) == 1
    assert "mount_wrist.png" in capsys.readouterr().err


def test_record_compares_too(capsys):
    line = f"record --env real {TWIN} --task reach --episodes 1 --root data --image-size 32 --cameras wrist"
    assert run(f"mount-guard keep {TWIN} --mount-images images") == 0
    knock("images", "wrist")
    capsys.readouterr()
    assert run(f"{line} --mount-images images") == 0
    assert "warning: The camera 'wrist' has moved" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("rollout --no-mount-guard", "only with --env real"),
        ("record --root data --mount-images x", "only with --env real"),
        (f"{ROLLOUT} --no-mount-guard --mount-images x", "not with --no-mount-guard"),
        ("mount-guard keep --port twin --camera 5", "twin where the port is"),
        ("mount-guard keep --port twin --cameras head", "There is no camera"),
    ],
)
def test_what_does_not_fit_together_is_refused(capsys, line, hint):
    assert run(line) == 2
    assert hint in capsys.readouterr().err
