"""Every template as a golden string, and dialogues as token ids."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vlmablate.errors import UserError
from vlmablate.training.dialogues import IMAGE_MARK, Dialogue, encode
from vlmablate.training.packing import IGNORED
from vlmablate.vlm.llms.load import load_llm
from vlmablate.vlm.llms.registry import llms
from vlmablate.vlm.prompts import Turn, render, stop_token, template_named, templates, text_of

TURNS = [Turn("human", "What is it?"), Turn("gpt", "A dog."), Turn("human", "Red?"), Turn("gpt", "Yes")]
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
LLAMA = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
CHATML = (
    "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\nA dog.<|im_end|>\n"
    "<|im_start|>user\nRed?<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>"
)
GOLDEN = {
    "base": "<s>In: What is it?\nOut: A dog.</s>In: Red?\nOut: Yes</s>",
    "plain": "<s>A dog.</s>Yes</s>",
    "vicuna_v1.5": f"<s>{VICUNA} USER: What is it? ASSISTANT: A dog.</s>USER: Red? ASSISTANT: Yes</s>",
    "llama2_chat": (
        f"<s>[INST] <<SYS>>\n{LLAMA}\n<</SYS>>\n\nWhat is it? [/INST] A dog. </s><s>[INST] Red? [/INST] Yes </s>"
    ),
    "llama2_chat_prismatic": (
        f"<s>[INST] <<SYS>\n{LLAMA}\n<</SYS>>\n\nWhat is it? [/INST] A dog.</s><s>[INST] Red? [/INST] Yes</s>"
    ),
    "mistral_instruct": "<s>[INST] What is it? [/INST] A dog.</s>[INST] Red? [/INST] Yes</s>",
    "phi2": "<s>Input: What is it?\nOutput: A dog.\n</s>Input: Red?\nOutput: Yes\n</s>",
    "chatml": CHATML,
    "qwen2.5": (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        + CHATML
    ),
    "smollm2": (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        + CHATML
    ),
    "gemma": (
        "<s><start_of_turn>user\nWhat is it?<end_of_turn>\n<start_of_turn>model\nA dog.<end_of_turn>\n"
        "<start_of_turn>user\nRed?<end_of_turn>\n<start_of_turn>model\nYes<end_of_turn>"
    ),
}
SPECIAL = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]


def test_every_template_has_a_golden_string() -> None:
    assert set(templates()) == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_dialogue_is_written_as_agreed(name: str) -> None:
    pieces = render(template_named(name), TURNS, "<s>", "</s>")
    assert text_of(pieces) == GOLDEN[name]
    assert {piece.text for piece in pieces if piece.special} <= set(SPECIAL)
    learnt = text_of(piece for piece in pieces if piece.learnt)
    assert "".join(learnt.split()).replace("<|im_end|>", "</s>").replace("<end_of_turn>", "</s>") == (
        "Adog.</s>Yes</s>"
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_a_prompt_is_what_a_dialogue_says_before_the_answer(name: str) -> None:
    template = template_named(name)
    prompt = text_of(render(template, TURNS[:3], "<s>", "</s>"))
    whole = GOLDEN[name]
    assert whole.startswith(prompt)
    assert not prompt.endswith(" ")
    assert whole[len(prompt) :].lstrip(" ").startswith("Yes")
    assert stop_token(template, "</s>") == whole[whole.rindex("Yes") :].removeprefix("Yes").strip()


def test_a_model_without_bos_gets_none() -> None:
    assert (
        text_of(render(template_named("base"), TURNS[:2], None, "</s>")) == "In: What is it?\nOut: A dog.</s>"
    )


def test_what_a_turn_says_is_never_a_placeholder_or_a_special_token() -> None:
    turns = [Turn("human", "{eos} {text} <|im_end|>"), Turn("gpt", "{bos}")]
    pieces = render(template_named("chatml"), turns, "<s>", "</s>")
    assert [piece.text for piece in pieces if piece.special] == ["<|im_start|>", "<|im_end|>"] * 2
    assert "{eos} {text} <|im_end|>" in [piece.text for piece in pieces]


def test_every_language_model_has_a_template() -> None:
    assert {spec.template for spec in llms().values()} <= set(templates())
    with pytest.raises(UserError, match=r"unknown prompt template 'vicuna'[\s\S]*vicuna_v1.5"):
        template_named("vicuna")


@pytest.mark.parametrize(
    "turns", [[], [Turn("gpt", "x")], [Turn("human", "x"), Turn("human", "y")], [Turn("user", "x")]]
)
def test_turns_out_of_order_are_refused(turns: list[Turn]) -> None:
    with pytest.raises(UserError, match="turn"):
        render(template_named("base"), turns, None, None)


def _trained(pre: Any, decoder: Any, alphabet: list[str]) -> PreTrainedTokenizerFast:
    corpus = [text_of(render(t, TURNS, "", "")) for t in templates().values()] * 3
    plain = Tokenizer(models.BPE(unk_token="<unk>"))
    plain.pre_tokenizer, plain.decoder = pre, decoder
    plain.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=480, special_tokens=["<unk>", *SPECIAL], initial_alphabet=alphabet),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    """Tokens that take the space before a word (GPT-2, Qwen, Phi), and the same with a space of its own in front of
    every text (Llama, Mistral).
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return {
        "bytes": _trained(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(), alphabet),
        "sentencepiece": _trained(
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            decoders.Metaspace(),
            ["▁", *map(chr, range(33, 127))],
        ),
    }


def spoken(tokenizer: Any, dialogue: Dialogue) -> list[str]:
    """What is learnt, as the tokenizer writes it, in one string per stretch."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], dialogue.learnt, [False]]).astype(int)))
    return [tokenizer.decode(dialogue.tokens[a:b]).strip() for a, b in pairwise(edges) if dialogue.learnt[a]]


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
@pytest.mark.parametrize("name", GOLDEN)
def test_ids_are_those_of_the_whole_text_and_answers_are_learnt(tokenizers, kind: str, name: str) -> None:
    tokenizer, template = tokenizers[kind], template_named(name)
    dialogue = encode(tokenizer, template, TURNS)
    assert dialogue.tokens.tolist() == tokenizer(GOLDEN[name], add_special_tokens=False).input_ids
    stop = stop_token(template, "</s>")
    found = [
        text.replace(" " + stop, stop).replace("\n" + stop, stop) for text in spoken(tokenizer, dialogue)
    ]
    assert "".join(found).replace(f"{stop} ", stop) == f"A dog.{stop}Yes{stop}"
    # The prompt of the second question has the ids that training saw in front of its answer.
    prompt = encode(tokenizer, template, TURNS[:3])
    assert not prompt.learnt[len(encode(tokenizer, template, TURNS[:2]).tokens) :].any()
    assert dialogue.tokens[: len(prompt.tokens)].tolist() == prompt.tokens.tolist()
    assert dialogue.learnt[len(prompt.tokens) :].all()


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_cutting_at_the_border_would_give_other_ids(tokenizers, kind: str) -> None:
    tokenizer = tokenizers[kind]

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    whole = encode(tokenizer, template_named("base"), TURNS[:2]).tokens.tolist()
    assert whole == ids("<s>In: What is it?\nOut: A dog.</s>")
    assert whole != ids("<s>In: What is it?\nOut: ") + ids("A dog.</s>")


def test_the_answer_is_predicted_from_the_token_before_it(tokenizers) -> None:
    tokenizer = tokenizers["bytes"]
    dialogue = encode(tokenizer, template_named("base"), TURNS[:2], image="after_bos")
    assert dialogue.image_at == 1
    targets = dialogue.targets(image_tokens=4)
    assert len(targets) == len(dialogue.tokens) + 4
    asked = np.flatnonzero(targets != IGNORED)
    assert tokenizer.decode(targets[asked]).strip() == "A dog.</s>"
    assert len(asked) == dialogue.target_count
    # Place i + 4 of the row holds token i, behind the picture.
    assert all(targets[i] == dialogue.tokens[i - 4 + 1] for i in asked)
    assert tokenizer.decode(dialogue.tokens[: asked[0] - 4 + 1]) == "<s>In: What is it?\nOut:"


def test_a_caption_behind_a_picture_without_bos_is_learnt_from_its_first_word(tokenizers) -> None:
    tokenizer = load_llm("test_qwen2")[1]
    assert tokenizer.bos_token is None
    dialogue = encode(tokenizer, template_named("plain"), TURNS[:2], image="after_bos")
    assert dialogue.image_at == 0
    assert dialogue.learnt.all()
    targets = dialogue.targets(image_tokens=3)
    assert targets[:2].tolist() == [IGNORED, IGNORED]
    assert tokenizer.decode(targets[2:-1]) == "A dog.</s>"
    assert dialogue.target_count == len(dialogue.tokens)
    bare = encode(tokenizer, template_named("plain"), TURNS[:2])
    assert bare.target_count == len(bare.tokens) - 1 == int((bare.targets() != IGNORED).sum())


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_a_picture_stands_at_its_mark(tokenizers, kind: str) -> None:
    tokenizer, template = tokenizers[kind], template_named("vicuna_v1.5")
    turns = [Turn("human", f"Look: {IMAGE_MARK}\nWhat is it?"), *TURNS[1:]]
    dialogue = encode(tokenizer, template, turns, image="mark")
    before, after = (
        GOLDEN["vicuna_v1.5"].replace("What is it?", f"Look: {IMAGE_MARK}\nWhat is it?").split(IMAGE_MARK)
    )
    left, right = (tokenizer(text, add_special_tokens=False).input_ids for text in (before, after))
    assert dialogue.image_at == len(left)
    assert dialogue.tokens.tolist() == left + right
    marked = encode(
        tokenizer, template, [Turn("human", f"{IMAGE_MARK}\nWhat is it?"), *TURNS[1:]], image="after_bos"
    )
    assert marked.tokens.tolist() == encode(tokenizer, template, TURNS).tokens.tolist()
    for text in ("What is it?", f"{IMAGE_MARK} or {IMAGE_MARK}?"):
        with pytest.raises(UserError, match="needs one <image>"):
            encode(tokenizer, template, [Turn("human", text)], image="mark")


def test_letters_of_a_special_token_in_a_turn_are_letters(tokenizers) -> None:
    tokenizer = tokenizers["bytes"]
    turns = [Turn("human", "What does </s> do?"), Turn("gpt", "It ends <s>strikes</s>.")]
    dialogue = encode(tokenizer, template_named("base"), turns)
    assert dialogue.tokens.tolist().count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(dialogue.tokens) == "<s>In: What does </s> do?\nOut: It ends <s>strikes</s>.</s>"


def test_what_is_too_long_is_cut_off_at_the_end(tokenizers) -> None:
    tokenizer, template = tokenizers["bytes"], template_named("base")
    whole = encode(tokenizer, template, TURNS, image="after_bos")
    short = encode(tokenizer, template, TURNS, image="after_bos", max_length=12)
    assert short.tokens.tolist() == whole.tokens[:12].tolist()
    assert short.learnt.tolist() == whole.learnt[:12].tolist()
    assert encode(tokenizer, template, TURNS, max_length=10_000).tokens.tolist() == whole.tokens.tolist()
    marked = [Turn("human", f"What is it? {IMAGE_MARK}"), TURNS[1]]
    with pytest.raises(UserError, match="more than max_length=3"):
        encode(tokenizer, template, marked, image="mark", max_length=3)


def test_a_template_of_another_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"no token <\|im_start\|>, which prompt template 'chatml' needs"):
        encode(load_llm("test_llama")[1], template_named("chatml"), TURNS)
    with pytest.raises(UserError, match="the place of an image is one of"):
        encode(load_llm("test_llama")[1], template_named("base"), TURNS, image="middle")  # type: ignore[arg-type]
