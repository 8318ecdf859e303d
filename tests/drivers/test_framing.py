"""In the crop of a real camera's image, things appear at the pixels where the simulation shows them."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from smolvla_gym.drivers.cameras.framing import D405_COLOUR, Framing, Intrinsics

SIZES = st.sampled_from([(256, 256), (128, 256), (256, 128), (120, 160), (480, 640), (224, 224), (600, 800)])
CAMERAS = st.builds(
    lambda size, focal, squash, x, y: Intrinsics(
        *size, focal * size[0], focal * squash * size[0], size[0] * (0.5 + x), size[1] * (0.5 + y)
    ),
    st.sampled_from([(640, 480), (848, 480), (1280, 720)]),
    st.floats(0.5, 0.9),
    st.floats(0.98, 1.02),
    st.floats(-0.03, 0.03),
    st.floats(-0.03, 0.03),
)
PATTERN = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)


def view_of(camera, image_size):
    """The intrinsics of the framed image, by the rule of World: the largest centred crop of a shape, then scaled."""
    height, width = image_size
    crop = min(camera.width, camera.height * width / height), min(camera.height, camera.width * height / width)
    scale = width / crop[0]
    ppx = (camera.ppx + 0.5 - (camera.width - crop[0]) / 2) * scale - 0.5
    ppy = (camera.ppy + 0.5 - (camera.height - crop[1]) / 2) * scale - 0.5
    return Intrinsics(width, height, camera.fx * scale, camera.fy * scale, ppx, ppy)


def project(camera, angle):
    return camera.fx * angle[0] + camera.ppx, camera.fy * angle[1] + camera.ppy


@given(SIZES)
def test_with_the_references_own_intrinsics_it_is_a_plain_centred_crop(image_size):
    height, width = image_size
    framing = Framing(D405_COLOUR, D405_COLOUR, image_size)
    crop_width, crop_height = min(640, 480 * width / height), min(480, 640 * height / width)
    box = (320 - crop_width / 2, 240 - crop_height / 2, 320 + crop_width / 2, 240 + crop_height / 2)
    resample = Image.Resampling.BOX if width <= crop_width else Image.Resampling.BILINEAR
    expected = Image.fromarray(PATTERN).resize((width, height), resample, box=box)
    np.testing.assert_array_equal(framing.colour(PATTERN), np.asarray(expected))
    assert framing.missing == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(CAMERAS, CAMERAS, SIZES, st.floats(-0.3, 0.3), st.floats(-0.3, 0.3))
def test_a_thing_at_an_angle_appears_at_the_same_pixel_by_any_camera(camera, reference, image_size, x, y):
    # A bright patch a few pixels wide on black, and its centre of brightness after the framing.
    view = view_of(reference, image_size)
    wanted = project(view, (x, y))
    u, v = project(camera, (x, y))
    radius = 8 * max(camera.fx / view.fx, 1.0)
    assume(all(12 < p < size - 12 for p, size in zip(wanted, (view.width, view.height), strict=True)))
    assume(radius + 2 < u < camera.width - radius - 2)
    assume(radius + 2 < v < camera.height - radius - 2)
    rows, columns = np.mgrid[: camera.height, : camera.width]
    patch = np.clip(1.2 - np.hypot(columns - u, rows - v) / radius, 0.0, 1.0)
    picture = np.repeat((255 * patch).astype(np.uint8)[..., None], 3, axis=2)
    framing = Framing(camera, reference, image_size)
    framed = framing.colour(picture)[..., 0].astype(float)
    assert framed.shape == image_size
    rows, columns = np.mgrid[: view.height, : view.width]
    centre = (framed * columns).sum() / framed.sum(), (framed * rows).sum() / framed.sum()
    np.testing.assert_allclose(centre, wanted, atol=0.5 * max(1.0, view.fx / camera.fx))

    depth = np.where(patch > 0.5, 2000, 0).astype(np.uint16)
    framed = framing.depth(depth)
    assert framed.shape == (*image_size, 1)
    assert framed.dtype == np.uint16
    assert set(np.unique(framed)) <= {0, 2000}
    rows, columns = np.nonzero(framed[..., 0])
    np.testing.assert_allclose((columns.mean(), rows.mean()), wanted, atol=0.75 * max(1.0, view.fx / camera.fx))


@settings(deadline=None)
@given(CAMERAS, CAMERAS, SIZES)
def test_missing_is_the_share_of_the_view_beyond_the_image(camera, reference, image_size):
    framing = Framing(camera, reference, image_size)
    left, top, right, bottom = framing.window
    x, y = np.meshgrid(np.linspace(left, right, 402)[1:-1], np.linspace(top, bottom, 402)[1:-1])
    outside = (x < 0) | (x > camera.width) | (y < 0) | (y > camera.height)
    assert framing.missing == pytest.approx(outside.mean(), abs=0.01)


def test_what_is_not_seen_is_filled_without_moving_the_rest():
    narrow = Intrinsics(640, 480, 862.34, 859.96, 317.47, 237.27)
    framing = Framing(narrow, D405_COLOUR, (240, 320))
    assert framing.missing == pytest.approx(0.75, abs=0.01)
    white = framing.colour(np.full((480, 640, 3), 255, np.uint8))
    assert white.min() == 255
    depth = framing.depth(np.full((480, 640), 1234, np.uint16))[..., 0]
    assert (depth == 0).mean() == pytest.approx(0.75, abs=0.01)
    assert depth[120, 160] == 1234


def test_what_the_reference_would_not_measure_reads_0():
    depth = np.zeros((480, 640), np.uint16)
    depth[240, 300:306] = seen = [1, 699, 700, 5000, 5001, 65535]
    cut = Framing(D405_COLOUR, D405_COLOUR, (480, 640), (0.07, 0.5)).depth(depth)
    assert cut[240, 300:306, 0].tolist() == [0, 0, 700, 5000, 0, 0]
    assert Framing(D405_COLOUR, D405_COLOUR, (480, 640)).depth(depth)[240, 300:306, 0].tolist() == seen


def test_the_wider_image_of_a_d405_gives_the_view_of_the_narrow_one():
    # Its 640x480 colour images are the middle of its 848x480 ones.
    wide = Intrinsics(848, 480, 431.17, 429.98, 421.47, 237.27)
    picture = np.pad(PATTERN, ((0, 0), (104, 104), (0, 0)))
    for size in ((256, 256), (480, 640)):
        expected = Framing(D405_COLOUR, D405_COLOUR, size).colour(PATTERN)
        np.testing.assert_array_equal(Framing(wide, D405_COLOUR, size).colour(picture), expected)


def test_a_field_of_view_becomes_a_focal_length():
    camera = Intrinsics.from_fovy(90.0, 640, 480)
    assert (camera.fx, camera.fy) == pytest.approx((240.0, 240.0))
    assert (camera.ppx, camera.ppy) == (319.5, 239.5)
