"""The processes of the arm, the twin and the Rerun viewer as outsiders meet them; see ``test_sockets.py``."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from smolvla_gym.drivers.board.process import BoardProcess
from smolvla_gym.drivers.board.state import BoardSettings
from smolvla_gym.integrations.rerun import viewer as rerun_viewer
from smolvla_gym.twin.gripper import AirGripper
from smolvla_gym.twin.process import TwinProcess
from tests.drivers.arm import SETTINGS, Arm
from tests.drivers.rig import POSE, homed_firmware
from tests.envs.twin_rig import SOUND
from tests.sockets import listening, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for sockets in /proc")


def test_the_arms_process_has_no_address():
    arm = Arm(homed_firmware())
    try:
        with contextlib.closing(
            BoardProcess(arm.virtual.path, BoardSettings(), period=1 / 30, collision=False)
        ) as link:
            assert listening([link.pid]) == set()
    finally:
        arm.virtual.close()


def test_the_twins_process_has_no_address_and_its_port_is_the_owners():
    with contextlib.closing(TwinProcess(**SOUND)) as twin:
        assert listening([twin.pid]) == set()
        link = Path(twin.port)
        assert stat.S_IMODE(link.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(link.stat().st_mode) == 0o600
        assert link.stat().st_uid == os.getuid()
        shared = [file.path for file in psutil.Process(twin.pid).open_files() if file.path.startswith("/dev/shm")]
        assert not any(os.path.exists(path) for path in shared)


def test_the_rerun_viewer_listens_on_the_loopback_alone(tmp_path, monkeypatch):
    pytest.importorskip("rerun")
    import rerun_cli

    program = Path(rerun_cli.__file__).with_name("rerun")
    without_window = tmp_path / "rerun"  # the real one, on a machine without a screen
    without_window.write_text(f'#!/bin/sh\nexec "{program}" "$@" --serve-grpc\n')
    without_window.chmod(0o755)
    monkeypatch.setenv("RERUN_CLI_PATH", str(without_window))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = set()
    try:
        assert rerun_viewer.open_viewer(port) == f"rerun+http://127.0.0.1:{port}/proxy"
        started = set(psutil.Process().children(recursive=True))
        assert {ip for ip, used in listening([p.pid for p in started]) if used == port} == {"127.0.0.1"}
        assert rerun_viewer.open_viewer(port)
        assert set(psutil.Process().children(recursive=True)) == started, "one viewer is enough"
    finally:
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                if "rerun" in " ".join(process.cmdline()):
                    process.kill()


@pytest.mark.alone
@pytest.mark.realtime
@pytest.mark.parametrize(
    "junk",
    [b"\x00\xff\n", b"[]\n", b'{"do": 5}\n', b'{"do": "aim", "id": 1}\n', b"[" * 100_000 + b"\n", b"x" * 3_000_000],
    ids=["binary", "no object", "no name", "no arguments", "deeply nested", "endless"],
)
def test_nonsense_stops_the_arm(junk):
    arm = Arm(homed_firmware(POSE, AirGripper()))
    link = BoardProcess(arm.virtual.path, SETTINGS, period=1 / 30, collision=False)
    try:
        link.enable()
        before = arm.counters()
        with contextlib.suppress(OSError):
            link._worker._input.write(junk)
        arm.until(lambda: arm.firmware.disabled, 5.0)
        assert np.abs(arm.counters() - before).max() < 1.0
    finally:
        link.close()
        arm.virtual.close()


def test_without_a_program_the_processes_end():
    """What a process inherits ends with the other end of the pair."""
    code = """
import os, sys
from smolvla_gym.twin.gripper import AirGripper
from smolvla_gym.twin.process import TwinProcess
twin = TwinProcess()
print(twin.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
