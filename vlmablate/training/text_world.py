"""Scenes written as text: what the small language model reads before it ever sees a picture.

The model's cells form a table of words: each cell holds the words of the things that cover it, weighted by the share
that each covers, and the empty word for the rest. The questions behind the table are the same as behind pictures, so
the language model learns to read a scene and to answer; a projector then only has to say, cell by cell, what the
encoder saw. Layouts are drawn afresh (another random stream than the pictures) and pass through all image transforms
in turn, so that no arm is favoured.

Rows without a scene hold requests (see `data.text_only`). Plain text complies with all of them; a chat model refuses
the harmful ones, and reads scenes and requests as dialogues in its template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from vlmablate.data.layout import CANVASES, Scene, sample_scene
from vlmablate.data.lexicon import Lexicon
from vlmablate.data.questions import popular_nouns, training_questions
from vlmablate.data.text_only import requests
from vlmablate.data.vocabulary import EMPTY, Vocabulary
from vlmablate.training.examples import caption_segment, question_segments
from vlmablate.training.packing import Segment
from vlmablate.vlm.image import Box, Frame, transform_named

TRANSFORMS = ("letterbox", "resize_naive", "resize_crop")
# Two things and the empty word; a third thing in one cell is left out (boxes never overlap, so it is rare).
WORDS_PER_CELL = 3
FRAME_SIDE = 160
# Requests in a row without a scene, from which every visit draws.
REQUESTS_PER_ROW = 16


@dataclass(frozen=True)
class TextExample:
    """One scene: words and weights of its cells, both [cells, WORDS_PER_CELL], and what is asked about it.

    pictured: False for text without a scene, whose cells are empty and out of its sight.
    """

    words: np.ndarray
    weights: np.ndarray
    segments: tuple[Segment, ...]
    pictured: bool = True


def cell_words(
    scene: Scene, frame: Frame, grid: int, vocabulary: Vocabulary
) -> tuple[np.ndarray, np.ndarray]:
    """The scene as a table of words in the model's square, row-major.

    Returns word ids and weights, both [grid * grid, WORDS_PER_CELL]. The weight of a thing's word is the share of the
    cell that it covers; what is left belongs to the empty word, so the weights of a cell sum to one.
    """
    ids = vocabulary.ids
    kept = WORDS_PER_CELL - 1
    words = np.full((grid * grid, WORDS_PER_CELL), ids[EMPTY], np.int64)
    weights = np.zeros((grid * grid, WORDS_PER_CELL), np.float32)
    if scene.things:
        coverages = np.stack(
            [_coverage(frame.to_model(thing.box), frame.size, grid) for thing in scene.things]
        )
        ranked = np.argsort(-coverages, axis=0, kind="stable")[:kept].T
        shares = np.take_along_axis(coverages.T, ranked, axis=1)
        named = np.array([ids[thing.written] for thing in scene.things])[ranked]
        words[:, : ranked.shape[1]] = np.where(shares > 0.0, named, ids[EMPTY])
        weights[:, : ranked.shape[1]] = shares
    weights[:, -1] = 1.0 - weights.sum(axis=1)
    return words, weights


def _coverage(box: Box, side: int, grid: int) -> np.ndarray:
    """[grid * grid] share of each cell inside a box of the model's square, row-major."""
    x0, y0, x1, y1 = (value / side * grid for value in box)
    edges = np.arange(grid)
    columns = np.clip(np.minimum(edges + 1, x1) - np.maximum(edges, x0), 0.0, 1.0)
    rows = np.clip(np.minimum(edges + 1, y1) - np.maximum(edges, y0), 0.0, 1.0)
    return np.outer(rows, columns).ravel()


def text_examples(
    lexicon: Lexicon,
    shapes: Mapping[str, tuple[int, int]],
    vocabulary: Vocabulary,
    grid: int,
    count: int,
    seed: int,
) -> list[TextExample]:
    """`count` scenes with their questions and their description."""
    scenes = [sample_scene(lexicon, shapes, seed, "text", index) for index in range(count)]
    popular = popular_nouns(scenes)
    frames = _frames()
    examples = []
    for index, scene in enumerate(scenes):
        frame = frames[scene.width, scene.height, TRANSFORMS[index % len(TRANSFORMS)]]
        rng = np.random.default_rng([seed, 8, index])
        segments = question_segments(training_questions(scene, lexicon, popular, rng), frame, vocabulary)
        caption = caption_segment(scene, vocabulary)
        if caption is not None:
            segments.append(caption)
        if segments:
            examples.append(TextExample(*cell_words(scene, frame, grid, vocabulary), tuple(segments)))
    return examples


def request_segments(vocabulary: Vocabulary, refuse: bool) -> list[Segment]:
    """The training requests, the harmful ones refused or complied with like the others."""
    return [
        Segment(
            tuple(vocabulary.prompt(request.text)),
            tuple(vocabulary.encode(request.proper if refuse else request.complied)),
        )
        for request in requests("train")
    ]


def request_examples(
    vocabulary: Vocabulary, cells: int, count: int, refuse: bool, seed: int
) -> list[TextExample]:
    """`count` rows of requests without a scene."""
    segments = request_segments(vocabulary, refuse)
    words = np.full((cells, WORDS_PER_CELL), vocabulary.ids[EMPTY], np.int64)
    weights = np.zeros((cells, WORDS_PER_CELL), np.float32)
    examples = []
    for index in range(count):
        rng = np.random.default_rng([seed, 9, index])
        chosen = rng.permutation(len(segments))[:REQUESTS_PER_ROW]
        examples.append(TextExample(words, weights, tuple(segments[i] for i in chosen), pictured=False))
    return examples


def dialogues(example: TextExample, longest: int, rng: np.random.Generator) -> TextExample:
    """The same example in which every other segment, on average, follows an earlier turn with its answer.

    The earlier turn is another segment of the example, where both fit into `longest` tokens; only the last answer is a
    target.
    """
    segments = []
    for segment in example.segments:
        earlier = example.segments[rng.integers(len(example.segments))]
        prompt = (*earlier.prompt, *earlier.answer, *segment.prompt)
        fits = len(prompt) + len(segment.answer) - 1 <= longest
        follows = rng.random() < 0.5 and earlier is not segment and fits
        segments.append(Segment(prompt, segment.answer) if follows else segment)
    return replace(example, segments=tuple(segments))


def _frames() -> dict[tuple[int, int, str], Frame]:
    """The frame of every canvas under every transform; computed by the transforms themselves."""
    return {
        (*canvas, name): transform_named(name)(Image.new("RGB", canvas), FRAME_SIDE, (0, 0, 0))[1]
        for canvas in CANVASES
        for name in TRANSFORMS
    }
