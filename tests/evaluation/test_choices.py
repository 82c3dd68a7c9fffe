"""Questions as token ids, and the probabilities of their options against a whole forward for each option."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.evaluation.test_generation import (  # noqa: E402
    MODELS,
    PATCHES,
    STOP,
    alone,
    look_at,
    model_of,
)
from vlmablate.errors import UserError  # noqa: E402
from vlmablate.evaluation.choices import Prompt, Question, prompts_of  # noqa: E402
from vlmablate.evaluation.generation import Asked, answer, tree_of  # noqa: E402
from vlmablate.training.dialogues import IMAGE_MARK, Dialogue, encode  # noqa: E402
from vlmablate.vlm import merge  # noqa: E402
from vlmablate.vlm.llms.load import load_llm  # noqa: E402
from vlmablate.vlm.merge import TEXT, Sample, expand, place  # noqa: E402
from vlmablate.vlm.prompts import Turn, template_named, templates  # noqa: E402

SPECIAL = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>")
LIMIT = 6
ASKED = "Is there a cat?\nAnswer with yes or no."


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def trained(kind: str) -> Any:
    """`bytes`: a space belongs to the word behind it (GPT-2, Qwen, SmolLM2). `sentencepiece`: the same, and every text
    begins with one of its own (Llama, Mistral)."""
    words = [
        "Yes",
        "No",
        "True",
        "False",
        *"ABCD",
        "Answer",
        "with",
        "cat",
        "USER:",
        "ASSISTANT:",
        "Out:",
        "In:",
    ]
    plain = Tokenizer(models.BPE(unk_token="<unk>"))
    if kind == "bytes":
        plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        plain.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        plain.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        plain.decoder = decoders.Metaspace()
        alphabet = ["▁", "\n", *map(chr, range(33, 127))]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>", *SPECIAL], initial_alphabet=alphabet
    )
    plain.train_from_iterator([f" {word}" for word in words] * 50, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    words = trained("bytes")
    without_bos = copy.deepcopy(words)
    without_bos.bos_token = None
    return {
        "bytes": words,
        "sentencepiece": trained("sentencepiece"),
        "no_bos": without_bos,
        "single_bytes": load_llm("test_llama")[1],
    }


def cells(dialogue: Dialogue) -> list[int]:
    marked = dialogue.tokens.tolist()
    if dialogue.image_at is not None:
        marked.insert(dialogue.image_at, merge.IMAGE_MARK)
    return marked


def plain(prompt: Prompt) -> tuple[list[int], tuple[tuple[int, ...], ...]]:
    return prompt.tokens.tolist(), prompt.options


@pytest.mark.parametrize("image", ["none", "after_bos", "mark"])
@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "no_bos"])
@pytest.mark.parametrize("name", templates())
def test_ids_are_those_that_training_sees(
    tokenizers: dict[str, Any], name: str, kind: str, image: Any
) -> None:
    tokenizer, template = tokenizers[kind], template_named(name)
    pictured = image != "none"
    texts = [ASKED, f" {IMAGE_MARK} What is 12 </s> for?  "]
    options = ("Yes", "No")
    questions = [Question(text, (), pictured) for text in texts]
    questions += [Question(text, options, pictured) for text in texts]
    found = prompts_of(tokenizer, template, questions, "after_bos" if image == "none" else image)

    def dialogue(text: str, *told: str) -> list[int]:
        text = text.replace(IMAGE_MARK, "").strip()
        if image == "mark":
            text = f"{IMAGE_MARK}\n{text}"
        turns = [Turn("human", text), *[Turn("gpt", option) for option in told]]
        return cells(encode(tokenizer, template, turns, image=image))

    for text, prompt, compared in zip(texts, found[:2], found[2:], strict=True):
        assert plain(prompt) == (dialogue(text), ())
        whole = [dialogue(text, option) for option in options]
        ids, following = plain(compared)
        for row, tokens in zip(whole, following, strict=True):
            assert row[: len(ids) + len(tokens)] == [*ids, *tokens]
        assert len({tokens[0] for tokens in following}) == 2
        assert {len(tokens) for tokens in following} == {1}
        if name != "plain":  # which says nothing of what is asked
            assert ids == dialogue(text)


def test_words_are_one_token_with_the_space_in_front(tokenizers: dict[str, Any]) -> None:
    for kind in ("bytes", "sentencepiece"):
        tokenizer = tokenizers[kind]
        for options in (("Yes", "No"), ("True", "False"), ("A", "B", "C", "D")):
            [prompt] = prompts_of(
                tokenizer, template_named("vicuna_v1.5"), [Question(ASKED, options, True)], "mark"
            )
            written = [tokenizer.convert_ids_to_tokens(list(ids)) for ids in prompt.options]
            assert written == [[("Ġ" if kind == "bytes" else "▁") + option] for option in options]


def test_what_options_begin_with_belongs_to_the_prompt(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["single_bytes"]
    template = template_named("vicuna_v1.5")
    asked, compared = prompts_of(
        tokenizer, template, [Question("a", (), False), Question("a", ("Yes", "No"), False)], "after_bos"
    )
    assert compared.tokens.tolist() == [*asked.tokens.tolist(), *tokenizer(" ").input_ids]
    assert tokenizer.convert_ids_to_tokens([token for [token] in compared.options]) == ["Y", "N"]


def test_options_that_begin_alike_are_compared_as_a_whole_with_their_end(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["single_bytes"]
    options = ("1", "12", "2")
    [prompt] = prompts_of(tokenizer, template_named("base"), [Question("a", options, False)], "after_bos")
    said = ["".join(tokenizer.convert_ids_to_tokens(list(ids))) for ids in prompt.options]
    assert said == [f"{option}</s>" for option in options]
    with pytest.raises(ValueError, match="same tokens"):
        prompts_of(tokenizer, template_named("base"), [Question("a", ("1", " 1"), False)], "after_bos")


def test_a_token_that_the_tokenizer_does_not_have_is_told(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="im_start"):
        prompts_of(tokenizers["single_bytes"], template_named("chatml"), [Question("a", (), False)], "mark")


# ---- probabilities ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features() -> Tensor:
    return torch.randn(4, PATCHES, 7, generator=torch.Generator().manual_seed(0))


def sample(rng: np.random.Generator, words: int, picture: int | None, layout: str) -> Sample:
    text = rng.integers(2, 300, words).tolist()
    tokens = [1, *([] if picture is None else [merge.IMAGE_MARK]), 7, 8, *text]
    if layout == "mark" and picture is not None:
        tokens = [1, 7, 8, merge.IMAGE_MARK, *text]
    return expand(tokens, [False] * len(tokens), [] if picture is None else [picture], PATCHES)


OPTIONS = (
    ((11,), (12,)),
    ((20, 21, 22), (20, 23), (24,)),
    (),
    tuple((40 + i,) for i in range(16)),
    ((30, 31, 32, 33), (30, 31, 34, 35)),
    (),
    ((50,),),
)


def mixed(layout: str) -> list[list[Asked]]:
    """About each picture questions of all kinds in one row; and two groups without a picture."""
    rng = np.random.default_rng(5)

    def asked(words: int, picture: int | None, options: tuple[tuple[int, ...], ...]) -> Asked:
        return Asked(sample(rng, words, picture, layout), 0 if options else LIMIT, options)

    groups = [
        [asked(2 + i, picture, options) for i, options in enumerate(OPTIONS[: 7 - picture])]
        for picture in (0, 2, 1, 3)
    ]
    return [*groups, [asked(3, None, OPTIONS[1]), asked(2, None, OPTIONS[2])], [asked(4, None, OPTIONS[4])]]


@torch.inference_mode()
def one_by_one(model: Any, features: Tensor, asked: Asked) -> list[float]:
    """A whole forward of the prompt with each option behind it; products over its tokens, renormalised."""
    logs = []
    patches = model.projector(features[[int(str(name)) for name in asked.prompt.pictures]])
    for option in asked.options:
        tokens = [*asked.prompt.tokens.tolist(), *option]
        slots = [*asked.prompt.slots.tolist(), *[TEXT] * len(option)]
        embeddings = place(model.language.embed(torch.tensor([tokens])), patches, torch.tensor([slots]))
        hidden = model.language(embeddings, torch.arange(len(tokens))[None])
        scores = torch.log_softmax(model.logits(hidden[0]), -1)
        start = len(asked.prompt)
        logs.append(sum(float(scores[start + i - 1, token]) for i, token in enumerate(option)))
    shares = np.exp(np.array(logs) - max(logs))
    return (shares / shares.sum()).tolist()


FAST = ("test_llama", "test_gemma3")
"""Every place is seen; and layers with a window between others."""
SLOW = [pytest.param(name, "after_bos", marks=pytest.mark.slow) for name in MODELS if name not in FAST]


@pytest.mark.parametrize(
    ("name", "layout"), [("test_llama", "mark"), *((name, "after_bos") for name in FAST), *SLOW]
)
def test_a_row_of_written_and_compared_answers_is_each_question_alone(
    name: str, layout: str, features: Tensor
) -> None:
    model, groups = model_of(name), mixed(layout)
    found = answer(model, look_at(features), [tree_of(group) for group in groups], PATCHES, STOP)
    apart = 0.0
    for group, said in zip(groups, found, strict=True):
        for asked, each in zip(group, said, strict=True):
            if not asked.options:
                assert each.probabilities == ()
                assert list(each.tokens) == alone(model, features, asked.prompt)[0][:LIMIT]
                continue
            assert each.tokens == ()
            assert sum(each.probabilities) == pytest.approx(1.0, abs=1e-12)
            expected = one_by_one(model, features, asked)
            assert np.abs(np.array(each.probabilities) - expected).max() <= 1e-5
            apart = max(apart, max(expected) - min(expected)) if len(expected) > 1 else apart
    assert apart > 0.2, "equal probabilities would prove nothing"


def test_a_picture_is_looked_at_once_for_all_that_is_asked(features: Tensor) -> None:
    looked: list[Any] = []

    def look(names: Sequence[Any]) -> Tensor:
        looked.extend(names)
        return look_at(features)(names)

    answer(model_of("test_llama"), look, [tree_of(group) for group in mixed("after_bos")], PATCHES, STOP)
    assert sorted(looked) == [0, 1, 2, 3]


def test_twigs_share_their_question(features: Tensor) -> None:
    prompt = sample(np.random.default_rng(0), 9, 1, "after_bos")
    options = ((1, 2, 3), (1, 4, 5, 6))
    tree = tree_of([Asked(prompt, options=options)])
    assert len(tree) == tree.grown == len(prompt) + 2 + 3
    assert tree.positions[-5:].tolist() == [
        len(prompt),
        len(prompt) + 1,
        *range(len(prompt), len(prompt) + 3),
    ]
