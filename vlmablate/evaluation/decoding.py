"""Greedy decoding of many questions behind one picture at once.

Questions of equal answer length are packed behind their picture as in training, with free places for the answer.
Because no question sees another, all of them advance together: answers equal those of one-by-one decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vlmablate.training.packing import IGNORED, Segment, attention_mask, pack
from vlmablate.vlm.model import VisionLanguageModel

NO_PICTURE = -1


def decode(
    model: VisionLanguageModel,
    features: Callable[[np.ndarray], Tensor],
    prompts: Sequence[tuple[int, Sequence[tuple[int, ...]]]],
    answer_tokens: int,
    batch_pictures: int = 32,
    after_batch: Callable[[int], None] = lambda pictures: None,
) -> list[list[tuple[int, ...]]]:
    """Answers for `prompts`, a list of (picture row, token ids of its questions), in the same nesting and order.

    features(rows) returns [len(rows), cells, C]; every answer has exactly `answer_tokens` token ids. Questions without
    a picture have the row NO_PICTURE: the first picture stands in its place, out of their sight.
    """
    answers: list[list[tuple[int, ...]]] = []
    for start in range(0, len(prompts), batch_pictures):
        group = prompts[start : start + batch_pictures]
        rows = np.array([row for row, _ in group])
        pixels = features(np.where(rows == NO_PICTURE, 0, rows))
        pictured = torch.from_numpy(rows != NO_PICTURE)
        answers += _decode_batch(model, pixels, [asked for _, asked in group], answer_tokens, pictured)
        after_batch(len(answers))
    return answers


@torch.inference_mode()
def _decode_batch(
    model: VisionLanguageModel,
    pixels: Tensor,
    asked: Sequence[Sequence[tuple[int, ...]]],
    answer_tokens: int,
    pictured: Tensor,
) -> list[list[tuple[int, ...]]]:
    packed = pack([[Segment(tuple(prompt), (0,) * answer_tokens) for prompt in prompts] for prompts in asked])
    mask = attention_mask(packed.segments, model.cells, pictured)
    slots = packed.targets != IGNORED
    tokens = packed.tokens.clone()
    # Row-major order of the slots: question by question, answer place by answer place.
    rows, columns = (index.view(-1, answer_tokens) for index in slots.nonzero(as_tuple=True))
    decoded = torch.zeros(rows.shape, dtype=torch.int64)
    for place in range(answer_tokens):
        hidden = model(pixels, tokens, packed.positions, mask)
        decoded[:, place] = model.language.logits(hidden[rows[:, place], columns[:, place]]).argmax(-1)
        if place + 1 < answer_tokens:
            tokens[rows[:, place + 1], columns[:, place + 1]] = decoded[:, place]
    flat = iter(decoded.tolist())
    return [[tuple(next(flat)) for _ in prompts] for prompts in asked]
