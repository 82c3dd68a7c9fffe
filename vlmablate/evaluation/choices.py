"""Questions as token ids: a prompt to answer, or a prompt with the options whose probabilities are compared.

The ids are those of `training.dialogues.encode`, for which a test stands; here many questions are tokenised at once,
because a benchmark has some 200,000.

An option is tokenised where training would have seen it, as the answer in the dialogue: what a word becomes depends on
what stands in front of it. ``Yes`` behind ``Out:`` is one token that holds a space with SentencePiece and with the BPE
of bytes, and three bytes behind that of a space where every byte is a token. What all options begin with belongs to the
prompt. If the next tokens tell the options apart, only these are compared, as Prismatic's evaluation compares the
probabilities of ``Yes`` and ``No`` (paper, section 3). Otherwise whole options are, each with what ends an answer, so
that none is the beginning of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vlmablate.errors import UserError
from vlmablate.training.dialogues import IMAGE_MARK, Image, encode
from vlmablate.vlm import merge
from vlmablate.vlm.prompts import Piece, Template, Turn, render, stop_token

AT_ONCE = 1024
"""Questions that are tokenised at once: what bounds the memory."""
_QUESTION, _ANSWER = "\0question\0", "\0answer\0"


class Question(NamedTuple):
    """text: what the human says, without a mark of the picture. options: none for an answer that is written."""

    text: str
    options: tuple[str, ...]
    pictured: bool


@dataclass(frozen=True)
class Prompt:
    """tokens: int32 [T], `merge.IMAGE_MARK` where the picture stands. options: the ids that follow, for each option."""

    tokens: np.ndarray
    options: tuple[tuple[int, ...], ...] = ()


Part = str | int
"""Text, or the id of a special token or of the picture."""


def prompts_of(
    tokenizer: Any, template: Template, questions: Sequence[Question], image: Image
) -> list[Prompt]:
    """What is read of questions, in order.

    image: where a picture stands, as in `training.dialogues.encode`; with ``mark`` in a line of its own in front of
    the question, as in LLaVA.

    Raises:
        UserError: for a template that asks for a token that the tokenizer does not have.
        ValueError: for options that are the same tokens.
    """
    dialogues = _Dialogues(tokenizer, template, image)
    starts = range(0, len(questions), AT_ONCE)
    return [prompt for start in starts for prompt in _read(dialogues, questions[start : start + AT_ONCE])]


def stops(tokenizer: Any, template: Template) -> frozenset[int]:
    """The tokens that end an answer: that of the prompt template, and that of the language model.

    Raises UserError for a template without any.
    """
    eos = tokenizer.eos_token
    tokens = {token for token in (stop_token(template, eos), eos) if token}
    if not tokens:
        raise UserError(f"nothing ends an answer in the prompt template {template.name}")
    return frozenset(int(tokenizer.convert_tokens_to_ids(token)) for token in tokens)


def _read(dialogues: _Dialogues, questions: Sequence[Question]) -> Iterator[Prompt]:
    wanted = [
        [dialogues.parts(question, option) for option in question.options or (None,)]
        for question in questions
    ]
    ids = dialogues.tokens(
        {part for each in wanted for parts in each for part in parts if isinstance(part, str)}
    )
    for question, each in zip(questions, wanted, strict=True):
        rows = [
            [token for part in parts for token in (ids[part] if isinstance(part, str) else (part,))]
            for parts in each
        ]
        yield _compared(rows, question) if question.options else Prompt(np.array(rows[0], np.int32))


def _compared(rows: Sequence[list[int]], question: Question) -> Prompt:
    """The prompt of dialogues that differ in the option."""
    most = min(map(len, rows)) - (len(rows) == 1)
    shared = next((i for i in range(most) if len({row[i] for row in rows}) > 1), most)
    following = [tuple(row[shared:]) for row in rows]
    if len(set(following)) < len(following):
        raise ValueError(f"options that are the same tokens cannot be compared: {list(question.options)}")
    if len({tokens[:1] for tokens in following}) == len(following):
        following = [tokens[:1] for tokens in following]
    return Prompt(np.array(rows[0][:shared], np.int32), tuple(following))


class _Dialogues:
    """How one question, with or without its answer, is laid out."""

    def __init__(self, tokenizer: Any, template: Template, image: Image) -> None:
        self._tokenizer, self._image = tokenizer, image
        human, gpt = Turn("human", _QUESTION), Turn("gpt", _ANSWER)
        encode(tokenizer, template, [human, gpt])  # tells of special tokens that the tokenizer does not have
        bos, eos = tokenizer.bos_token, tokenizer.eos_token
        self._asked, self._told = (
            [self._part(piece) for piece in render(template, turns, bos, eos)]
            for turns in ([human], [human, gpt])
        )
        self._behind = int(bos is not None and self._asked[0] == tokenizer.bos_token_id)

    def parts(self, question: Question, option: str | None) -> tuple[Part, ...]:
        """Runs of text between special tokens and the picture."""
        text = question.text.replace(IMAGE_MARK, "").strip()
        fills: dict[Part, Sequence[Part]] = {_QUESTION: [text], _ANSWER: [(option or "").strip()]}
        at_mark = question.pictured and self._image == "mark"
        if at_mark:
            fills[_QUESTION] = [merge.IMAGE_MARK, f"\n{text}"]
        flat = [
            part
            for pattern in (self._asked if option is None else self._told)
            for part in fills.get(pattern, [pattern])
        ]
        if question.pictured and not at_mark:
            flat.insert(self._behind, merge.IMAGE_MARK)
        runs: list[Part] = []
        for part in flat:
            if isinstance(part, str) and runs and isinstance(runs[-1], str):
                runs[-1] += part
            else:
                runs.append(part)
        return tuple(runs)

    def tokens(self, texts: set[str]) -> dict[str, list[int]]:
        """Ids of each text, in which special tokens are letters like others."""
        listed = sorted(texts - {""})
        if not listed:
            return {"": []}
        encoded = self._tokenizer(listed, add_special_tokens=False, split_special_tokens=True)
        return {"": [], **dict(zip(listed, encoded.input_ids, strict=True))}

    def _part(self, piece: Piece) -> Part:
        return int(self._tokenizer.convert_tokens_to_ids(piece.text)) if piece.special else piece.text
