"""The virtual camera: what librealsense sees of it, and when it draws."""

import threading
import time

import numpy as np
import pytest

from smolvla_gym.drivers.cameras.librealsense import load
from smolvla_gym.drivers.cameras.realsense import RealSenseCamera
from smolvla_gym.drivers.cameras.realsense_stream import CameraSettings
from smolvla_gym.twin.camera_model import D405
from smolvla_gym.twin.virtual_realsense import VirtualBus, VirtualRealSense

GREY = np.full((480, 640, 3), 128, np.uint8)


def grey():
    return GREY, np.full((480, 640), 0.2, np.float32)


def frames(virtual, count):
    camera = RealSenseCamera(context_factory=virtual.context_factory)
    camera.start()
    try:
        return [camera.wait_newer(virtual.push() - 1, 2.0).pixels for _ in range(count)]
    finally:
        camera.close()


def test_librealsense_sees_a_d405():
    rs = load()
    context = VirtualRealSense(grey, serial="X").context_factory()
    (device,) = context.query_devices()
    info = rs.camera_info
    assert device.get_info(info.name) == "Intel RealSense D405"
    assert device.get_info(info.serial_number) == "X"
    assert device.get_info(info.product_id) == "0B5B"
    assert device.get_info(info.usb_type_descriptor) == "3.2"
    (sensor,) = device.query_sensors()
    assert sensor.get_info(info.name) == "Stereo Module"
    assert device.first_depth_sensor().get_depth_scale() == pytest.approx(1e-4)
    with pytest.raises(RuntimeError):
        sensor.set_option(rs.option.depth_units, 1e-3)
    exposure = sensor.get_option_range(rs.option.exposure)
    assert (exposure.min, exposure.max, exposure.default) == (1, 165000, 33000)
    profiles = [profile.as_video_stream_profile() for profile in sensor.get_stream_profiles()]
    offered = {(p.stream_type(), p.format(), p.width(), p.height()) for p in profiles if p.fps() == 30}
    streams = ((rs.stream.color, rs.format.rgb8), (rs.stream.depth, rs.format.z16))
    assert offered == {(*stream, width, 480) for stream in streams for width in (640, 848)}
    depth = next(p for p in profiles if p.stream_type() == rs.stream.depth and p.width() == 640)
    colour = next(p for p in profiles if p.stream_type() == rs.stream.color and p.width() == 640)
    assert depth.get_intrinsics().fx == pytest.approx(380.41)
    assert depth.get_extrinsics_to(colour).translation == pytest.approx(D405.translation)
    assert depth.get_extrinsics_to(colour).rotation == pytest.approx(D405.rotation)


def test_noise_is_small_differs_from_frame_to_frame_and_follows_the_seed():
    one, two, other = (VirtualRealSense(grey, noise=2.0, seed=seed) for seed in (3, 3, 4))
    pictures, again, different = frames(one, 2), frames(two, 2), frames(other, 2)
    np.testing.assert_array_equal(pictures, again)
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], different[0])
    error = pictures[0].astype(float) - 128
    assert error.std() == pytest.approx(2.0, rel=0.05)
    assert error.mean() == pytest.approx(0.0, abs=0.02)
    assert (GREY == 128).all()
    for virtual in (one, two):
        virtual.reseed(7)
    np.testing.assert_array_equal(frames(one, 1), frames(two, 1))


def test_distances_out_of_range_read_zero():
    raw = D405.raw_depth(np.array([[0.0699, 0.07, 0.12344, 0.5, 0.5001, np.inf]], np.float32))
    assert raw.tolist() == [[0, 700, 1234, 5000, 0, 0]]


def test_numbers_count_frames_and_stand_still_while_frozen():
    drawn = []

    def render():
        drawn.append(0)
        return grey()

    virtual = VirtualRealSense(render)
    virtual.frozen = True
    assert [virtual.push() for _ in range(3)] == [1, 1, 1]
    virtual.frozen = False
    virtual.unplug()
    assert [virtual.push() for _ in range(2)] == [2, 3]
    virtual.replug()
    assert virtual.push() == 4
    assert len(drawn) == 4


@pytest.mark.alone
@pytest.mark.realtime
def test_the_thread_draws_at_a_rate_that_can_be_changed():
    threads = []

    def render():
        threads.append(threading.current_thread())
        return grey()

    virtual = VirtualRealSense(render, noise=0.0)
    virtual.start(50)
    time.sleep(0.6)
    assert virtual.number == pytest.approx(30, abs=4)
    virtual.fps = 10
    begin = virtual.number
    time.sleep(0.6)
    assert virtual.number - begin == pytest.approx(6, abs=2)
    virtual.stop()
    virtual.stop()
    assert set(threads) == {threads[0]}
    assert not threads[0].is_alive()
    end = virtual.number
    virtual.start(100)
    time.sleep(0.1)
    virtual.stop()
    assert virtual.number > end


def test_images_of_the_wrong_size_are_refused():
    virtual = VirtualRealSense(grey)
    camera = RealSenseCamera(settings=CameraSettings(resolution=(848, 480)), context_factory=virtual.context_factory)
    camera.start()
    try:
        with pytest.raises(ValueError, match=r"848x480.*640x480"):
            virtual.push()
    finally:
        camera.close()


def test_a_bus_without_plugged_cameras_is_empty():
    cameras = [VirtualRealSense(grey, serial=serial) for serial in "AB"]
    bus = VirtualBus(cameras)
    assert len(bus.context_factory().query_devices()) == 2
    cameras[0].unplug()
    assert len(bus.context_factory().query_devices()) == 1
    cameras[1].unplug()
    assert len(bus.context_factory().query_devices()) == 0
    cameras[0].replug()
    assert len(bus.context_factory().query_devices()) == 1
