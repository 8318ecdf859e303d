import numpy as np
import pytest

from smolvla_gym.data.statistics import MIN_STD, compute_stats
from smolvla_gym.errors import OptionError
from smolvla_gym.training.tiny.augmentation import Augmentation
from smolvla_gym.training.tiny.batches import Sampler, Windows
from smolvla_gym.training.tiny.frames import Frames


def frames(count=6, **changes):
    columns = {
        "images": {"wrist": np.zeros((count, 64, 64, 3), dtype=np.uint8)},
        "states": np.zeros((count, 7), dtype=np.float32),
        "actions": np.zeros((count, 7), dtype=np.float32),
        "instructions": ["x"],
        "instruction_ids": np.zeros(count, dtype=np.int64),
        "segments": np.arange(count) // 3,
    }
    return Frames(**{**columns, **changes})


def test_windows_stay_inside_their_segment():
    rows, is_pad = Windows(np.array([5, 5, 5, 2, 2, 9]), chunk_size=3).rows(np.arange(6))
    assert rows.tolist() == [[0, 1, 2], [1, 2, 2], [2, 2, 2], [3, 4, 4], [4, 4, 4], [5, 5, 5]]
    assert is_pad.sum(axis=1).tolist() == [0, 1, 2, 1, 2, 2]
    assert not (is_pad[:, :-1] & ~is_pad[:, 1:]).any()


def test_frames_are_drawn_by_their_weights():
    drawn = Sampler(3, np.array([0.0, 1.0, 3.0]), seed=0).draw(40_000)
    assert np.bincount(drawn, minlength=3) / 40_000 == pytest.approx([0, 0.25, 0.75], abs=0.01)


@pytest.mark.parametrize("weights", [[0, 0], [-1, 2], [np.nan, 1]])
def test_bad_weights_are_refused(weights):
    with pytest.raises(OptionError):
        Sampler(2, np.array(weights, dtype=float), seed=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"states": np.zeros((5, 7), dtype=np.float32)},
        {"states": np.zeros((6, 6), dtype=np.float32)},
        {"actions": np.zeros((6, 6), dtype=np.float32)},
        {"actions": np.full((6, 7), np.nan, dtype=np.float32)},
        {"segments": np.array([0, 0, 1, 1, 0, 0])},
        {"images": {"wrist": np.zeros((5, 64, 64, 3), dtype=np.uint8)}},
        {"targets": np.zeros((5, 2), dtype=np.float32)},
        {"referents": np.zeros((5, 2), dtype=np.float32)},
        {"instruction_ids": np.ones(6, dtype=np.int64)},
    ],
)
def test_arrays_that_do_not_match_are_refused(changes):
    with pytest.raises(OptionError):
        frames(**changes)


def test_no_augmentation_only_scales():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    pixels = Augmentation(0, 0, 0, 0).apply(images, np.random.default_rng(0)).numpy()
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, images.astype(np.float32) / np.float32(255))


def test_augmentation_stays_small_and_in_range():
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    pixels = Augmentation().apply(images, np.random.default_rng(0)).numpy()
    assert pixels.dtype == np.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    change = np.abs(pixels - images / 255).mean(axis=(1, 2, 3))
    assert change.mean() > 0.01
    assert change.max() < 0.25


def test_a_shift_moves_the_image():
    images = np.zeros((200, 9, 9, 3), dtype=np.uint8)
    images[:, 4, 4] = 255
    moved = Augmentation(0, 0, 0, shift=2).apply(images, np.random.default_rng(0)).numpy()
    places = {tuple(np.argwhere(image[:, :, 0])[0]) for image in moved}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}


def test_statistics_have_a_floor():
    values = np.zeros((10, 7), dtype=np.float32)
    values[:, 0] = np.arange(10)
    stats = compute_stats(values, values)
    assert stats["action"]["std"][1] == pytest.approx(MIN_STD)
    assert stats["observation.state"]["mean"][0] == pytest.approx(4.5)
    assert stats["action"]["max"][0] == 9
