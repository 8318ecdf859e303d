"""The description of a served policy: training conditions, absent cameras, and inputs that are not sent."""

import contextlib
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from smolvla_gym.agent import RemotePolicy, SmolVLAAgent
from smolvla_gym.agent.policies.remote.messages import read_description, write_description
from smolvla_gym.agent.policies.remote.wire import WireError, decode, encode
from smolvla_gym.errors import ObservationError, PolicyMismatchError
from tests.agent.policies.connections import serving
from tests.agent.policies.policies import HEIGHT, WIDTH, Wave, make_request


def test_an_older_server_sends_fewer_fields():
    message = decode(write_description(Wave().card))
    for name in ("empty_cameras", "absent_cameras", "control_hz", "gripper", "max_delay"):
        del message["policy"][name]
    assert read_description(encode(message))[0] == Wave().card


@pytest.mark.parametrize(
    "changes",
    [
        {"control_hz": -1.0},
        {"control_hz": "30"},
        {"gripper": 3},
        {"empty_cameras": -1},
        {"absent_cameras": [1]},
        {"max_delay": -1},
        {"max_delay": 1.0},
        {"max_delay": None},
        {"max_delay": 16},
    ],
)
def test_training_conditions_are_checked(changes):
    message = decode(write_description(Wave().card))
    with pytest.raises(WireError, match="does not describe its policy"):
        read_description(encode({**message, "policy": message["policy"] | changes}))


class Trained(Wave):
    """A wave that says how it was trained, with a third camera."""

    def __init__(self, **fields):
        super().__init__()
        cameras = {**self._card.cameras, "third": (HEIGHT, WIDTH)}
        self._card = replace(
            self._card, cameras=cameras, camera_map={**self._card.camera_map, "third": "left"}, **fields
        )
        self.absent = None

    def infer(self, request):
        self.absent = request.absent, "left" in request.observation["pixels"]
        return super().infer(request)


def test_control_rate_and_gripper_are_compared_here_too():
    wave = Wave()
    wave._card = replace(wave._card, control_hz=15.0, gripper="pneumatic")
    with serving(wave) as server, contextlib.closing(SmolVLAAgent.connect(server.address)) as agent:
        assert (agent.env_options["control_hz"], agent.env_options["gripper"]) == (15.0, "pneumatic")
        options = {"cameras": agent.cameras, "image_size": (6 * 8, 8 * 8)}
        with gym.make("PAROL6Sim-v0", **options) as env, pytest.raises(PolicyMismatchError, match="15 Hz"):
            agent.attach(env)


@pytest.mark.parametrize("empty_cameras", [0, 1])
def test_a_client_can_leave_a_camera_out(empty_cameras):
    wave = Trained(empty_cameras=empty_cameras)
    with serving(wave) as server:
        with contextlib.closing(RemotePolicy(server.address, camera_map={"third": None})) as remote:
            assert (remote.card.absent_cameras, remote.card.empty_cameras) == (("third",), 0)
            remote.infer(make_request())
            assert wave.absent == (frozenset(["third"]), False)
        with contextlib.closing(RemotePolicy(server.address)) as remote:
            if empty_cameras:  # the checkpoint allows it
                remote.infer(make_request())
                assert not wave.absent[1]
            else:
                with pytest.raises(PolicyMismatchError, match=r"camera_map=\{'third': None\}"):
                    remote.infer(make_request())


def test_clients_need_no_cameras_that_the_server_leaves_out():
    wave = Wave()
    wave._card = replace(wave._card, absent_cameras=("third",))
    with serving(wave) as server, contextlib.closing(RemotePolicy(server.address)) as remote:
        remote.infer(make_request())
        assert remote.card.env_cameras == ("scene", "wrist")


@pytest.mark.parametrize(
    ("part", "value"),
    [("agent_pos", np.full(7, 90.0, np.float32)), ("pixels", {"wrist": np.zeros((6, 8, 3)), "scene": None})],
)
def test_an_unsuitable_observation_is_not_sent(wave, remote, part, value):
    request = make_request()
    request.observation[part] = value
    before = wave.count
    with pytest.raises(ObservationError):
        remote.infer(request)
    assert wave.count == before
