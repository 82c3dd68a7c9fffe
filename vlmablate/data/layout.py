"""Where things stand in a scene, before any pixel is drawn.

A layout is a pure function of (lexicon, cut-out shapes, seed, split, index). It is shared by the picture composer and
by the text that the small language model is pretrained on, so both see the same world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vlmablate.data.lexicon import Lexicon

# Width x height in pixels; aspect ratios from 1:3 to 3:1, landscape a little more often, as in photo collections.
CANVASES = ((320, 240), (240, 320), (384, 192), (256, 256), (384, 128), (192, 384), (360, 240), (128, 384))
CANVAS_WEIGHTS = (0.18, 0.12, 0.16, 0.12, 0.14, 0.10, 0.10, 0.08)
MAX_THINGS = 4
POOL_CHANCE = 0.25
REPEAT_CHANCE = 0.35
SIGN_CHANCE = 0.9
# Root of the cut-out's area over the root of the canvas area, for scenes of at most two and of more things.
SCALE_RANGE = {False: (0.30, 0.50), True: (0.25, 0.38)}
PLACEMENT_TRIES = 60
SPLIT_STREAM = {"train": 1, "evaluation": 2, "text": 3, "validation": 4}
UNSEEN = ("evaluation", "validation")
"""Splits whose scenes are made of the photographs and pool cut-outs that no training picture shows."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Thing:
    """One object of a scene. `word` is None for a pool cut-out (asked for by category only); `text` marks a sign.

    box: (x0, y0, x1, y1) in pixels of the scene, x1 and y1 exclusive.
    """

    cutout: str
    word: str | None
    category: str | None
    text: str | None
    box: Box
    flipped: bool

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def written(self) -> str:
        """The word by which it is written: its noun, the text of a sign, or the category of a pool cut-out."""
        word = self.text or self.word or self.category
        assert word is not None
        return word


@dataclass(frozen=True)
class Scene:
    """A picture's content: its id (also the cluster id of its questions), size, background crop and things."""

    id: str
    split: str
    width: int
    height: int
    background: str
    background_window: tuple[float, float, float]
    things: tuple[Thing, ...]

    @property
    def objects(self) -> tuple[Thing, ...]:
        """The things that are counted, named and located: all but the sign."""
        return tuple(thing for thing in self.things if thing.text is None)

    @property
    def sign(self) -> Thing | None:
        return next((thing for thing in self.things if thing.text is not None), None)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Scene:
        things = tuple(Thing(**{**thing, "box": tuple(thing["box"])}) for thing in record["things"])
        window = tuple(record["background_window"])
        return Scene(**{**record, "things": things, "background_window": window})


def sample_scene(
    lexicon: Lexicon, shapes: Mapping[str, tuple[int, int]], seed: int, split: str, index: int
) -> Scene:
    """Scene number `index` of a split. `shapes` gives the (width, height) of every cut-out in pixels.

    `split` is train, evaluation, validation or text; text layouts use the training pools. A thing that finds no free
    place is left out, so that nothing overlaps.
    """
    rng = np.random.default_rng([seed, SPLIT_STREAM[split], index])
    pictures = "evaluation" if split in UNSEEN else "train"
    width, height = CANVASES[rng.choice(len(CANVASES), p=CANVAS_WEIGHTS)]
    count = int(rng.integers(1, MAX_THINGS + 1))
    wanted = _choose_cutouts(rng, lexicon, pictures, count)
    low, high = SCALE_RANGE[count > 2]
    root = (width * height) ** 0.5
    placed: list[Thing] = []
    if rng.random() < SIGN_CHANCE:
        text = lexicon.sign_words[rng.integers(len(lexicon.sign_words))]
        size = _fit((2 * len(text) + 2, 5), root * rng.uniform(0.30, 0.42), width, height)
        box = _place(rng, size, width, height, placed)
        if box is not None:
            placed.append(Thing("sign", None, None, text, box, False))
    for cutout, word, category in wanted:
        size = _fit(shapes[cutout], root * rng.uniform(low, high), width, height)
        box = _place(rng, size, width, height, placed)
        if box is not None:
            placed.append(Thing(cutout, word, category, None, box, bool(rng.random() < 0.5)))
    background = lexicon.backgrounds[pictures][rng.integers(len(lexicon.backgrounds[pictures]))]
    window = tuple(round(float(v), 4) for v in (rng.random(), rng.random(), rng.uniform(0.4, 1.0)))
    return Scene(f"{split}-{index:06d}", split, width, height, background, window, tuple(placed))  # type: ignore[arg-type]


def _choose_cutouts(
    rng: np.random.Generator, lexicon: Lexicon, pictures: str, count: int
) -> list[tuple[str, str | None, str | None]]:
    """(cut-out, word, category) of every thing: different nouns, sometimes one of them repeated, some pool cut-outs."""
    nouns = [lexicon.nouns[i] for i in rng.permutation(len(lexicon.nouns))[:count]]
    chosen: list[tuple[str, str | None, str | None]] = [(n.cutout, n.word, n.category) for n in nouns]
    repeats = int(rng.integers(2, count + 1)) if count >= 2 and rng.random() < REPEAT_CHANCE else 1
    chosen = [chosen[0]] * repeats + chosen[1 : count - repeats + 1]
    categories = sorted(lexicon.pools[pictures])
    for position in range(repeats if repeats > 1 else 0, count):
        if rng.random() < POOL_CHANCE:
            category = categories[rng.integers(len(categories))]
            pool = lexicon.pools[pictures][category]
            chosen[position] = (pool[rng.integers(len(pool))], None, category)
    return chosen


def _fit(shape: tuple[int, int], root_area: float, width: int, height: int) -> tuple[int, int]:
    """Size in pixels of a cut-out scaled to `root_area`, shrunk where it would fill too much of the canvas."""
    aspect = shape[0] / shape[1]
    w, h = root_area * aspect**0.5, root_area / aspect**0.5
    shrink = min(1.0, 0.7 * width / w, 0.8 * height / h)
    return max(8, round(w * shrink)), max(8, round(h * shrink))


def _place(
    rng: np.random.Generator, size: tuple[int, int], width: int, height: int, placed: list[Thing]
) -> Box | None:
    """A free position that touches no box already placed (2 pixels apart), or None."""
    for _ in range(PLACEMENT_TRIES):
        x = int(rng.integers(0, width - size[0] + 1))
        y = int(rng.integers(0, height - size[1] + 1))
        box = (x, y, x + size[0], y + size[1])
        if all(_apart(box, thing.box) for thing in placed):
            return box
    return None


def _apart(a: Box, b: Box, gap: int = 2) -> bool:
    return a[2] + gap <= b[0] or b[2] + gap <= a[0] or a[3] + gap <= b[1] or b[3] + gap <= a[1]
