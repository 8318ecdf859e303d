import re

import numpy as np
import pytest

from smolvla_gym.calibration.board import (
    DEFAULT_BOARD,
    PAPERS,
    board_corners,
    board_image,
    measured_board,
    write_sheet,
)
from smolvla_gym.calibration.detection import BoardDetector
from smolvla_gym.errors import OptionError
from smolvla_gym.parol6.calibration import BoardSpec

_DOTS = 8  # per mm


def draw(content, size):
    """Draw the rectangles of a sheet, in mm from its lower left corner, as a printer does."""
    width, height = (round(_DOTS * edge) for edge in size)
    image = np.full((height, width), 255, np.uint8)
    for x, y, w, h in re.findall(rb"([-\d.]+) ([-\d.]+) ([-\d.]+) ([-\d.]+) re f", content):
        left, low, right, high = (
            round(_DOTS * value) for value in (float(x), float(y), float(x) + float(w), float(y) + float(h))
        )
        image[height - high : height - low, left:right] = 0
    return image


@pytest.mark.parametrize("paper", PAPERS)
def test_the_printed_board_is_the_one_that_is_detected(tmp_path, paper):
    write_sheet(tmp_path / "board.pdf", paper)
    content = (tmp_path / "board.pdf").read_bytes()
    image = draw(content, PAPERS[paper])
    found = BoardDetector(DEFAULT_BOARD).detect(image)
    assert len(found) == 24
    distance = np.ptp(found.pixels[:, 0]) / _DOTS
    assert distance == pytest.approx(1e3 * DEFAULT_BOARD.square_m * 5, abs=0.1)


def test_a_sheet_is_a_valid_pdf(tmp_path):
    write_sheet(tmp_path / "board.pdf")
    content = (tmp_path / "board.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.endswith(b"%%EOF\n")
    start = int(re.search(rb"startxref\n(\d+)", content)[1])
    assert content[start : start + 4] == b"xref"
    for number, place in enumerate(re.findall(rb"(\d{10}) 00000 n", content), start=1):
        assert content[int(place) :].startswith(b"%d 0 obj" % number)
    length = int(re.search(rb"/Length (\d+)", content)[1])
    stream = content.index(b"stream\n") + len(b"stream\n")
    assert content[stream + length :].startswith(b"\nendstream")


def test_a_board_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(OptionError, match="paper"):
        write_sheet(tmp_path / "board.pdf", "a4", BoardSpec(square_m=0.042, marker_m=0.03))
    assert not list(tmp_path.iterdir())


def test_one_measured_length_scales_the_board():
    board = measured_board(DEFAULT_BOARD, 250.74)
    assert board.square_m == pytest.approx(0.03582)
    assert board.marker_m / board.square_m == pytest.approx(0.75)
    with pytest.raises(OptionError, match="measured_mm"):
        measured_board(DEFAULT_BOARD, 25.2)


def test_corners_lie_where_the_image_has_them():
    found = BoardDetector(DEFAULT_BOARD).detect(board_image(DEFAULT_BOARD, 60, (0.02, 0.02)))
    margin = round(0.02 * 60 / DEFAULT_BOARD.square_m)
    # Corners are edges between pixels; whole coordinates are their centres.
    expected = board_corners(DEFAULT_BOARD)[found.ids, :2] / DEFAULT_BOARD.square_m * 60 + margin - 0.5
    np.testing.assert_allclose(found.pixels, expected, atol=0.05)
