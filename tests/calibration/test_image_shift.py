import numpy as np
import pytest
from PIL import Image

from smolvla_gym.calibration.image_shift import measure_shift
from smolvla_gym.errors import CalibrationError

SIZE = (480, 640)


def scenery(seed=0, size=SIZE):
    """A smooth random image of larger patches and finer ones."""
    rng = np.random.default_rng(seed)
    layers = []
    for cell in (4, 16):
        small = rng.integers(0, 255, (size[0] // cell, size[1] // cell, 3), dtype=np.uint8)
        layers.append(np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC), np.float32))
    return np.mean(layers, axis=0).astype(np.uint8)


def box(size=SIZE):
    mask = np.zeros(size, bool)
    mask[size[0] // 3 : size[0] // 2, size[1] // 3 : size[1] * 2 // 3] = True
    return mask


def moved(image, right=0.0, down=0.0, roll=0.0, zoom=0.0):
    """An image whose content has moved; it turns about the middle of the mask."""
    rows, columns = np.nonzero(box(image.shape[:2]))
    x, y, angle = columns.mean() + 0.5, rows.mean() + 0.5, np.deg2rad(roll)
    # x' = c + (1 + zoom + i roll) (x - c) + shift, and Pillow takes the inverse.
    matrix = np.array([[1 + zoom, -angle], [angle, 1 + zoom]])
    inverse = np.linalg.inv(matrix)
    offset = np.array([x, y]) - inverse @ np.array([x + right, y + down])
    data = (*inverse[0], offset[0], *inverse[1], offset[1])
    picture = Image.fromarray(image)
    return np.asarray(picture.transform(picture.size, Image.Transform.AFFINE, data, Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    "motion",
    [
        {}, {"right": 0.3}, {"right": -2.6, "down": 1.2}, {"down": 9.0}, {"right": -30.0, "down": 21.0},
        {"roll": 1.0}, {"zoom": 0.02}, {"right": 4.0, "roll": -0.5, "zoom": -0.01},
    ],
)  # fmt: skip
def test_a_motion_is_found(motion):
    image = scenery()
    shift = measure_shift(image, moved(image, **motion), box())
    for name in ("right", "down", "roll", "zoom"):
        assert getattr(shift, name) == pytest.approx(motion.get(name, 0.0), abs=0.1)
    assert shift.match > 0.98


def test_the_shift_counts_in_pixels_of_a_large_image():
    image = scenery(size=(1440, 1920))
    shift = measure_shift(image, moved(image, right=3.0), box((1440, 1920)))
    assert shift.rms == pytest.approx(3.0, abs=0.1)
    assert shift.right == pytest.approx(3.0, abs=0.1)


def test_light_and_contrast_do_not_matter():
    image = scenery()
    gradient = np.linspace(0.5, 1.0, SIZE[1])[:, None]
    other = (image * gradient * [0.9, 1.0, 0.7] + 20).astype(np.uint8)
    shift = measure_shift(image, other, box())
    assert shift.rms < 0.05
    assert shift.match > 0.9


def test_a_part_that_is_covered_does_not_matter():
    image = scenery()
    now = moved(image, right=1.5).copy()
    now[160:200, 210:300] = 0
    shift = measure_shift(image, now, box())
    assert shift.right == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize("other", [np.zeros((*SIZE, 3), np.uint8), np.full((*SIZE, 3), 255, np.uint8), scenery(7)])
def test_another_image_does_not_match(other):
    assert measure_shift(scenery(), other, box()).match < 0.4


def test_what_cannot_be_compared_is_refused():
    image = scenery()
    with pytest.raises(CalibrationError, match="320x240"):
        measure_shift(image, scenery(size=(240, 320)), box())
    with pytest.raises(CalibrationError, match="mask"):
        measure_shift(image, image, np.zeros(SIZE, bool))
