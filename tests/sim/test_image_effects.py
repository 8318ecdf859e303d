"""Lens and sensor: the post-process of the images of level 2."""

import numpy as np
import pytest

from smolvla_gym.sim.image_effects import ImageEffects

PLAIN = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)


def effects(distortion=0.0, blur=0, curves=PLAIN, noise=0.0, seed=0):
    return ImageEffects(distortion, blur, curves, noise, seed)


def make_image(height=128, width=128):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x // 8 + y // 8) % 2 * 200], axis=-1).astype(np.uint8)


def test_without_effects_an_image_stays_as_it_is():
    for size in ((128, 128), (48, 64), (16, 16), (17, 31)):
        np.testing.assert_array_equal(effects().apply(make_image(*size), 0), make_image(*size))


@pytest.mark.parametrize("distortion", [0.03, -0.03])
def test_the_lens_moves_the_corners_by_about_two_percent_and_the_middle_not_at_all(distortion):
    size = 480
    dot = np.zeros((size, 640, 3), np.uint8)
    radius = 300
    place = size // 2 - int(0.6 * radius), 320 + int(0.8 * radius)
    dot[place[0] - 2 : place[0] + 3, place[1] - 2 : place[1] + 3] = 255
    dot[size // 2 - 2 : size // 2 + 3, 320 - 2 : 320 + 3] = 255
    shown = effects(distortion).apply(dot, 0)[..., 0].astype(float)

    def centre(left, right):
        y, x = np.mgrid[:size, left:right]
        weight = shown[:, left:right]
        return np.array([(y * weight).sum(), (x * weight).sum()]) / weight.sum()

    np.testing.assert_allclose(centre(280, 360), (240, 320), atol=0.5)
    moved = np.linalg.norm(centre(480, 640) - (240, 320)) - np.hypot(place[0] - 240, place[1] - 320)
    share = -moved / radius / distortion
    assert share == pytest.approx((radius / 400 * 0.93) ** 2, rel=0.15)


def test_the_blur_softens_edges_and_keeps_the_mean():
    image = make_image()
    sharp, soft = (effects(blur=blur).apply(image, 0)[..., 2].astype(float) for blur in (0, 2))
    assert np.abs(np.diff(soft, axis=1)).max() < 0.8 * np.abs(np.diff(sharp, axis=1)).max()
    assert abs(soft.mean() - sharp.mean()) < 1.5


def test_noise_has_the_deviation_that_was_drawn_and_falls_with_the_light():
    bright, dark = (np.full((128, 128, 3), level, np.uint8) for level in (180, 20))
    deviations = [effects(noise=3.0).apply(image, 5).astype(float).std() for image in (bright, dark)]
    assert deviations[0] == pytest.approx(3.0 * np.sqrt(180 / 255), rel=0.15)
    assert deviations[1] < 0.6 * deviations[0]


def test_noise_depends_on_the_seed_and_the_moment_alone():
    image = make_image()
    drawn = ImageEffects.draw(np.random.default_rng(3))
    again = ImageEffects.draw(np.random.default_rng(3))
    np.testing.assert_array_equal(drawn.apply(image, 9), again.apply(image, 9))
    assert np.any(drawn.apply(image, 9) != drawn.apply(image, 18))
    assert np.any(effects(noise=2.0).apply(image, 0) != effects(noise=2.0, seed=1).apply(image, 0))
