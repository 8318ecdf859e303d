"""Composition of a video frame: the scene, the wrist view beside it and a caption below."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

ImageArray = NDArray[np.uint8]

_BACKGROUND: Final = 24
_WHITE: Final = (255, 255, 255)
_GREY: Final = (205, 205, 205)
_GREEN: Final = (80, 225, 110)
_RED: Final = (255, 110, 90)
_SMALLEST_FONT: Final = 11


@dataclass(frozen=True)
class Caption:
    """Text below a frame.

    Attributes:
        lines: Lines such as the instruction and the time: the first large, the others smaller.
        success: Whether to write SUCCESS, in green to the right of the last line.
        failure: Failure mode to write there in red; None: none.
    """

    lines: tuple[str, ...] = ()
    success: bool = False
    failure: str | None = None


def compose_frame(scene: ImageArray, wrist: ImageArray | None, caption: Caption) -> ImageArray:
    """Combine the views and the text of one step into one image. Nothing covers the scene.

    Args:
        scene: View of the scene, shape (H, W, 3), uint8. It is not changed.
        wrist: View of the wrist camera, shape (h, w, 3), uint8, which is scaled to the height H; None leaves it out.
        caption: Text below. What is too wide is shrunk, then cut.

    Returns:
        The image, shape (H + height of the caption, W + width of the wrist view, 3), uint8.
    """
    views = [scene]
    if wrist is not None:
        width = max(1, round(scene.shape[0] * wrist.shape[1] / wrist.shape[0]))
        scaled = Image.fromarray(wrist).resize((width, scene.shape[0]), Image.Resampling.BILINEAR)
        views.append(np.asarray(scaled))
    frame = np.concatenate(views, axis=1)
    if not caption.lines:
        return frame
    return np.concatenate([frame, _strip(frame.shape[1], scene.shape[0] / 480, caption)])


def _strip(width: int, unit: float, caption: Caption) -> ImageArray:
    """Return the caption, shape (h, width, 3), for a scene of ``unit`` times 480 px height."""
    margin, gap = max(2, round(10 * unit)), max(1, round(4 * unit))
    sizes = [max(_SMALLEST_FONT, round((21 if row == 0 else 16) * unit)) for row in range(len(caption.lines))]
    strip = Image.new("RGB", (width, sum(_line_height(size) + gap for size in sizes) + gap), 3 * (_BACKGROUND,))
    draw = ImageDraw.Draw(strip)
    top = gap
    for row, (line, size) in enumerate(zip(caption.lines, sizes, strict=True)):
        room, middle = max(1, width - 2 * margin), top + _line_height(size) / 2
        outcome = "SUCCESS" if caption.success else f"FAILED: {caption.failure}" if caption.failure else ""
        if outcome and row == len(sizes) - 1:
            mark, font = _fitted(outcome, round(size * 1.2), max(1, room * 6 // 10))
            draw.text((width - margin, middle), mark, _GREEN if caption.success else _RED, font, anchor="rm")
            room = max(1, room - round(font.getlength(mark)) - margin)
        text, font = _fitted(line, size, room)
        draw.text((margin, middle), text, _WHITE if row == 0 else _GREY, font, anchor="lm")
        top += _line_height(size) + gap
    return np.asarray(strip)


@functools.lru_cache(maxsize=256)
def _fitted(text: str, size: int, width: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """Return a text that is at most ``width`` pixels wide, or of one letter, and its font."""
    while _font(size).getlength(text) > width and size > _SMALLEST_FONT:
        size -= 1
    if (length := _font(size).getlength(text)) > width:
        text = text[: max(1, int(len(text) * width / length))]
        while len(text) > 1 and _font(size).getlength(text + "…") > width:
            text = text[:-1]
        text = text.rstrip() + "…"
    return text, _font(size)


@functools.cache
def _line_height(size: int) -> int:
    ascent, descent = _font(size).getmetrics()
    return int(ascent + descent)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("Pillow was built without FreeType.")
    return font
