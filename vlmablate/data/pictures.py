"""Draws a scene: photographic cut-outs and a sign on a crop of a photograph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlmablate.data.layout import Scene, Thing
from vlmablate.data.lexicon import DRAWN, Lexicon

# Cut-outs are reduced to this long side once, so that drawing a scene does not resample large photographs.
STORED_SIDE = 200
# Share of the background that is replaced by mid grey: things stand out a little, as focus does in photographs.
FADE = 0.35
COLOURS = {
    "red": (214, 40, 40), "green": (42, 157, 60), "blue": (45, 95, 220), "gold": (233, 176, 40),
    "pink": (240, 120, 180), "cyan": (40, 200, 210), "gray": (120, 120, 120), "lime": (160, 230, 60),
}  # fmt: skip


@dataclass
class Art:
    """The pictures that scenes are made of: RGBA cut-outs by id and RGB backgrounds by id."""

    cutouts: dict[str, Image.Image]
    backgrounds: dict[str, Image.Image]
    _fonts: dict[int, ImageFont.FreeTypeFont] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(width, height) of every cut-out in pixels; only the ratio matters."""
        return {name: image.size for name, image in self.cutouts.items()}

    def font(self, size: int) -> ImageFont.FreeTypeFont:
        if size not in self._fonts:
            import matplotlib

            path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
            self._fonts[size] = ImageFont.truetype(str(path), size)
        return self._fonts[size]


def load_art(lexicon: Lexicon, pictures: Path | None = None, photographs: Path | None = None) -> Art:
    """Reads the cut-outs and backgrounds that a lexicon names.

    pictures, photographs: folders of the asset sets (unused for drawn shapes).
    """
    names = {noun.cutout for noun in lexicon.nouns}
    names |= {name for pool in lexicon.pools.values() for ids in pool.values() for name in ids}
    scenery = sorted({name for ids in lexicon.backgrounds.values() for name in ids})
    if lexicon.source == DRAWN:
        return Art({n: _draw_shape(n) for n in sorted(names)}, {n: _draw_plain(n) for n in scenery})
    assert pictures is not None
    assert photographs is not None
    cutouts = {name: _read_cutout(pictures / f"{name}.png") for name in sorted(names)}
    return Art(cutouts, {name: _read_photo(photographs, name) for name in scenery})


def _read_cutout(path: Path) -> Image.Image:
    image = Image.open(path).convert("RGBA")
    bounds = image.getchannel("A").point(lambda a: 255 if a > 24 else 0).getbbox()
    image = image.crop(bounds) if bounds else image
    factor = STORED_SIDE / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


def _read_photo(folder: Path, name: str) -> Image.Image:
    path = next(path for path in sorted(folder.glob(f"{name}.*")) if path.suffix in (".png", ".jpg"))
    image = Image.open(path).convert("RGB")
    image.thumbnail((640, 640))
    return image


def _draw_shape(name: str) -> Image.Image:
    colour, form = name.split("-")
    image = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    if form == "disc":
        draw.ellipse((2, 2, 93, 93), fill=COLOURS[colour])
    elif form == "box":
        draw.rectangle((4, 4, 91, 91), fill=COLOURS[colour])
    else:
        draw.polygon(((48, 2), (93, 93), (2, 93)), fill=COLOURS[colour])
    return image


def _draw_plain(name: str) -> Image.Image:
    rng = np.random.default_rng(int(name.split("-")[1]))
    coarse = rng.integers(150, 230, size=(6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC)


def compose(scene: Scene, art: Art) -> Image.Image:
    """The RGB picture of a scene, `scene.width` x `scene.height` pixels; a pure function of scene and art."""
    canvas = _background(scene, art)
    for thing in scene.things:
        if thing.text is not None:
            _paint_sign(canvas, thing, art)
            continue
        size = (thing.box[2] - thing.box[0], thing.box[3] - thing.box[1])
        cutout = art.cutouts[thing.cutout]
        if thing.flipped:
            cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        cutout = cutout.convert("RGBa").resize(size, Image.Resampling.BILINEAR).convert("RGBA")
        canvas.paste(cutout, thing.box[:2], cutout)
    return canvas


def _background(scene: Scene, art: Art) -> Image.Image:
    """A window of the photograph with the canvas's own aspect ratio, so that nothing but the scene is distorted."""
    photo = art.backgrounds[scene.background]
    left, top, zoom = scene.background_window
    scale = min(photo.width / scene.width, photo.height / scene.height) * zoom
    w, h = scene.width * scale, scene.height * scale
    x, y = left * (photo.width - w), top * (photo.height - h)
    crop = photo.resize((scene.width, scene.height), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))
    return Image.blend(crop, Image.new("RGB", crop.size, (128, 128, 128)), FADE)


def _paint_sign(canvas: Image.Image, thing: Thing, art: Art) -> None:
    x0, y0, x1, y1 = thing.box
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=(250, 248, 240), outline=(20, 20, 20), width=1)
    assert thing.text is not None
    text = thing.text.upper()
    size = max(6, round((y1 - y0) * 0.8))
    while size > 6 and art.font(size).getlength(text) > (x1 - x0) * 0.9:
        size -= 1
    draw.text(((x0 + x1) / 2, (y0 + y1) / 2), text, font=art.font(size), fill=(10, 10, 10), anchor="mm")


def contact_sheet(tiles: Iterable[tuple[Image.Image, list[str]]], columns: int = 4) -> Image.Image:
    """A grid of pictures, each with lines of text under it."""
    cell_w, cell_h, line = 300, 200, 13
    tiles = list(tiles)
    text_h = line * max((len(lines) for _, lines in tiles), default=0) + 8
    rows = (len(tiles) + columns - 1) // columns
    sheet = Image.new("RGB", (columns * cell_w, rows * (cell_h + text_h)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for position, (image, lines) in enumerate(tiles):
        x, y = (position % columns) * cell_w, (position // columns) * (cell_h + text_h)
        small = image.copy()
        small.thumbnail((cell_w - 12, cell_h - 12), Image.Resampling.LANCZOS)
        sheet.paste(small, (x + (cell_w - small.width) // 2, y + (cell_h - small.height) // 2))
        for row, text in enumerate(lines):
            draw.text((x + 8, y + cell_h + row * line), text, fill=(30, 30, 30), font=font)
    return sheet
