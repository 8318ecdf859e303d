import numpy as np
import pytest

from smolvla_gym.agent.images import resize_area

pytest.importorskip("cv2")


def test_shrinking_averages():
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[:2, :2] = 100
    image[0, 0] = 200
    small = resize_area(image, (2, 2))
    assert small.dtype == np.uint8
    assert small[:, :, 0].tolist() == [[125, 0], [0, 0]]


def test_the_right_size_is_returned_as_it_is():
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    assert resize_area(image, (4, 6)) is image


@pytest.mark.parametrize("size", [(3, 5), (8, 12), (2, 12)])
def test_height_comes_first(size):
    assert resize_area(np.zeros((4, 6, 3), dtype=np.uint8), size).shape == (*size, 3)
