"""Draws what a viewer of a rollout wants to know over its pictures."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]

_WHITE: Final = (255, 255, 255)
_GREY: Final = (205, 205, 205)
_GREEN: Final = (80, 225, 110)
_STRIP_BRIGHTNESS: Final = 0.35
"""What is left of the picture under the strip, as a fraction: dark enough for white text over a white table."""
_INSET_HEIGHT: Final = 0.32
"""Height of the wrist view as a fraction of the scene's."""
_SMALLEST_FONT: Final = 11


def compose_frame(scene: Picture, wrist: Picture | None, lines: Sequence[str], success: bool = False) -> Picture:
    """Combines the views and the text of one step into one picture.

    The wrist view stands in the upper left corner, where it does not hide the gripper. The text stands on a dark
    strip along the bottom: the first line large, the others smaller, and SUCCESS in green to the right of the last.

    Args:
        scene: View of the scene, shape (H, W, 3), uint8. It is not changed.
        wrist: View of the wrist camera, shape (h, w, 3), uint8; None leaves it out.
        lines: Text, such as the instruction and the time. What is too wide is shrunk, then cut.
        success: Whether to say SUCCESS.

    Returns:
        The picture, shape (H, W, 3), uint8.
    """
    frame = scene.copy()
    height, width = frame.shape[:2]
    unit = height / 480
    margin = max(2, round(10 * unit))
    if wrist is not None:
        _inset(frame, wrist, margin)

    sizes = [max(_SMALLEST_FONT, round((21 if row == 0 else 16) * unit)) for row in range(len(lines))]
    gap = round(4 * unit)
    strip = sum(_line_height(size) + gap for size in sizes) + gap
    if not lines or strip > height:
        return frame
    frame[height - strip :] = _darkening()[frame[height - strip :]]

    top = height - strip + gap
    for row, (line, size) in enumerate(zip(lines, sizes, strict=True)):
        room = width - 2 * margin
        if success and row == len(lines) - 1:
            mark = _text_mask("SUCCESS", round(size * 1.3))
            _draw(frame, mark, top + (_line_height(size) - mark.shape[0]) // 2, width - margin - mark.shape[1], _GREEN)
            room -= mark.shape[1] + margin
        text = _fitted(line, size, room)
        _draw(frame, text, top + (_line_height(size) - text.shape[0]) // 2, margin, _WHITE if row == 0 else _GREY)
        top += _line_height(size) + gap
    return frame


def _inset(frame: Picture, view: Picture, margin: int) -> None:
    """Puts a view with a thin border into the upper left corner."""
    height = round(frame.shape[0] * _INSET_HEIGHT)
    width = round(height * view.shape[1] / view.shape[0])
    if width + 2 * margin > frame.shape[1]:
        return
    small = np.asarray(Image.fromarray(view).resize((width, height), Image.Resampling.BILINEAR))
    border = max(1, round(frame.shape[0] / 320))
    top = left = margin
    frame[top - border : top + height + border, left - border : left + width + border] = 240
    frame[top : top + height, left : left + width] = small


def _draw(frame: Picture, mask: Picture, top: int, left: int, colour: tuple[int, int, int]) -> None:
    """Blends a colour into the frame through a coverage mask, shape (h, w), 0..255."""
    area = frame[top : top + mask.shape[0], left : left + mask.shape[1]]
    cover = mask[: area.shape[0], : area.shape[1], None].astype(np.uint16)
    area[:] = (area * (255 - cover) + np.asarray(colour, np.uint16) * cover) // 255


@functools.lru_cache(maxsize=256)
def _fitted(text: str, size: int, width: int) -> Picture:
    """Returns the mask of a text that is at most ``width`` pixels wide."""
    while _font(size).getlength(text) > width and size > _SMALLEST_FONT:
        size -= 1
    if (length := _font(size).getlength(text)) > width:
        text = text[: max(1, int(len(text) * width / length))]
        while len(text) > 1 and _font(size).getlength(text + "…") > width:
            text = text[:-1]
        text = text.rstrip() + "…"
    return _text_mask(text, size)


@functools.lru_cache(maxsize=64)
def _text_mask(text: str, size: int) -> Picture:
    """Renders one line of text to a coverage mask, shape (h, w), 0..255."""
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


@functools.cache
def _darkening() -> Picture:
    """A table from a colour value to the one seen through the strip, shape (256,)."""
    return np.round(np.arange(256) * _STRIP_BRIGHTNESS).astype(np.uint8)
