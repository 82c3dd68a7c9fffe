"""From a dialogue to token ids and what is learnt of them.

Text between two special tokens is tokenised in one go, across the border of prompt and answer, and the offsets say
which tokens hold letters of an answer. So the ids are those of the whole text: cut at the border, ``Out: `` and ``Yes``
would give a lone space that no tokenizer writes in front of a word (SentencePiece tokenizers such as Llama's even write
two). A prompt to be answered ends without that space, hence with the very ids that training saw in front of an answer.
Special tokens are put in by id; the same letters in a turn are letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vlmablate.errors import UserError
from vlmablate.training.packing import IGNORED
from vlmablate.vlm.prompts import Piece, Template, Turn, render

IMAGE_MARK = "<image>"
Image = Literal["none", "after_bos", "mark"]
IMAGE_PLACES: tuple[Image, ...] = ("none", "after_bos", "mark")


@dataclass(frozen=True)
class Dialogue:
    """tokens: int64 [T]. learnt: boolean [T], True for answers with the special token that ends them. image_at: the
    place in tokens before which the picture's tokens stand, None without a picture."""

    tokens: np.ndarray
    learnt: np.ndarray
    image_at: int | None

    def targets(self, image_tokens: int = 0) -> np.ndarray:
        """int64 [T + image_tokens]: with the picture in its place, the next token where that is learnt, else IGNORED.

        The last place of the picture may have a target: an answer that follows it at once.
        """
        at = 0 if self.image_at is None else self.image_at
        ahead = np.where(self.learnt, self.tokens, IGNORED)
        whole = np.concatenate([ahead[:at], np.full(image_tokens, IGNORED, np.int64), ahead[at:]])
        return np.append(whole[1:], IGNORED).astype(np.int64)

    @property
    def target_count(self) -> int:
        """Tokens that are learnt, each from what stands before it; the first token of all from nothing, so not."""
        first = bool(len(self.learnt)) and self.image_at != 0 and bool(self.learnt[0])
        return int(self.learnt.sum()) - int(first)


def encode(
    tokenizer: Any,
    template: Template,
    turns: Sequence[Turn],
    *,
    image: Image = "none",
    max_length: int | None = None,
) -> Dialogue:
    """Tokens of a dialogue, or of a prompt when the human has the last word. Space around a turn's text is taken off.

    Args:
        tokenizer: a fast tokenizer of transformers, with the roles ``bos_token`` and ``eos_token``.
        image: where the picture stands. ``none``: there is none; ``after_bos``: behind the first BOS token (in front
            of all where the model has none), as in Prismatic, and marks in the text are taken out; ``mark``: at the
            one ``<image>`` in the turns of the human.
        max_length: what is beyond so many tokens is cut off; the picture does not count.

    Raises:
        UserError: for turns out of order, a special token that the tokenizer does not have, no or several marks, or a
            mark that max_length cuts off.
    """
    if image not in IMAGE_PLACES:
        raise UserError(f"the place of an image is one of {', '.join(IMAGE_PLACES)}, not {image!r}")
    drop = IMAGE_MARK if image == "after_bos" else ""
    turns = [Turn(role, (text.replace(drop, "") if drop else text).strip()) for role, text in turns]
    marks = sum(text.count(IMAGE_MARK) for role, text in turns if role == "human")
    if image == "mark" and marks != 1:
        raise UserError(
            f"a dialogue about one picture needs one {IMAGE_MARK} in the human's turns, found {marks}"
        )
    bos = tokenizer.bos_token
    tokens: list[int] = []
    learnt: list[bool] = []
    image_at: int | None = None
    run: list[Piece] = []

    def finish() -> None:
        ids, flags = _run(tokenizer, run)
        tokens.extend(ids)
        learnt.extend(flags)
        run.clear()

    for piece in render(template, turns, bos, tokenizer.eos_token):
        if piece.special:
            finish()
            tokens.append(_special(tokenizer, piece.text, template))
            learnt.append(piece.learnt)
        elif image == "mark" and not piece.learnt and IMAGE_MARK in piece.text:
            before, after = piece.text.split(IMAGE_MARK)
            run.append(Piece(before, False, False))
            finish()
            image_at = len(tokens)
            run.append(Piece(after, False, False))
        else:
            run.append(piece)
    finish()
    if image == "after_bos":
        image_at = 1 if bos is not None and tokens[:1] == [tokenizer.bos_token_id] else 0
    if max_length is not None and image_at is not None and image_at > max_length:
        raise UserError(f"the picture stands behind {image_at} tokens, more than max_length={max_length}")
    return Dialogue(
        np.array(tokens[:max_length], np.int64), np.array(learnt[:max_length], np.bool_), image_at
    )


def _special(tokenizer: Any, token: str, template: Template) -> int:
    index = tokenizer.convert_tokens_to_ids(token)
    if index is None or (index == tokenizer.unk_token_id and token != tokenizer.unk_token):
        raise UserError(
            f"the tokenizer has no token {token}, which prompt template '{template.name}' needs: "
            "choose the template of the language model (its row in vlm/llms/registry.yaml)"
        )
    return int(index)


def _run(tokenizer: Any, pieces: Sequence[Piece]) -> tuple[list[int], list[bool]]:
    """Ids of text without special tokens, and which of them hold a letter of an answer.

    The space in front of an answer is part of it: a prompt ends without, so where it is a token of its own (bytes, and
    digits in many tokenizers) the model has to say it.
    """
    text = "".join(piece.text for piece in pieces)
    if not text:
        return [], []
    answer = np.concatenate([np.full(len(piece.text), piece.learnt) for piece in pieces])
    for end in np.flatnonzero(answer[1:] & ~answer[:-1]) + 1:
        answer[len(text[:end].rstrip(" ")) : end] = True
    encoded = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    flags = [bool(answer[start:end].any()) for start, end in encoded.offset_mapping]
    return list(encoded.input_ids), flags
