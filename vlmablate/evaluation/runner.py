"""Benchmarks put to a model: every picture is read once for all that is asked about it, by all benchmarks.

What was answered before is not asked again (see `evaluation.answers_store`). The rest is shared out to the ranks by
picture, evenly by the work of each, then read longest rows first, while threads prepare the pictures of the batches
ahead. Each rank holds the whole model.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL.Image import Image as Picture
from torch import Tensor, nn

from vlmablate.errors import UserError
from vlmablate.evaluation import answers_store
from vlmablate.evaluation.answers_store import Given
from vlmablate.evaluation.choices import Prompt, Question, prompts_of, stops
from vlmablate.evaluation.generation import CELLS_AT_ONCE, Asked, LookAt, Said, Tree, answer, batches, tree_of
from vlmablate.evaluation.protocol import Answer, Example
from vlmablate.evaluation.published import Asking
from vlmablate.training.dialogues import Image
from vlmablate.training.pictures import PictureStream, read_picture
from vlmablate.training.precision import computing, precision_of
from vlmablate.training.ranks import ALONE, Ranks
from vlmablate.vlm.image import Frame
from vlmablate.vlm.merge import expand
from vlmablate.vlm.multimodal import MultimodalModel
from vlmablate.vlm.prompts import Template

KEY_DIGITS = 32
CELLS_A_PICTURE, LETTERS_A_TOKEN = 576, 4
"""About, and before any model is read: only the shares of ranks depend on it."""

Found = TypeVar("Found")
Squares = Callable[[Picture], tuple[list[np.ndarray], Frame]]
"""A picture -> for each tower uint8 [tiles, S, S, 3], and the frame in which answers about it are given."""


@dataclass(frozen=True)
class Answering:
    """A model with all that is between a picture with a question and an answer.

    Attributes:
        model: its projector takes what `see` makes; its language model reads and writes.
        squares: a picture -> squares, on the CPU.
        see: for each tower uint8 [I, tiles, S, S, 3], on the device of the model -> features [I, N, C].
        tokens: of one picture.
        tokenizer, template: how questions are written.
        image: where the picture stands, as in `training.dialogues.encode`.
    """

    model: MultimodalModel
    squares: Squares
    see: Callable[[Sequence[Tensor]], Tensor]
    tokens: int
    tokenizer: Any
    template: Template
    image: Image


@dataclass(frozen=True)
class Checkpoint:
    """A model that need not be opened while nothing new is asked.

    identity: what makes its answers its own, for JSON: weights, transform, template. It may have to read the weights.
    open: reads the model, to the CPU.
    """

    identity: Callable[[], Mapping[str, Any]]
    open: Callable[[], Answering]


@dataclass(frozen=True)
class _Put:
    """One example as it is put to the model. picture: its file, None without one."""

    key: str
    benchmark: str
    example_id: str
    question: Question
    limit: int
    picture: Path | None


def put_all(
    checkpoint: Checkpoint,
    asked: Sequence[Asking],
    out: Path,
    ranks: Ranks = ALONE,
    *,
    precision: str = "fp32",
    threads: int = 1,
    cells_at_once: int = CELLS_AT_ONCE,
    patience_s: float = 0.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, list[Given]]:
    """Benchmark -> what was given to each of its examples, in order; on rank 0, and nothing on the others.

    Args:
        checkpoint: the same on all ranks.
        out: the folder of the answers, which all ranks see.
        precision: of the arithmetic, see `training.precision`.
        threads: that prepare pictures.
        cells_at_once: see `evaluation.generation`.
        patience_s: see `answers_store.attempt`.
        progress: called with the questions of this rank that are answered, and how many it has, after each batch.
        check: called before every token; what it raises ends all. What was answered stays.

    Raises:
        UserError: for pictures that are missing or damaged, and while another evaluation writes to `out`.
    """
    # Known to the first rank alone: a thousand others need not read the weights for it.
    model = _first(ranks, lambda: _digest([checkpoint.identity(), precision]))
    puts = [_put(model, one, example) for one in asked for example in one.examples]
    with ExitStack() as stack:
        number, known = _first(ranks, lambda: _begin(out, puts, stack, patience_s))
        groups = _by_picture([put for put in puts if put.key not in known])
        mine = [groups[i] for i in shares([_work(group) for group in groups], ranks.size)[ranks.rank]]
        written: list[Path] = []
        if mine:
            answering = checkpoint.open()
            narrow(answering.model, precision)
            answering.model.to(ranks.device)
            part = stack.enter_context(answers_store.part(out, number, ranks.rank))
            _answer(answering, mine, part, precision, threads, cells_at_once, progress, check, ranks.device)
            written.append(part.path)
    # A network file system shows the whole of a file to whoever opens it, by its name, after it was closed.
    parts = [path for paths in ranks.share(written) for path in paths]
    if ranks.rank:
        return {}
    given = answers_store.read(out) | answers_store.read(out, parts)
    keys = iter(puts)
    return {one.benchmark.name: [given[next(keys).key] for _ in one.examples] for one in asked}


def narrow(model: MultimodalModel, precision: str) -> None:
    """Keep what a language model multiplies with in the format in which it is multiplied, in place.

    The products are the same to the bit, and there is half as much to keep and to read for every token. Words that are
    the output's weights as well stay as they are: they are not only multiplied.
    """
    products = precision_of(precision).products
    if products is None:
        return
    words = model.language.model.get_input_embeddings().weight
    for module in model.language.modules():
        if isinstance(module, nn.Linear) and module.weight is not words:
            module.to(products)


def shares(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Numbers of groups for each rank, every one once: the longest first, each to whoever has least."""
    found: list[list[int]] = [[] for _ in range(ranks)]
    heap = [(0, rank) for rank in range(ranks)]
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        total, rank = heapq.heappop(heap)
        found[rank].append(index)
        heapq.heappush(heap, (total + lengths[index], rank))
    return found


def _put(model: str, asking: Asking, example: Example) -> _Put:
    benchmark = asking.benchmark
    text, options = benchmark.prompt(example), tuple(benchmark.options(example))
    limit = 0 if options else benchmark.answer_tokens
    said = [model, benchmark.name, example.example_id, example.picture, text, options, limit]
    picture = None if example.picture is None else _file(asking.folder, example.picture)
    question = Question(text, options, picture is not None)
    return _Put(_digest(said), benchmark.name, example.example_id, question, limit, picture)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


def _file(folder: Path, picture: str) -> Path:
    """Benchmarks that link to the same folder of pictures share what is read of them."""
    path = folder / picture
    return _real(path.parent) / path.name


@lru_cache(maxsize=4096)
def _real(folder: Path) -> Path:
    return Path(os.path.realpath(folder))


def _begin(
    out: Path, puts: Sequence[_Put], stack: ExitStack, patience_s: float
) -> tuple[int, frozenset[str]]:
    number = stack.enter_context(answers_store.attempt(out, patience_s))
    return number, frozenset({put.key for put in puts} & answers_store.read(out).keys())


def _first(ranks: Ranks, work: Callable[[], Found]) -> Found:
    """What rank 0 finds, or the mistake that it tells of, on all ranks."""
    told: Found | UserError | None = None
    if ranks.rank == 0:
        try:
            told = work()
        except UserError as error:
            told = error
    found: Found | UserError = ranks.share(told)[0]
    if isinstance(found, UserError):
        raise found
    return found


def _by_picture(puts: Sequence[_Put]) -> list[list[_Put]]:
    """In the order of their first questions; a question without a picture is alone."""
    groups: dict[Hashable, list[_Put]] = {}
    for put in puts:
        groups.setdefault(put.picture or put.key, []).append(put)
    return list(groups.values())


def _work(group: Sequence[_Put]) -> int:
    """About the cells that are read and written."""
    picture = 0 if group[0].picture is None else CELLS_A_PICTURE
    return picture + sum(len(put.question.text) // LETTERS_A_TOKEN + put.limit for put in group)


def _answer(
    answering: Answering,
    groups: Sequence[Sequence[_Put]],
    part: answers_store.Part,
    precision: str,
    threads: int,
    cells_at_once: int,
    progress: Callable[[int, int], None],
    check: Callable[[], None],
    device: torch.device,
) -> None:
    """Read, write and store, batch by batch."""
    read = prompts_of(
        answering.tokenizer,
        answering.template,
        [put.question for group in groups for put in group],
        answering.image,
    )
    stop = stops(answering.tokenizer, answering.template)
    following = iter(read)
    prompts = [[next(following) for _ in group] for group in groups]

    def tree(number: int) -> Tree:
        pairs = zip(groups[number], prompts[number], strict=True)
        return tree_of([_asked(put, prompt, number, answering.tokens) for put, prompt in pairs])

    plan = batches([tree(number).grown for number in range(len(groups))], cells_at_once)
    frames: dict[int, Frame] = {}
    done, total = 0, len(read)

    def shown(step: int) -> list[int]:
        return [number for number in plan[step] if groups[number][0].picture is not None]

    def squares_at(number: int) -> list[np.ndarray]:
        path = groups[number][0].picture
        assert path is not None
        squares, frames[number] = answering.squares(read_picture(path))
        return squares

    with PictureStream(squares_at, shown, len(plan), threads) as stream:
        for step, batch in enumerate(plan):
            squares = [tensor.to(device) for tensor in stream.at(step)]
            places = {number: place for place, number in enumerate(shown(step))}

            def look(names: Sequence[Any]) -> Tensor:
                chosen = [places[name] for name in names]  # noqa: B023  (called in this turn of the loop)
                return answering.see([tensor[chosen] for tensor in squares])  # noqa: B023

            def say(numbers: Sequence[int], look: LookAt = look) -> list[list[Said]]:
                trees = [tree(number) for number in numbers]
                return answer(answering.model, look, trees, answering.tokens, stop, check)

            with computing(precision, device):
                said = _as_it_fits(say, batch)
            part.add(
                {
                    put.key: Given(
                        put.benchmark,
                        put.example_id,
                        _read(answering, put, each),
                        frames.get(number),
                    )
                    for number, all_said in zip(batch, said, strict=True)
                    for put, each in zip(groups[number], all_said, strict=True)
                }
            )
            done += sum(len(groups[number]) for number in batch)
            progress(done, total)


def _as_it_fits(say: Callable[[Sequence[int]], list[list[Said]]], batch: Sequence[int]) -> list[list[Said]]:
    """What is said to the rows of a batch; those that do not fit into the memory of a GPU together, in halves."""
    try:
        return say(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Here, where the error is gone, and with it what it held.
    torch.cuda.empty_cache()
    half = len(batch) // 2
    return [*_as_it_fits(say, batch[:half]), *_as_it_fits(say, batch[half:])]


def _asked(put: _Put, prompt: Prompt, picture: int, patches: int) -> Asked:
    tokens = prompt.tokens.tolist()
    names = [] if put.picture is None else [picture]
    return Asked(expand(tokens, [False] * len(tokens), names, patches), put.limit, prompt.options)


def _read(answering: Answering, put: _Put, said: Said) -> Answer:
    if put.question.options:
        return Answer(probabilities=dict(zip(put.question.options, said.probabilities, strict=True)))
    text = answering.tokenizer.decode(
        list(said.tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return Answer(text.strip())
