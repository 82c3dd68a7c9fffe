"""Answers of questions that share a picture equal those of each question alone, read again for every token."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vlmablate.evaluation import generation
from vlmablate.evaluation.generation import Asked, Tree, batches, generate, tree_of
from vlmablate.training.precision import computing
from vlmablate.vlm.llms.cached import TRUNK, Reading
from vlmablate.vlm.llms.load import load_llm
from vlmablate.vlm.merge import IMAGE_MARK, TEXT, Sample, expand, place
from vlmablate.vlm.multimodal import MultimodalModel

MODELS = (
    "test_llama", "test_mistral", "test_phi", "test_qwen2", "test_qwen3", "test_gemma", "test_gemma2", "test_gemma3",
)  # fmt: skip
PATCHES, CHANNELS, PICTURES, BOS, LIMIT = 5, 7, 4, 1, 9
STOP = tuple(range(0, 320, 7))
"""So many words that random models say one now and then."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model_of(name: str) -> MultimodalModel:
    """Random weights far enough from zero that the best word is not in doubt, and depends on all that is seen."""
    language, _ = load_llm(name)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in language.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
    projector = nn.Linear(CHANNELS, language.width)
    with torch.no_grad():
        projector.weight.copy_(torch.randn(projector.weight.shape, generator=generator))
    return MultimodalModel(None, projector, language).eval()


@pytest.fixture(scope="module")
def features() -> Tensor:
    return torch.randn(PICTURES, PATCHES, CHANNELS, generator=torch.Generator().manual_seed(0))


def prompt(rng: np.random.Generator, words: int, picture: int | None, layout: str) -> Sample:
    text = rng.integers(2, 300, words).tolist()
    if picture is None:
        tokens = [BOS, *text]
    elif layout == "after_bos":
        tokens = [BOS, IMAGE_MARK, 7, 8, *text]
    else:
        tokens = [BOS, 7, 8, 9, IMAGE_MARK, *text]
    return expand(tokens, [False] * len(tokens), [] if picture is None else [picture], PATCHES)


def asked(layout: str = "after_bos") -> list[list[Sample]]:
    """Groups of one to five questions about pictures, and two groups without."""
    rng = np.random.default_rng(5)
    groups = [[prompt(rng, n, p, layout) for n in (3, 9, 1, 5, 2)[: 5 - p]] for p in (2, 0, 3, 1)]
    return [
        *groups[:2],
        [prompt(rng, n, None, layout) for n in (4, 2)],
        *groups[2:],
        [prompt(rng, 3, None, "")],
    ]


def row_of(prompts: Sequence[Sample], limit: int = LIMIT) -> Tree:
    """Questions whose answers are written."""
    return tree_of([Asked(sample, limit) for sample in prompts])


def look_at(features: Tensor) -> generation.Callable[[Sequence[Hashable]], Tensor]:
    return lambda names: features[[int(str(name)) for name in names]]


@torch.inference_mode()
def alone(model: MultimodalModel, features: Tensor, sample: Sample) -> tuple[list[int], list[Tensor]]:
    """The answer of one question without any cache, and the scores of all words at each of its tokens."""
    tokens, slots, scores = sample.tokens.tolist(), sample.slots.tolist(), []
    patches = model.projector(features[[int(str(name)) for name in sample.pictures]])
    while True:
        embeddings = model.language.embed(torch.tensor([tokens]))
        embeddings = place(embeddings, patches, torch.tensor([slots]))
        hidden = model.language(embeddings, torch.arange(len(tokens))[None])
        scores.append(model.logits(hidden[0, -1]))
        best = int(scores[-1].argmax())
        found = tokens[len(sample) :]
        if best in STOP or len(found) == LIMIT:
            return found, scores
        tokens, slots = [*tokens, best], [*slots, TEXT]


def everything(
    model: MultimodalModel, features: Tensor, groups: list[list[Sample]], **more: int
) -> list[list[tuple[int, ...]]]:
    return generate(model, look_at(features), groups, PATCHES, stop=STOP, limit=LIMIT, **more)


@pytest.mark.parametrize("layout", ["after_bos", "mark"])
@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_each_question_alone(
    name: str, layout: str, features: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, groups = model_of(name), asked(layout)
    read: list[Tensor] = []
    logits = model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: read.append(logits(hidden)) or read[-1])
    answers = everything(model, features, groups)
    monkeypatch.undo()
    expected = [[alone(model, features, sample) for sample in group] for group in groups]
    assert answers == [[tuple(found) for found, _ in group] for group in expected]
    lengths = [len(answer) for group in answers for answer in group]
    assert len(set(lengths)) > 1, "the questions should end at different times"
    # One batch: scores come in the order of its rows.
    [order] = batches([row_of(group).grown for group in groups], generation.CELLS_AT_ONCE)
    flat = [scores for index in order for _, scores in expected[index]]
    assert len(read) == max(map(len, flat)) - any(length == LIMIT for length in lengths)
    for step, scores in enumerate(read):
        there = torch.stack([s[step] for s in flat if len(s) > step])
        assert scores.shape == there.shape
        assert float((scores - there).abs().max()) < 1e-5 * max(1.0, float(there.abs().max()))


@pytest.mark.parametrize("name", ["test_llama", "test_mistral", "test_gemma3"])
def test_how_questions_are_grouped_ordered_and_batched_changes_nothing(name: str, features: Tensor) -> None:
    model, groups = model_of(name), asked()
    whole = everything(model, features, groups)
    single = everything(model, features, [[sample] for group in groups for sample in group])
    assert [answer for [answer] in single] == [answer for group in whole for answer in group]
    for cells in (1, 90, 250):
        assert everything(model, features, groups, cells_at_once=cells) == whole
    turned = [group[::-1] for group in groups[::-1]]
    assert [group[::-1] for group in everything(model, features, turned)[::-1]] == whole


def test_a_window_is_felt(features: Tensor) -> None:
    """The test above would be none if all questions fitted into it."""
    model, groups = model_of("test_mistral"), asked()
    within = everything(model, features, groups)
    model.language.config.sliding_window = None
    assert everything(model, features, groups) != within


def test_the_trunk_is_all_that_questions_have_in_common() -> None:
    rng = np.random.default_rng(0)
    tree = row_of([prompt(rng, n, 1, "after_bos") for n in (3, 1, 4)], 10)
    trunk = 1 + PATCHES + 2
    assert (tree.branches == TRUNK).sum() == trunk
    assert len(tree) == trunk + 3 + 1 + 4
    assert tree.grown == len(tree) + 3 * 10
    assert tree.ends.tolist() == [trunk + 2, trunk + 3, trunk + 7]
    starts = tree.positions[trunk:].tolist()
    assert starts == [*range(trunk, trunk + 3), trunk, *range(trunk, trunk + 4)]


def test_equal_questions_keep_a_last_token_each(features: Tensor) -> None:
    sample = prompt(np.random.default_rng(0), 4, 1, "after_bos")
    tree = row_of([sample, sample])
    assert len(tree) == len(sample) + 1
    model = model_of("test_llama")
    found = alone(model, features, sample)[0]
    assert everything(model, features, [[sample, sample]]) == [[tuple(found)] * 2]


def test_questions_about_different_pictures_are_no_group() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="same pictures"):
        row_of([prompt(rng, 3, 1, "after_bos"), prompt(rng, 3, 2, "after_bos")])


def test_batches_hold_what_fits_with_padding_and_at_least_one_row() -> None:
    assert batches([3, 10, 4, 2, 9], 20) == [[1, 4], [2, 0, 3]]
    assert batches([3, 10], 5) == [[1], [0]]
    assert batches([], 5) == []


def test_every_batch_is_told(features: Tensor) -> None:
    done: list[int] = []
    groups = asked()
    generate(
        model_of("test_llama"), look_at(features), groups, PATCHES,
        stop=STOP, limit=1, cells_at_once=60, after_batch=done.append,
    )  # fmt: skip
    assert len(done) > 2
    assert done == sorted(set(done))
    assert done[-1] == len(groups)


def test_what_is_asked_before_every_token_can_end_it(features: Tensor) -> None:
    asked_before: list[int] = []

    def check() -> None:
        asked_before.append(len(asked_before))
        if len(asked_before) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        generate(
            model_of("test_llama"), look_at(features), asked(), PATCHES, stop=(), limit=LIMIT, check=check
        )
    assert len(asked_before) == 3


@pytest.mark.parametrize("name", ["test_llama", "test_gemma3"])
def test_bfloat16_changes_scores_by_its_rounding(
    name: str, features: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, groups = model_of(name), asked()
    read: list[Tensor] = []
    logits = model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: read.append(logits(hidden)) or read[-1])
    for precision in ("fp32", "bf16"):
        with computing(precision, torch.device("cpu")):
            generate(model, look_at(features), groups, PATCHES, stop=(), limit=1)
    exact, rounded = read
    assert rounded.dtype is torch.bfloat16
    assert 0 < float((exact - rounded).std()) < 0.05 * float(exact.std())


def test_no_question_is_no_answer(features: Tensor) -> None:
    assert everything(model_of("test_llama"), features, []) == []


def test_finished_questions_are_not_read_on(features: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model, groups = model_of("test_llama"), asked()
    read: list[tuple[int, ...]] = []
    reading = Reading.read

    def watched(self: Reading, embeddings: Tensor, positions: Tensor, branches: Tensor) -> Tensor:
        read.append(tuple(embeddings.shape[:2]))
        return reading(self, embeddings, positions, branches)

    monkeypatch.setattr(Reading, "read", watched)
    answers = everything(model, features, groups)
    for step, shape in enumerate(read[1:]):
        growing = [sum(len(answer) > step for answer in group) for group in answers]
        assert shape == (sum(count > 0 for count in growing), max(growing))
    longest = max(len(answer) for group in answers for answer in group)
    assert len(read) == longest + (longest < LIMIT)
