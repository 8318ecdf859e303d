"""The driver of the cameras against librealsense itself, with a software device in place of the USB port."""

import contextlib
import itertools
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from smolvla_gym.drivers.cameras import librealsense
from smolvla_gym.drivers.cameras.camera import Camera
from smolvla_gym.drivers.cameras.framing import D405_COLOUR, Intrinsics
from smolvla_gym.drivers.cameras.realsense import RealSenseCamera
from smolvla_gym.drivers.cameras.realsense_stream import CameraSettings
from smolvla_gym.errors import DeviceError, OptionError
from smolvla_gym.twin.camera_model import D405, d435
from smolvla_gym.twin.virtual_realsense import VirtualRealSense

PATTERN = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
SCENE = d435(Intrinsics.from_fovy(38.0, 640, 480))


def pictures():
    """Renders a different image each time: colour and a wall that comes nearer."""
    counter = itertools.count()

    def render():
        k = next(counter)
        return np.roll(PATTERN, k, axis=1), np.full((480, 640), 0.4 - 1e-4 * k, np.float32)

    return render


@pytest.fixture
def rig():
    """Makes pairs of a virtual camera and its started driver."""
    with contextlib.ExitStack() as stack:

        def make(render=None, *, start=True, twin=None, serial=None, clock=None, **settings):
            virtual = VirtualRealSense(render or pictures(), **{"noise": 0.0, **(twin or {})})
            stack.callback(virtual.stop)
            factory = virtual.context_factory
            camera = RealSenseCamera(serial, CameraSettings(**settings), context_factory=factory, clock=clock)
            stack.callback(camera.close)
            if start:
                camera.start()
            return virtual, camera

        yield make


def until(condition, timeout=3.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


class StandingClock:
    moment = 0.0

    def now(self):
        return self.moment

    def sleep_until(self, moment):
        self.moment = moment


# -- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_turned_camera(rotation):
    """Colour, depth and intrinsics are turned: what lies at an angle stays at that angle."""
    colour = np.zeros((480, 640, 3), np.uint8)
    distance = np.full((480, 640), 0.3, np.float32)
    colour[100, 200], distance[90:110, 190:210] = 255, 0.4
    virtual = VirtualRealSense(lambda: (colour, distance), noise=0.0, model=SCENE)
    camera = RealSenseCamera(
        None, CameraSettings(depth=True), context_factory=virtual.context_factory, rotation=rotation
    )
    with contextlib.closing(camera), contextlib.ExitStack() as stack:
        virtual.start()
        stack.callback(virtual.stop)
        camera.start()
        frame = camera.wait_newer(0, 5.0)
    row, column = {90: (200, 379), 180: (379, 439), -90: (439, 100)}[rotation]
    assert frame.pixels[row, column].min() == 255
    assert frame.depth[row, column] == 4000
    model, own = camera.intrinsics, SCENE.colour[0]
    assert (model.height, model.width) == frame.pixels.shape[:2]
    x, y = (200 - own.ppx) / own.fx, (100 - own.ppy) / own.fy
    turned = {90: (-y, x), 180: (-x, -y), -90: (y, -x)}[rotation]
    assert ((column - model.ppx) / model.fx, (row - model.ppy) / model.fy) == pytest.approx(turned, abs=1e-4)


def test_each_frame_that_is_pushed_arrives_bit_by_bit(rig):
    drawn, draw = [], pictures()

    def render():
        drawn.append(draw())
        return drawn[-1]

    virtual, camera = rig(render)
    assert camera.latest() is None
    assert camera.age() == float("inf")
    for _ in range(40):
        number = virtual.push()
        frame = camera.wait_newer(number - 1, 2.0)
        assert frame.number == number
        assert frame.depth is None
        np.testing.assert_array_equal(frame.pixels, drawn[-1][0])
        assert frame.pixels.flags.owndata
    assert camera.intrinsics.width == 640
    assert camera.intrinsics.ppx == pytest.approx(D405_COLOUR.ppx)


def test_depth_of_equal_views_arrives_exactly_and_in_tenths_of_a_millimetre(rig):
    distance = np.random.default_rng(1).integers(100, 10001, (480, 640)).astype(np.float32) * np.float32(1e-3)
    virtual, camera = rig(lambda: (PATTERN, distance), depth=True, twin={"model": SCENE})
    virtual.push()
    millimetres = np.rint(distance * 1e3).astype(int)
    expected = np.where(millimetres * 10 < 1 << 16, millimetres * 10, 0)  # 16 bits end at 6.5535 m
    frame = camera.wait_newer(0, 2.0)
    np.testing.assert_array_equal(frame.depth, expected)
    assert frame.depth.dtype == np.uint16
    np.testing.assert_array_equal(frame.pixels, PATTERN)


def test_depth_of_a_d405_comes_without_holes_and_without_rounding(rig):
    virtual, camera = rig(depth=True)
    for k in range(10):
        number = virtual.push()
        depth = camera.wait_newer(number - 1, 2.0).depth
        core = depth[10:-10, 10:-10]
        # The wall is flat for the depth camera; the colour camera sees it turned by 0.3 degrees.
        assert core.min() > 0
        assert abs(int(core[227, 307]) - (4000 - k)) <= 1


def test_depth_is_aligned_to_colour(rig):
    # A square at 0.15 m before a wall at 0.3 m, by angle as the depth camera sees it.
    view = D405.depth[0]
    x = (np.arange(640) - view.ppx) / view.fx
    y = (np.arange(480) - view.ppy) / view.fy
    square = (np.abs(x - 0.2)[None, :] < 0.1) & (np.abs(y + 0.15)[:, None] < 0.1)
    distance = np.where(square, 0.15, 0.3).astype(np.float32)
    virtual, camera = rig(lambda: (PATTERN, distance), depth=True)
    virtual.push()
    rows, columns = np.nonzero(np.abs(camera.wait_newer(0, 2.0).depth.astype(int) - 1500) < 20)

    corners = np.array([[0.1, -0.25, 1.0], [0.3, -0.05, 1.0]]) * 0.15
    # librealsense keeps rotations column by column.
    turned = corners @ np.reshape(D405.rotation, (3, 3)) + D405.translation
    left, right = D405_COLOUR.fx * turned[:, 0] / turned[:, 2] + D405_COLOUR.ppx
    top, bottom = D405_COLOUR.fy * turned[:, 1] / turned[:, 2] + D405_COLOUR.ppy
    found = np.array([columns.min(), columns.max(), rows.min(), rows.max()])
    np.testing.assert_allclose(found, [left, right, top, bottom], atol=2.0)


def test_a_frame_without_new_depth_is_no_new_frame(rig):
    depth = True

    def render():
        return PATTERN, np.full((480, 640), 0.2, np.float32) if depth else None

    virtual, camera = rig(render, depth=True)
    virtual.push()
    first = camera.wait_newer(0, 2.0)
    depth = False
    virtual.push()
    with pytest.raises(DeviceError, match=r"within 0\.2 s"):
        camera.wait_newer(first.number, 0.2)
    depth = True
    assert camera.wait_newer(virtual.push() - 1, 2.0).number == virtual.number


def test_larger_images(rig):
    wide = np.zeros((480, 848, 3), np.uint8)
    virtual, camera = rig(lambda: (wide, None), resolution=(848, 480), fps=15)
    virtual.push()
    assert camera.wait_newer(0, 2.0).pixels.shape == (480, 848, 3)
    assert camera.intrinsics.ppx == pytest.approx(421.47)


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.realtime
def test_thirty_frames_a_second_and_age_that_grows_when_they_repeat(rig):
    virtual, camera = rig()
    virtual.start(30)
    first = camera.wait_newer(0, 2.0)
    time.sleep(1.0)
    last = camera.latest()
    assert (last.number - first.number) / (last.time - first.time) == pytest.approx(30, rel=0.1)
    assert camera.age() < 0.2

    virtual.frozen = True
    time.sleep(0.1)
    frozen = camera.latest()
    time.sleep(0.7)
    assert camera.latest() is frozen
    assert camera.age() > 0.7
    assert not camera.lost
    virtual.frozen = False
    camera.wait_newer(frozen.number, 1.0)
    assert camera.reconnects == 0


def test_a_clock_that_stands_still_makes_no_camera_stall(rig):
    clock = StandingClock()
    virtual, camera = rig(clock=clock)
    camera.check_period, camera.stall_timeout = 0.05, 0.1
    clock.moment = 0.05
    virtual.push()
    assert camera.wait_newer(0, 2.0).time == 0.05
    time.sleep(0.6)
    assert (camera.lost, camera.reconnects) == (False, 0)
    clock.moment = 0.08
    assert camera.age() == pytest.approx(0.03)
    assert camera.wait_newer(virtual.push() - 1, 2.0).time == 0.08


# -- coming and going ------------------------------------------------------------------------------------------------


@pytest.mark.realtime
def test_an_unplugged_camera_is_lost_and_comes_back(rig):
    virtual, camera = rig(depth=True)
    virtual.start(30)
    camera.wait_newer(0, 2.0)
    virtual.unplug()
    until(lambda: camera.lost)
    last = camera.latest()
    with pytest.raises(DeviceError, match="not connected any more"):
        camera.wait_newer(last.number, 0.1)
    virtual.replug()
    assert camera.wait_newer(last.number, 3.0).number > last.number
    assert (camera.lost, camera.reconnects) == (False, 1)


def test_a_camera_that_counts_from_the_beginning_again_still_gives_newer_frames(rig):
    virtual, camera = rig()
    for _ in range(20):
        virtual.push()
    last = camera.wait_newer(19, 2.0)
    virtual.number = 0
    virtual.push()
    assert camera.wait_newer(last.number, 2.0).number == 21
    virtual.push()
    assert camera.wait_newer(21, 2.0).number == 22


def test_a_stream_that_dies_is_started_afresh(rig):
    virtual, camera = rig()
    camera.stall_timeout = 0.3
    virtual.start(30)
    last = camera.wait_newer(0, 2.0)
    virtual.unplug()
    virtual.replug()  # too fast to be noticed as a loss
    until(lambda: camera.reconnects > 0)
    camera.wait_newer(last.number, 2.0)


@pytest.mark.realtime
def test_closing_is_quick_and_may_be_repeated(rig):
    virtual, camera = rig()
    camera.close()
    camera.start()
    virtual.push()
    camera.wait_newer(0, 2.0)
    virtual.unplug()
    until(lambda: camera.lost)
    begin = time.monotonic()
    camera.close()
    camera.close()
    assert time.monotonic() - begin < 0.5


@pytest.mark.parametrize("end", ["pass", "raise SystemExit(0)", "camera.close()", "virtual.stop()", "virtual.unplug()"])
def test_the_interpreter_ends_while_everything_runs(end):
    code = f"""
import atexit
import numpy as np
from smolvla_gym.drivers.cameras.realsense import RealSenseCamera
from smolvla_gym.drivers.cameras.realsense_stream import CameraSettings
from smolvla_gym.twin.virtual_realsense import VirtualRealSense
picture = np.zeros((480, 640, 3), np.uint8), np.full((480, 640), 0.2, np.float32)
def render():
    if virtual.number == 0:  # as OpenGL's modules do
        atexit.register(print, "OpenGL goes")
    return picture
virtual = VirtualRealSense(render)
virtual.start(90)
camera = RealSenseCamera(settings=CameraSettings(depth=True), context_factory=virtual.context_factory)
camera.start()
camera.wait_newer(3, 5.0)
{end}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "OpenGL goes\n", "")


# -- settings --------------------------------------------------------------------------------------------------------


def test_a_camera_in_use_is_a_device_error(rig):
    virtual, _ = rig()
    with pytest.raises(DeviceError, match="Another program"):
        RealSenseCamera(context_factory=virtual.context_factory).start()


def test_usb_2_is_warned_of(rig):
    _, slow = rig(twin={"usb_type": "2.1"}, start=False)
    with pytest.warns(RuntimeWarning, match=r"USB 2\.1: a D405 then gives 10 to 15 frames"):
        slow.start()
    assert "USB 3 port" in slow.usb_warning
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rig()[1].usb_warning is None


OPTIONS = ("enable_auto_exposure", "exposure", "gain", "enable_auto_white_balance", "white_balance")


def options_of(virtual):
    rs = librealsense.load()
    for sensor in virtual.context_factory().query_devices()[0].query_sensors():
        if sensor.supports(rs.option.exposure):
            return {name: sensor.get_option(getattr(rs.option, name)) for name in OPTIONS}
    raise AssertionError


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({}, (1, 33000, 16, 1, 4600)),
        ({"exposure": 8000}, (0, 8000, 16, 1, 4600)),
        ({"gain": 32}, (0, 33000, 32, 1, 4600)),
        ({"white_balance": 3000}, (1, 33000, 16, 0, 3000)),
        ({"exposure": 1, "gain": 248, "white_balance": 6500}, (0, 1, 248, 0, 6500)),
    ],
)
def test_what_is_given_is_fixed_and_the_rest_automatic(rig, given, values):
    virtual, _ = rig(**given)
    assert options_of(virtual) == dict(zip(OPTIONS, values, strict=True))


def test_other_models_are_set_through_their_colour_sensor(rig):
    virtual, _ = rig(exposure=200, white_balance=2810, twin={"model": SCENE})
    assert options_of(virtual)["exposure"] == 200


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"exposure": 0}, "exposure=0 .* from 1 to 165000"),
        ({"exposure": 165001}, "exposure=165001"),
        ({"gain": 15}, "gain=15 .* from 16 to 248"),
        ({"gain": float("nan")}, "gain=nan"),
        ({"white_balance": 9000}, "white_balance=9000 .* from 2800 to 6500"),
        ({"fps": 31}, "640x480 at 30.* frames a second"),
        ({"resolution": (320, 240)}, "USB 3.2 640x480 at 5"),
    ],
)
def test_what_the_camera_cannot_do_is_refused_with_what_it_can(rig, given, message):
    with pytest.raises(OptionError, match=message):
        rig(**given)


def test_values_between_the_steps_are_refused(rig):
    _, camera = rig(start=False, white_balance=2805, twin={"model": SCENE})
    with pytest.raises(OptionError, match="in steps of 10"):
        camera.start()


def test_intrinsics_are_known_after_the_start():
    with pytest.raises(DeviceError, match="start"):
        _ = RealSenseCamera().intrinsics


def test_an_exposure_longer_than_a_frame_is_refused_in_the_cameras_own_unit(rig):
    _, camera = rig(start=False, exposure=334, twin={"model": SCENE})  # of 100 us
    with pytest.raises(OptionError, match=r"33400 us.*33333 us at 30"):
        camera.start()
    with pytest.raises(OptionError, match=r"40000 us.*33333 us at 30"):
        CameraSettings(exposure=40000)


def test_a_serial_number_may_be_a_number(rig):
    _, camera = rig(serial=405000000007, twin={"serial": "405000000007"})
    assert camera.info.serial == "405000000007"
    _, camera = rig(serial=5000000007, twin={"serial": "005000000007"})
    assert camera.info.serial == "005000000007"


def test_the_driver_has_the_members_of_a_camera():
    members = {name for name in vars(Camera) if not name.startswith("_")} | set(Camera.__annotations__)
    assert members <= set(dir(RealSenseCamera())), "see drivers/cameras/__init__.py"
