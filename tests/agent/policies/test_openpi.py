"""Clients of openpi, byte by byte: their ``msgpack_numpy`` encoding, written from its format."""

import time

import msgpack
import numpy as np
from websockets.sync.client import connect

from smolvla_gym.agent.policies.remote.server import ServerTimeouts
from tests.agent.policies.connections import serving
from tests.agent.policies.policies import make_request, request_map


def pack(value):
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    return value


def unpack(value):
    if b"__ndarray__" in value:
        return np.ndarray(buffer=value[b"data"], dtype=np.dtype(value[b"dtype"]), shape=value[b"shape"])
    return value


def test_a_client_like_openpis(wave):
    headers = {"Authorization": "Api-Key key"}
    with (
        serving(wave, token="key") as server,
        connect(server.address, compression=None, max_size=None, additional_headers=headers) as connection,
    ):
        metadata = msgpack.unpackb(connection.recv(), object_hook=unpack)
        assert metadata["policy"]["chunk_size"] == 16

        state = request_map()["state"].astype(np.float64)
        connection.send(msgpack.packb(request_map(noise=..., state=state, step=np.int64(3)), default=pack))
        answer = msgpack.unpackb(connection.recv(), object_hook=unpack)
        assert answer["actions"].tobytes() == wave.chunk(make_request()).actions.tobytes()
        assert answer["server_timing"]["infer_ms"] > 0.0

        connection.send(msgpack.packb({"prompt": "go"}, default=pack))
        assert isinstance(connection.recv(), str), "openpi's clients take a text for an error"


def test_a_client_may_be_silent_for_as_long_as_it_likes(wave):
    """As during a reset of its arm."""
    with (
        serving(wave, timeouts=ServerTimeouts(send_s=0.2)) as server,
        connect(server.address, compression=None, max_size=None) as connection,
    ):
        connection.recv()
        for pause in (0.0, 0.8):
            time.sleep(pause)
            connection.send(msgpack.packb(request_map(), default=pack))
            answer = msgpack.unpackb(connection.recv(), object_hook=unpack)
            assert answer["actions"].tobytes() == wave.chunk(make_request()).actions.tobytes()
