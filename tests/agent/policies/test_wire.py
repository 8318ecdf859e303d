import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from smolvla_gym.agent.policies.remote.wire import MAX_MESSAGE_BYTES, WireError, decode, encode

NAMES = ["|b1", "|i1", "|u1", "<i2", "<i4", "<i8", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8"]
NUMBERS = st.sampled_from(NAMES).map(np.dtype)
ARRAYS = nps.arrays(NUMBERS, nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
# float64 is a float of Python, and travels as one.
SCALARS = NUMBERS.filter(lambda dtype: dtype != np.float64).flatmap(nps.from_dtype)
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
VALUES = st.recursive(
    LEAVES | ARRAYS | SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)
MESSAGES = st.dictionaries(st.text(), VALUES, max_size=5)


def assert_same(left, right):
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, np.ndarray):
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        np.testing.assert_array_equal(left, right)
    else:
        assert left == right or (left != left and right != right)


@given(MESSAGES)
def test_messages_round_trip(message):
    assert_same(decode(encode(message)), message)


def test_arrays_arrive_bit_for_bit_and_may_be_written_to():
    sent = np.random.default_rng(0).standard_normal((50, 32), dtype=np.float32).T  # not contiguous
    came = decode(encode({"noise": sent}))["noise"]
    assert came.tobytes() == sent.tobytes()
    came[:] = 0


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xc1")
@example(b"\xdd\xff\xff\xff\xff")
def test_random_bytes_raise_the_one_error(data):
    try:
        message = decode(data)
    except WireError:
        return
    assert isinstance(message, dict)


@given(MESSAGES, st.data())
def test_so_do_broken_messages(message, data):
    packed = bytearray(encode({"a": np.zeros(3, np.float32), "b": message}))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(packed[: data.draw(st.integers(0, len(packed)))]))
    except WireError:
        return


@given(st.dictionaries(st.sampled_from([b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"]), VALUES))
def test_so_do_maps_that_are_almost_arrays(fields):
    packed = encode({"fields": fields})
    if b"__ndarray__" not in fields and b"__npgeneric__" not in fields:
        assert decode(packed)["fields"].keys() == fields.keys()
        return
    try:
        value = decode(packed)["fields"]
    except WireError:
        return
    assert isinstance(value, np.ndarray | np.generic)


def array(**changes):
    """A message with an array, written by hand."""
    fields = {b"__ndarray__": True, b"data": bytes(12), b"dtype": "<f4", b"shape": [3]}
    fields |= {key.encode(): value for key, value in changes.items()}
    return msgpack.packb({"a": {key: value for key, value in fields.items() if value is not None}})


def test_the_map_by_hand_is_an_array():
    np.testing.assert_array_equal(decode(array())["a"], np.zeros(3, np.float32))


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "|O"},
        {"dtype": "|O8"},
        {"dtype": "O"},
        {"dtype": "<U3"},
        {"dtype": "<c8"},
        {"dtype": "|V12"},
        {"dtype": "<f4,<f4"},
        {"dtype": ">f4"},
        {"dtype": "float32"},
        {"dtype": b"<f4"},
        {"dtype": [["a", "<f4"]]},
        {"dtype": None},
        {"shape": [4]},
        {"shape": [2]},
        {"shape": [-3]},
        {"shape": [-1, -3]},
        {"shape": [3.0]},
        {"shape": [True, 3]},
        {"shape": 3},
        {"shape": [3] + [1] * 8},
        {"shape": [0, 10**15], "data": b""},
        {"shape": None},
        {"data": "x" * 12},
        {"data": bytearray(11)},
        {"data": None},
        {"more": 1},
    ],
)
def test_other_arrays_are_refused(changes):
    with pytest.raises(WireError):
        decode(array(**changes))


@pytest.mark.parametrize(
    ("data", "dtype"), [(300, "|u1"), (-1, "|u1"), ("1", "<f4"), ([1], "<f4"), (None, "<f4"), (1, "O")]
)
def test_other_numbers_are_refused(data, dtype):
    with pytest.raises(WireError):
        decode(msgpack.packb({"a": {b"__npgeneric__": True, b"data": data, b"dtype": dtype}}))


NOT_PLAIN = {
    "a list": msgpack.packb([1]),
    "keys of bytes": msgpack.packb({b"bytes": 1}),
    "keys of numbers": msgpack.packb({1: 2}),
    "an extension": msgpack.packb({"a": msgpack.ExtType(4, b"")}),
    "a time": msgpack.packb({"a": msgpack.Timestamp(1)}),
    "only a time": msgpack.packb(msgpack.Timestamp(1)),
    "more than one": msgpack.packb({"a": 1}) + b"\x00",
    "a long list": msgpack.packb({"a": list(range(2000))}),
    "many lists": msgpack.packb({"a": [[[]] * 1000] * 1000}),
    "deep lists": b"\x81\xa1a" + b"\x91" * 5000,
}


@pytest.mark.parametrize("packed", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_other_values_are_refused(packed):
    with pytest.raises(WireError):
        decode(packed)


def test_a_text_is_refused():
    with pytest.raises(WireError, match="'hello'"):
        decode("hello")


def test_three_large_images_fit_and_twice_as_many_do_not():
    image = np.zeros((480, 640, 3), np.uint8)
    assert len(decode(encode({"images": [image] * 3}))["images"]) == 3
    with pytest.raises(WireError, match=str(MAX_MESSAGE_BYTES)):
        decode(encode({"images": [image] * 6}))


@pytest.mark.parametrize(
    "value", [object(), np.array([object()]), np.array("text"), np.zeros(2, ">f4"), 1j, {1, 2}, 2**70]
)
def test_only_plain_values_can_be_sent(value):
    with pytest.raises(WireError):
        encode({"a": value})
