"""Square images for a vision tower: exact transforms of a PIL image, each with the map between the two
frames.

Every transform takes the picture, the side S of the square and the fill colour, and returns the S x S picture
with a `Frame`. Boxes are (left, top, right, bottom) in pixels with continuous edges: a whole W x H image is
(0, 0, W, H).

Resampling is Pillow's bicubic with antialiasing (a = -0.5, support scaled with the reduction), which is what
the reference pipelines of Prismatic, LLaVA and timm use on PIL images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from vlmablate.errors import unknown_name

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]
BICUBIC = Image.Resampling.BICUBIC


@dataclass(frozen=True)
class Frame:
    """The map from original pixels to model pixels: `model = original * scale + offset`, per axis.

    Attributes:
        width, height: of the original image in pixels; size: side of the model's square.
        scale_x, scale_y, offset_x, offset_y: the affine map. Offsets are negative where a crop cut something
        off.
    """

    width: int
    height: int
    size: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def to_model(self, box: Box, *, clip: bool = True) -> Box:
        """A box of the original image in the model's square.

        With `clip` it is cut to the square: what a crop removed is gone, and a box that lies wholly outside
        becomes an empty one on the border. Without, the map is invertible exactly.
        """
        x0, y0, x1, y1 = box
        mapped = (
            x0 * self.scale_x + self.offset_x,
            y0 * self.scale_y + self.offset_y,
            x1 * self.scale_x + self.offset_x,
            y1 * self.scale_y + self.offset_y,
        )
        return _clip(mapped, self.size, self.size) if clip else mapped

    def to_original(self, box: Box, *, clip: bool = True) -> Box:
        """A box of the model's square in pixels of the original image; with `clip`, cut to that image.

        A predicted box that reaches into the padding of a letterbox is thereby cut at the picture's edge.
        """
        x0, y0, x1, y1 = box
        mapped = (
            (x0 - self.offset_x) / self.scale_x,
            (y0 - self.offset_y) / self.scale_y,
            (x1 - self.offset_x) / self.scale_x,
            (y1 - self.offset_y) / self.scale_y,
        )
        return _clip(mapped, self.width, self.height) if clip else mapped

    def visible(self, box: Box, least: float) -> Box | None:
        """A box of the original image in shares of the model's square, as far as it is seen there.

        None where the transform left less than the share `least` of its area.
        """
        inside, whole = self.to_model(box), self.to_model(box, clip=False)
        if _area(inside) < least * _area(whole):
            return None
        x0, y0, x1, y1 = (value / self.size for value in inside)
        return x0, y0, x1, y1

    def as_row(self) -> tuple[float, ...]:
        """Seven numbers that `from_row` reads back exactly."""
        return (
            self.width, self.height, self.size, self.scale_x, self.scale_y, self.offset_x, self.offset_y,
        )  # fmt: skip

    @staticmethod
    def from_row(row: tuple[float, ...]) -> Frame:
        width, height, size, *affine = (float(value) for value in row)
        return Frame(int(width), int(height), int(size), *affine)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _clip(box: Box, width: float, height: float) -> Box:
    x0, y0, x1, y1 = box
    return (
        min(max(x0, 0.0), width),
        min(max(y0, 0.0), height),
        min(max(x1, 0.0), width),
        min(max(y1, 0.0), height),
    )


Transform = Callable[[Image.Image, int, Colour], tuple[Image.Image, Frame]]


def fill_colour(mean: tuple[float, float, float]) -> Colour:
    """The mean colour of a tower as 8-bit values, rounded down like the references: `int(mean * 255)`."""
    red, green, blue = (int(value * 255) for value in mean)
    return red, green, blue


def letterbox(image: Image.Image, size: int, fill: Colour) -> tuple[Image.Image, Frame]:
    """Pad to an exact square of the longer side, then resize: nothing is lost and nothing is distorted.

    The picture is centred; an odd difference puts the extra pixel of fill on the right or at the bottom
    (LLaVA's rule, `(longer - shorter) // 2` before).
    """
    width, height = image.size
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    if width != height:
        canvas = Image.new("RGB", (side, side), fill)
        canvas.paste(image.convert("RGB"), (left, top))
        image = canvas
    scale = size / side
    frame = Frame(width, height, size, scale, scale, left * scale, top * scale)
    return image.convert("RGB").resize((size, size), BICUBIC), frame


def letterbox_prismatic(image: Image.Image, size: int, fill: Colour) -> tuple[Image.Image, Frame]:
    """Prismatic's letterbox, kept for parity: `int(difference / 2)` of fill on both sides.

    For an odd difference the padded picture is one pixel short of a square; the resize of the shorter side
    and centre crop that follow absorb it.
    """
    width, height = image.size
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    canvas = Image.new("RGB", (width + 2 * left, height + 2 * top), fill)
    canvas.paste(image.convert("RGB"), (left, top))
    picture, frame = resize_crop(canvas, size, fill)
    return picture, Frame(
        width,
        height,
        size,
        frame.scale_x,
        frame.scale_y,
        left * frame.scale_x + frame.offset_x,
        top * frame.scale_y + frame.offset_y,
    )


def resize_naive(image: Image.Image, size: int, fill: Colour) -> tuple[Image.Image, Frame]:
    """Resize both sides to S: nothing is lost, the aspect ratio is. `fill` is unused."""
    width, height = image.size
    frame = Frame(width, height, size, size / width, size / height, 0.0, 0.0)
    return image.convert("RGB").resize((size, size), BICUBIC), frame


def resize_crop(image: Image.Image, size: int, fill: Colour) -> tuple[Image.Image, Frame]:
    """Resize the shorter side to S, then cut the centre: no distortion, the ends of the longer side are lost.

    The longer side becomes `int(S * longer / shorter)` pixels and the crop starts at `round(excess / 2)`,
    rounding
    half to even: torchvision's Resize and CenterCrop. `fill` is unused.
    """
    width, height = image.size
    if width <= height:
        new_width, new_height = size, int(size * height / width)
    else:
        new_width, new_height = int(size * width / height), size
    left, top = round((new_width - size) / 2.0), round((new_height - size) / 2.0)
    resized = image.convert("RGB").resize((new_width, new_height), BICUBIC)
    frame = Frame(width, height, size, new_width / width, new_height / height, float(-left), float(-top))
    return resized.crop((left, top, left + size, top + size)), frame


TRANSFORMS: dict[str, Transform] = {
    "letterbox": letterbox,
    "resize_naive": resize_naive,
    "resize_crop": resize_crop,
    "letterbox_prismatic": letterbox_prismatic,
}


def transform_named(name: str) -> Transform:
    """The transform of that exact name. Raises UserError that lists the transforms there are."""
    if name not in TRANSFORMS:
        raise unknown_name("image transform", name, TRANSFORMS, "image.resize")
    return TRANSFORMS[name]
