"""ChArUco board: its corners, its image, and the sheet to print.

A sheet is a PDF of rectangles, so that it is exact at any resolution of a printer.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import OptionError, needs_extra
from smolvla_gym.parol6 import Array
from smolvla_gym.parol6.calibration import BoardSpec
from smolvla_gym.utils.json_file import whole_file

DEFAULT_BOARD: Final = BoardSpec()
"""Board that fits both sizes of paper: 252 mm x 180 mm."""

PAPERS: Final = {"a4": (297.0, 210.0), "letter": (279.4, 215.9)}
"""Width and height in mm of the sizes of paper, landscape."""

_MIN_MARGIN: Final = 8.0  # mm; printers leave up to 6 mm white
_POINTS_PER_MM: Final = 72.0 / 25.4
_SCALES: Final = (0.9, 1.1)
_BORDER_BITS: Final = 1


def load_cv2() -> Any:
    """Return OpenCV.

    Raises:
        MissingExtraError: The packages of the extra ``calibration`` are not installed.
    """
    with needs_extra("the calibration", "calibration"):
        import cv2
        import scipy.optimize  # noqa: F401 - a missing package is found before the arm moves
    return cv2


def make_board(spec: BoardSpec) -> Any:
    """Return OpenCV's board."""
    cv2 = load_cv2()
    dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, spec.dictionary))
    return cv2.aruco.CharucoBoard((spec.columns, spec.rows), spec.square_m, spec.marker_m, dictionary)


def board_corners(spec: BoardSpec) -> Array:
    """Return the inner corners in m in the board's frame, x along the long edge and z into it, shape (n, 3)."""
    x, y = np.meshgrid(np.arange(1, spec.columns), np.arange(1, spec.rows))
    return np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)]) * spec.square_m


def board_middle(spec: BoardSpec) -> Array:
    """Return the middle of the board in its own frame in m, shape (3,)."""
    return np.array([spec.columns * spec.square_m / 2, spec.rows * spec.square_m / 2, 0.0])


def measured_board(spec: BoardSpec, width_mm: float) -> BoardSpec:
    """Return the board as it was printed.

    Args:
        spec: The board as it was meant.
        width_mm: Measured width in mm of the whole pattern, from the left edge of its first to the right edge of its
            last square.

    Raises:
        OptionError: The width differs by more than 10 % from what was meant.
    """
    meant = 1e3 * spec.columns * spec.square_m
    scale = width_mm / meant
    if not _SCALES[0] <= scale <= _SCALES[1]:
        low, high = (meant * s for s in _SCALES)
        allowed = f"the width of the pattern in mm, {low:.0f} to {high:.0f}: print the sheet at 100 %"
        raise OptionError("measured_mm", width_mm, allowed)
    return replace(spec, square_m=spec.square_m * scale, marker_m=spec.marker_m * scale)


def black_rectangles(spec: BoardSpec) -> list[tuple[float, float, float, float]]:
    """Return the black parts of the board: left, top, width and height in m from its top left corner."""
    board, square = make_board(spec), spec.square_m
    corners = [np.asarray(points)[:, :2] for points in board.getObjPoints()]
    marked = {(int(c[:, 0].mean() / square), int(c[:, 1].mean() / square)) for c in corners}
    rectangles = [
        (column * square, row * square, square, square)
        for row in range(spec.rows)
        for column in range(spec.columns)
        if (column, row) not in marked
    ]
    dictionary = board.getDictionary()
    cells = int(dictionary.markerSize) + 2 * _BORDER_BITS
    edge = spec.marker_m / cells
    for number, points in zip(np.ravel(board.getIds()).tolist(), corners, strict=True):
        left, top = points.min(axis=0).tolist()
        bits = np.asarray(dictionary.generateImageMarker(int(number), cells, borderBits=_BORDER_BITS)) < 128
        for row, line in enumerate(bits):
            # Runs of black cells are one rectangle: no printer leaves hairlines between them.
            edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
            for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
                rectangles.append((left + start * edge, top + row * edge, (stop - start) * edge, edge))
    return rectangles


def board_image(
    spec: BoardSpec, pixels_per_square: int = 112, margin_m: tuple[float, float] = (0.0, 0.0)
) -> NDArray[np.uint8]:
    """Draw the board, grey, shape (H, W).

    Args:
        spec: The board.
        pixels_per_square: Resolution.
        margin_m: White margin in m beside and above the pattern.
    """
    scale = pixels_per_square / spec.square_m
    beside, above = (round(margin * scale) for margin in margin_m)
    board = make_board(spec)
    size = (spec.columns * pixels_per_square, spec.rows * pixels_per_square)
    inner = np.asarray(board.generateImage(size, marginSize=0, borderBits=_BORDER_BITS), dtype=np.uint8)
    return np.pad(inner, ((above, above), (beside, beside)), constant_values=255)


def write_sheet(path: str | os.PathLike[str], paper: str = "a4", spec: BoardSpec = DEFAULT_BOARD) -> None:
    """Write the sheet to print as a PDF of one page.

    Args:
        path: The file.
        paper: ``"a4"`` or ``"letter"``.
        spec: The board.

    Raises:
        OptionError: The board is larger than the paper.
        RecordingError: The file could not be written.
    """
    width, height = PAPERS[paper]
    across, down = 1e3 * spec.columns * spec.square_m, 1e3 * spec.rows * spec.square_m
    left, bottom = (width - across) / 2, (height - down) / 2
    if min(left, bottom) < _MIN_MARGIN:
        raise OptionError("paper", paper, f"a size of paper on which {across:.0f} x {down:.0f} mm fit")
    lines = [f"{_POINTS_PER_MM:.6f} 0 0 {_POINTS_PER_MM:.6f} 0 0 cm", "0 g"]
    for x, y, w, h in black_rectangles(spec):
        lines.append(f"{left + 1e3 * x:.4f} {height - bottom - 1e3 * (y + h):.4f} {1e3 * w:.4f} {1e3 * h:.4f} re f")
    title = (
        f"ChArUco {spec.columns} x {spec.rows}, squares {1e3 * spec.square_m:g} mm, markers "
        f"{1e3 * spec.marker_m:g} mm, {spec.dictionary}. Print at 100 %, glue it to a flat plate."
    )
    ask = f"Measure the whole pattern from left to right: {across:g} mm if the printer is exact. Give what you measure."
    lines += [_text(left, bottom / 2 + 1.0, title), _text(left, bottom / 2 - 3.5, ask)]
    with whole_file(path, "sheet") as part:
        part.write_bytes(_document("\n".join(lines).encode("ascii"), (width, height)))


def _text(x: float, y: float, words: str) -> str:
    escaped = words.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
    return f"BT /F1 3 Tf {x:.2f} {y:.2f} Td ({escaped}) Tj ET"


def _document(page: bytes, size: tuple[float, float]) -> bytes:
    """Return a PDF with one page.

    Args:
        page: Its content stream.
        size: Its width and height in mm.
    """
    width, height = (_POINTS_PER_MM * edge for edge in size)
    # Readers scale a page to the paper by default; this preference asks their print dialog not to.
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R /ViewerPreferences << /PrintScaling /None >> >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width:.3f} {height:.3f}] /Contents 4 0 R "
        "/Resources << /Font << /F1 5 0 R >> >> >>".encode("ascii"),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(page), page),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    out, places = bytearray(b"%PDF-1.6\n"), []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, table)
    return bytes(out)
