"""The arm as a node among real ROS 2: rclpy of two releases, each in a virtual environment of its own.

The wheels are for tests alone: ``ros_wheels_bootstrapper`` starts every interpreter of their environment anew, with
other libraries. ``uv run pytest -m slow tests/integrations/test_ros2_peers.py`` fetches them and runs this.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import smolvla_gym

pytest.importorskip("cyclonedds")
pytestmark = pytest.mark.slow

RELEASES = {"jazzy": "7.1.*", "kilted": "9.1.*"}
PEER = Path(__file__).with_name("ros2_peer.py")
ACTION_PEER = Path(__file__).with_name("ros2_action_peer.py")
STRANGER = Path(__file__).with_name("ros2_stranger.py")
INTERFACES = Path(__file__).with_name("ros2_interfaces.py")


@pytest.fixture(scope="module", params=RELEASES)
def ros(request, tmp_path_factory):
    """A Python with rclpy."""
    uv = shutil.which("uv")
    if uv is None or sys.platform != "linux":
        pytest.skip("rclpy is fetched by uv, on Linux")
    folder = tmp_path_factory.mktemp(request.param)
    made = subprocess.run(
        [uv, "venv", "-q", "--python", sys.executable, folder / "venv"], capture_output=True, text=True
    )
    python = folder / "venv" / "bin" / "python"
    wanted = [
        f"ros-rclpy[fastrtps]=={RELEASES[request.param]}",
        "ros-sensor-msgs",
        "ros-trajectory-msgs",
        "ros-std-msgs",
        "catkin_pkg",
    ]
    if made.returncode == 0:
        made = subprocess.run(
            [uv, "pip", "install", "-q", "--python", python, *wanted], capture_output=True, text=True, timeout=300
        )
    if made.returncode != 0:
        pytest.skip(f"the wheels of rclpy cannot be fetched: {made.stderr[-200:]}")
    return request.param, python


def talk(bridge_python, peer_python, domain, discovery, folder, *arguments):
    """Runs the bridge and the peer; returns what the peer found and what the bridge said."""
    command = [bridge_python, "-m", "smolvla_gym", "ros2", "--domain", str(domain), "--raw-images", "--duration", "90"]
    env = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": discovery, "ROS_HOME": str(folder)}
    with (folder / "bridge.log").open("w") as log:
        bridge = subprocess.Popen([*command, *arguments], stdout=log, stderr=log, env=env)
        try:
            peer = subprocess.run([peer_python, PEER, str(domain)], env=env, capture_output=True, text=True, timeout=80)
        finally:
            bridge.terminate()
            bridge.wait(10)
    said = (folder / "bridge.log").read_text()
    assert peer.returncode == 0, peer.stderr[-2000:] + said
    return json.loads(peer.stdout.splitlines()[-1]), said


@pytest.mark.parametrize("discovery", ["SUBNET", "LOCALHOST"])
def test_states_images_trajectories_and_stops(ros, discovery, tmp_path):
    name, python = ros
    domain = 110 + 2 * list(RELEASES).index(name) + (discovery == "SUBNET")
    found, said = talk(sys.executable, python, domain, discovery, tmp_path, "--transport", "cyclonedds")
    print(name, discovery, found)
    check(found, said)


@pytest.fixture(scope="module")
def with_bridge(ros):
    """The release with the project in it, and neither torch nor CycloneDDS."""
    name, python = ros
    uv = shutil.which("uv")
    installed = subprocess.run(
        [uv, "pip", "install", "-q", "--python", python, "-e", Path(smolvla_gym.__file__).parents[1]],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    return name, python


def test_the_bridge_itself_through_rclpy(with_bridge, tmp_path):
    name, python = with_bridge
    found, said = talk(python, python, 120 + list(RELEASES).index(name), "LOCALHOST", tmp_path)
    assert "through rclpy" in said
    check(found, said)


def test_follow_joint_trajectory_and_a_second_bridge(with_bridge, tmp_path):
    """A real client of the action; a best-effort e-stop; and another bridge of the same name, which does not start."""
    name, python = with_bridge
    if shutil.which("g++") is None:
        pytest.skip("control_msgs is built here, by g++")
    built = subprocess.run([python, INTERFACES], capture_output=True, text=True, timeout=200)
    assert built.returncode == 0, built.stderr[-2000:]
    domain = str(124 + list(RELEASES).index(name))
    command = [python, "-m", "smolvla_gym", "ros2", "--domain", domain, "--namespace", "arm_1", "--cameras"]
    with (tmp_path / "bridge.log").open("w") as log:
        bridge = subprocess.Popen([*command, "--duration", "150"], stdout=log, stderr=log)
        try:
            peer = subprocess.run([python, ACTION_PEER, domain, "arm_1"], capture_output=True, text=True, timeout=110)
            second = subprocess.run(command, capture_output=True, text=True, timeout=40)
        finally:
            bridge.terminate()
            bridge.wait(10)
    said = (tmp_path / "bridge.log").read_text()
    assert peer.returncode == 0, peer.stderr[-2000:] + said
    found = json.loads(peer.stdout.splitlines()[-1])
    print(name, found)
    assert found["server"], said
    succeeded, canceled, aborted = 4, 5, 6
    assert found["success"][:2] == [succeeded, 0]
    assert abs(found["moved"] - 0.4) < 0.01
    assert found["feedback"] > 8
    assert found["feedback_joints"] == ["joint_1"]
    assert found["canceled"][0] == canceled
    assert found["held"] < 2e-3
    assert found["preempted"][0] == aborted
    assert "replaced" in found["preempted"][2]
    assert found["second"][:2] == [succeeded, 0]
    codes = [found[kind][:2] for kind in ("joints", "old", "path")]
    assert codes == [[aborted, -2], [aborted, -3], [aborted, -4]]
    assert found["estop"][0] == aborted
    assert "/clear_fault" in found["faulty"][2]
    assert found["cleared"]
    assert found["after"][:2] == [succeeded, 0]
    assert second.returncode == 1
    assert "already publishes" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.fixture
def other_computer():
    """A network namespace, the interface that leads there, and this machine's address on it."""
    name, here, there = (f"{kind}{os.getpid() % 10**6}" for kind in ("far", "near", "wire"))
    inside = ["ip", "netns", "exec", name]
    commands = [
        ["ip", "netns", "add", name],
        ["ip", "link", "add", here, "type", "veth", "peer", "name", there],
        ["ip", "link", "set", there, "netns", name],
        ["ip", "addr", "add", "10.77.0.1/24", "dev", here],
        ["ip", "link", "set", here, "up"],
        [*inside, "ip", "addr", "add", "10.77.0.2/24", "dev", there],
        [*inside, "ip", "link", "set", there, "up"],
        [*inside, "ip", "link", "set", "lo", "up"],
    ]
    try:
        for command in commands:
            if shutil.which("ip") is None or subprocess.run(command, capture_output=True).returncode:
                pytest.skip("network namespaces need iproute2 and root")
        yield inside, here, "10.77.0.1"
    finally:
        if shutil.which("ip"):
            subprocess.run(["ip", "link", "del", here], capture_output=True)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


LISTEN = """
import os, sys, time
from smolvla_gym.integrations.ros2.rclpy_transport import RclpyTransport
transport = RclpyTransport(int(sys.argv[1]), sys.argv[2])
transport.subscribe("/estop", "std_msgs/Bool")
came, end = [], time.time() + 10
while time.time() < end and not came:
    came += transport.receive()
    time.sleep(0.05)
print(len(came) > 0, flush=True)
os._exit(0)
"""


def test_another_computer_is_received_on_its_interface_alone(with_bridge, other_computer):
    """ROS's own LOCALHOST hears one that names this machine as a static peer."""
    name, python = with_bridge
    inside, interface, address = other_computer
    received = []
    for number, kept in enumerate((interface, "lo")):
        domain = str(140 + 2 * list(RELEASES).index(name) + number)
        stranger = subprocess.Popen([*inside, python, STRANGER, domain, address, "20"], stderr=subprocess.DEVNULL)
        try:
            listener = subprocess.run(
                [python, "-c", LISTEN, domain, kept], capture_output=True, text=True, timeout=60, check=True
            )
        finally:
            stranger.terminate()
            stranger.wait(10)
        received.append(listener.stdout.strip())
    assert received == ["True", "False"]


def check(found, said):
    """Makes sure that the peer saw what it has to."""
    for step in (
        "discovered", "silent", "refused", "trajectory_done", "stopped", "refused_while_stopped", "cleared", "jpeg",
    ):  # fmt: skip
        assert found[step], (step, found, said)
    assert found["names"][:6] == [f"joint_{i}" for i in range(1, 7)]
    # How fast it is alone on a machine is printed (-s), and stands in the README; here it may share the cores.
    assert 20 < found["states_per_s"] < 32
    assert found["followed_rad"] > 0.2
    assert found["trajectory_error_deg"] < 0.5
    assert found["images_per_s"] > 15
    assert abs(found["image_age_ms"]) < 500
    assert found["raw"] == [256, 256, 3 * 256 * 256]
