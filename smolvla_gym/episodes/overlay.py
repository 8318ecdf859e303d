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
    height = sum(_line_height(size) + gap for size in sizes) + gap
    strip = np.full((height, width, 3), _BACKGROUND, np.uint8)
    top = gap
    for row, (line, size) in enumerate(zip(caption.lines, sizes, strict=True)):
        room = max(1, width - 2 * margin)
        outcome = "SUCCESS" if caption.success else f"FAILED: {caption.failure}" if caption.failure else ""
        if outcome and row == len(sizes) - 1:
            mark = _fitted(outcome, round(size * 1.2), max(1, room * 6 // 10))
            color = _GREEN if caption.success else _RED
            _draw(strip, mark, top + (_line_height(size) - mark.shape[0]) // 2, width - margin - mark.shape[1], color)
            room = max(1, room - mark.shape[1] - margin)
        text = _fitted(line, size, room)
        _draw(strip, text, top + (_line_height(size) - text.shape[0]) // 2, margin, _WHITE if row == 0 else _GREY)
        top += _line_height(size) + gap
    return strip


def _draw(image: ImageArray, mask: ImageArray, top: int, left: int, color: tuple[int, int, int]) -> None:
    """Blend a color into an image through a coverage mask, shape (h, w), 0..255; what lies outside is cut off."""
    top, left = max(0, top), max(0, left)
    area = image[top : top + mask.shape[0], left : left + mask.shape[1]]
    cover = mask[: area.shape[0], : area.shape[1], None].astype(np.uint16)
    area[:] = (area * (255 - cover) + np.asarray(color, np.uint16) * cover) // 255


@functools.lru_cache(maxsize=256)
def _fitted(text: str, size: int, width: int) -> ImageArray:
    """Return the coverage mask of a text that is at most ``width`` pixels wide, or of one letter."""
    while _font(size).getlength(text) > width and size > _SMALLEST_FONT:
        size -= 1
    if (length := _font(size).getlength(text)) > width:
        text = text[: max(1, int(len(text) * width / length))]
        while len(text) > 1 and _font(size).getlength(text + "…") > width:
            text = text[:-1]
        text = text.rstrip() + "…"
    return _text_mask(text, size)


@functools.lru_cache(maxsize=64)
def _text_mask(text: str, size: int) -> ImageArray:
    """Render one line of text to a coverage mask, shape (h, w), 0..255."""
    font = _font(size)
    width = int(np.ceil(font.getlength(text))) + 2
    image = Image.new("L", (max(width, 1), _line_height(size)))
    ImageDraw.Draw(image).text((1, 0), text, fill=255, font=font)
    return np.asarray(image)


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
