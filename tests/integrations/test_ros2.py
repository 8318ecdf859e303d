"""Messages as ROS 2 sends them; ``test_ros2_peers.py`` compares them with a real ROS 2."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("cyclonedds")

from smolvla_gym.errors import DeviceError, OptionError
from smolvla_gym.integrations import ros_messages as ros
from smolvla_gym.integrations.ros2.cyclone import CycloneTransport, build_message, idl_type
from smolvla_gym.integrations.ros2.middleware import open_transport

numbers = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=9)
EXAMPLES = {
    "sensor_msgs/JointState": st.builds(
        lambda t, names, values: ros.joint_state(t, names, values),
        st.floats(0, 2e9), st.lists(words, max_size=4), st.lists(numbers, max_size=4),
    ),
    "sensor_msgs/CompressedImage": st.builds(
        lambda t, frame, kind, data: {"header": ros.header(t, frame), "format": kind, "data": data},
        st.floats(0, 2e9), words, words, st.binary(max_size=50),
    ),
    "tf2_msgs/TFMessage": st.builds(
        lambda t, names: {"transforms": [ros.transform(t, "world", name, np.ones(3), np.eye(3)) for name in names]},
        st.floats(0, 2e9), st.lists(words, max_size=3),
    ),
    "std_msgs/String": st.builds(lambda text: {"data": text}, words),
}  # fmt: skip


@pytest.mark.parametrize("datatype", list(EXAMPLES))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_bytes_are_those_of_another_encoder(datatype, data):
    """CycloneDDS, and this package's encoder of images, against that of the package mcap_ros2."""
    writer = pytest.importorskip("mcap_ros2.writer")
    from mcap.reader import make_reader

    message = data.draw(EXAMPLES[datatype])
    file = io.BytesIO()
    mcap = writer.Writer(file)
    package, name = datatype.split("/")
    mcap.write_message("/x", mcap.register_msgdef(f"{package}/msg/{name}", ros.definition(datatype)), message)
    mcap.finish()
    (expected,) = [m.data for _, _, m in make_reader(io.BytesIO(file.getvalue())).iter_messages()]
    mine = bytes(build_message(datatype, message).serialize(use_version_2=False))
    assert mine[4:].rstrip(b"\0") == expected[4:].rstrip(b"\0")
    assert len(mine) - len(expected) in range(4)  # padding at the end is free
    assert mine[:2] == b"\0\1"


def test_a_whole_image():
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    made = build_message("sensor_msgs/Image", ros.image(5.25, "wrist_camera", pixels))
    back = idl_type("sensor_msgs/Image").deserialize(made.serialize())
    assert (back.height, back.width, back.step, back.encoding) == (4, 6, 18, "rgb8")
    assert bytes(back.data) == pixels.tobytes()
    assert (back.header.stamp.sec, back.header.stamp.nanosec) == (5, 250_000_000)


def test_bad_options():
    with pytest.raises(OptionError, match="transport='zenoh'"):
        open_transport("zenoh", 0, "lo")
    with pytest.raises(OptionError, match="domain=300"):
        open_transport("cyclonedds", 300, "lo")
    with pytest.raises(DeviceError, match="nosuch0"):
        CycloneTransport(98, "nosuch0")
