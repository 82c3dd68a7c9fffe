"""Draws the glyphs of a colour font to cut-out pictures, dropping what cannot be drawn whole."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

FONT_SIZE = 144
CANVAS = 288
# A noncharacter: what a font shows for it is what it shows for every glyph it lacks.
_MISSING = 0x10FFFF


def draw_glyphs(font: bytes, code_points: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """(code point, PNG with alpha cropped to the ink) of each glyph.

    Blank renders, glyphs the font lacks, and renders that touch the canvas border (clipped) are left out.
    """
    from PIL import Image, ImageDraw, ImageFont

    face = ImageFont.truetype(io.BytesIO(font), FONT_SIZE)

    def render(point: int) -> Image.Image:
        canvas = Image.new("RGBA", (CANVAS, CANVAS), (0, 0, 0, 0))
        middle = (CANVAS // 2, CANVAS // 2)
        ImageDraw.Draw(canvas).text(middle, chr(point), font=face, anchor="mm", embedded_color=True)
        return canvas

    missing = render(_MISSING).tobytes()
    for point in code_points:
        picture = render(point)
        ink = picture.getchannel("A").getbbox()
        if ink is None or min(ink[:2]) == 0 or max(ink[2:]) == CANVAS or picture.tobytes() == missing:
            continue
        encoded = io.BytesIO()
        picture.crop(ink).save(encoded, format="PNG")
        yield point, encoded.getvalue()
