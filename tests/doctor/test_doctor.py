import json
import shutil
import sys
from functools import partial

import numpy as np
import pytest

from smolvla_gym.cli.main import main
from smolvla_gym.doctor import examine as examination
from smolvla_gym.doctor import probe as probes
from smolvla_gym.doctor import system
from smolvla_gym.doctor.examine import examine
from smolvla_gym.doctor.finding import Status
from smolvla_gym.doctor.policy import check_policy
from smolvla_gym.doctor.serial_ports import check_serial_ports
from smolvla_gym.drivers.board.serial_port import USB_ID


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_this_machine(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = main(["doctor", "--json", "--policy", "bundled"])
    report = json.loads(capfd.readouterr().out)
    found = {entry["name"]: entry for entry in report["findings"]}
    # Any machine that runs the tests has Python, OpenGL and video.
    for name in ("Python", "OpenGL", "video", "disk", "policy bundled", "extra smolvla"):
        assert found[name]["status"] in ("ok", "warning"), found[name]
    assert "H.264" in found["video"]["text"]
    assert code == int(report["failed"]) == int(any(entry["status"] == "fail" for entry in found.values()))
    assert not list(tmp_path.iterdir())


def test_the_table_names_remedies(capfd, monkeypatch):
    monkeypatch.setattr(examination, "default_checks", lambda folder: {"arm": partial(check_serial_ports, [])})
    assert main(["doctor"]) == 0
    said = capfd.readouterr().out
    assert "-> Power the arm" in said
    assert "0 failed" in said


def test_a_probe_that_hangs_or_breaks_is_a_failure(monkeypatch):
    hung = probes.probe("OpenGL", 0.01)
    assert [finding.status for finding in hung] == [Status.FAIL]
    assert "0.01 s" in hung[0].text
    broken = probes.probe("there is no such probe", 60)
    assert broken[0].status is Status.FAIL
    assert "KeyError" in broken[0].text


def test_a_crash_is_a_failure(monkeypatch, tmp_path):
    crash = tmp_path / "python"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crash))
    (finding,) = probes.probe("torch", 60)
    assert finding.status is Status.FAIL
    assert "signal 11" in finding.text


def test_no_opengl(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "osmesa")
    (finding,) = probes.probe("OpenGL", 60)
    assert finding.status is Status.FAIL
    assert "osmesa" in finding.text
    assert "libegl1" in finding.remedy


def test_a_check_that_breaks_leaves_the_others():
    def broken():
        raise ZeroDivisionError("of all things")

    found = by_name(examine(checks={"WSL2": broken, "Python": system.check_python}))
    assert "of all things" in found["WSL2"].text
    assert found["Python"].status is Status.OK


def port(device, usb_id=(None, None)):
    info = pytest.importorskip("serial.tools.list_ports_common").ListPortInfo(device)
    info.vid, info.pid = usb_id
    return info


def test_serial_ports(tmp_path):
    (missing,) = check_serial_ports([port("/dev/ttyS7")])
    assert missing.status is Status.WARNING
    assert "/dev/ttyS7" in missing.text
    mine = tmp_path / "ttyACM0"
    mine.touch()
    (there,) = check_serial_ports([port("/dev/ttyS7"), port(str(mine), USB_ID)])
    assert there.status is Status.OK
    (forbidden,) = check_serial_ports([port(str(tmp_path / "not to be opened"), USB_ID)])
    assert forbidden.status is Status.FAIL
    assert "dialout" in forbidden.remedy


def test_wsl():
    assert system.is_wsl("5.15.167.4-microsoft-standard-WSL2")
    assert not system.is_wsl("6.8.0-51-generic")
    found = by_name(system.check_wsl("5.15.167.4-microsoft-standard-WSL2"))
    assert not system.check_wsl("6.8.0-51-generic")
    assert "D405" in found["WSL2 camera"].text
    assert "dxg" in found["WSL2 GPU"].text


def test_every_extra_is_known():
    import importlib.metadata

    assert set(system.EXTRAS) == set(importlib.metadata.metadata("smolvla-gym").get_all("Provides-Extra"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows deletes no folder that is in use")
def test_a_folder_that_was_deleted(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = by_name(examine(checks={"disk": system.check_disk, "video": partial(probes.probe, "video", 60)}))
    assert (found["disk"].status, found["video"].status) == (Status.FAIL, Status.OK)
    assert "deleted" in found["disk"].text


def test_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 2e9, "total": 9e9})())
    (full,) = system.check_disk(tmp_path)
    assert full.status is Status.WARNING
    assert "2 GB" in full.text


def test_policies(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    from smolvla_gym.agent import bundled_checkpoint

    (fine,) = check_policy("bundled")
    assert fine.status is Status.OK
    small, large = check_policy("bundled", 8e9)[1], check_policy("bundled", 0.5e9)[1]
    assert (small.status, large.status) == (Status.OK, Status.WARNING)

    copy = shutil.copytree(bundled_checkpoint(), tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    narrow = {**config, "output_features": {"action": {"type": "ACTION", "shape": [6]}}}
    (copy / "config.json").write_text(json.dumps(narrow))
    (finding,) = check_policy(str(copy))
    assert finding.status is Status.FAIL
    assert "6" in finding.text

    renamed = json.loads(json.dumps(config).replace("images.scene", "images.top"))
    (copy / "config.json").write_text(json.dumps(renamed))
    assert "top" in by_name([f for f in check_policy(str(copy)) if f.status is Status.FAIL])[f"policy {copy}"].text

    (copy / "config.json").write_text(json.dumps(config))
    path = next(copy.glob("*unnormalizer*.safetensors"))
    stats = safetensors.load_file(path)
    safetensors.save_file({**stats, "action.mean": np.full(7, np.nan, np.float32)}, path)
    (finding,) = check_policy(str(copy))
    assert "not finite" in finding.text
    (finding,) = check_policy(str(tmp_path / "nowhere"))
    assert finding.status is Status.FAIL
