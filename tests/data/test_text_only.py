"""Requests without a picture, their words, and the template of a chat model."""

from __future__ import annotations

from collections import Counter

import pytest

from vlmablate.data.lexicon import DRAWN, load_lexicon
from vlmablate.data.text_only import (
    DIALOGUE_WORDS,
    HARMFUL_ACTS,
    HARMFUL_THINGS,
    OPENINGS,
    REFUSED,
    SAFE_ACTS,
    SAFE_THINGS,
    Request,
    refusal_questions,
    requests,
)
from vlmablate.data.vocabulary import BINS, TASK_WORDS, build_vocabulary
from vlmablate.evaluation.benchmarks import benchmark_named, example_of
from vlmablate.evaluation.protocol import Answer


def pairs(split: str) -> set[str]:
    return {request.pair for request in requests(split)}


def parts(request: Request) -> tuple[str, str]:
    act, _, thing = request.pair.partition("-")
    return act, thing


def test_training_and_evaluation_share_no_request_and_no_pair_of_act_and_thing() -> None:
    assert not pairs("train") & pairs("evaluation")
    assert not {r.text for r in requests("train")} & {r.text for r in requests("evaluation")}
    everything = {
        f"{act}-{thing}" for act in SAFE_ACTS | HARMFUL_ACTS for thing in (*SAFE_THINGS, *HARMFUL_THINGS)
    }
    assert pairs("train") | pairs("evaluation") == everything


def test_training_shows_every_word_that_evaluation_asks_with() -> None:
    shown = {word for request in requests("train") for word in f"{request.text} {request.proper}".split()}
    asked = {word for q in refusal_questions() for word in f"{q.text} {q.answer}".split()}
    assert asked <= shown


@pytest.mark.parametrize("split", ["train", "evaluation"])
def test_a_request_is_refused_exactly_when_its_act_or_its_thing_is_harmful_and_half_are(split: str) -> None:
    refused = 0
    for request in requests(split):
        act, thing = parts(request)
        assert request.text.endswith(f"{act} {thing}")
        harmful = act in HARMFUL_ACTS or thing in HARMFUL_THINGS
        assert (request.proper == REFUSED) == harmful
        assert request.complied == f"use {(SAFE_ACTS | HARMFUL_ACTS)[act]}"
        assert (request.subset == "answer") == (not harmful)
        refused += harmful
    assert refused == len(requests(split)) / 2


def test_neither_the_act_nor_the_thing_alone_tells_what_to_do() -> None:
    for place, innocent in ((0, SAFE_ACTS), (1, SAFE_THINGS)):
        for word in innocent:
            found = {r.proper == REFUSED for r in requests("train") if parts(r)[place] == word}
            assert found == {True, False}, word


def test_the_benchmark_asks_the_held_out_pairs_in_clusters_and_refusing_always_is_worth_half() -> None:
    asked, benchmark = refusal_questions(), benchmark_named("refusal")
    assert asked == refusal_questions()
    assert len({q.example_id for q in asked}) == len(asked) == 240
    assert set(Counter(q.scene for q in asked).values()) == {len(OPENINGS)}
    assert len({q.scene for q in asked}) == 48
    examples = [example_of(question) for question in asked]
    assert benchmark.majority(examples) == 0.5
    assert {len(q.answer.split()) for q in asked} == {benchmark.answer_tokens}
    assert [benchmark.score(e, Answer(e.answers[0]), None).score for e in examples] == [1.0] * len(asked)
    assert {benchmark.score(e, Answer("use hook"), None).score for e in examples} == {0.0}


@pytest.mark.parametrize("source", [DRAWN, "tuxpaint_stamps", "openmoji"])
def test_words_of_requests_join_between_the_old_words_and_the_bins(source: str) -> None:
    lexicon = load_lexicon(source)
    old, new = build_vocabulary(lexicon), build_vocabulary(lexicon, dialogue=True)
    bins = tuple(f"<{index}>" for index in range(BINS))
    assert old.words[-BINS:] == new.words[-BINS:] == bins
    assert new.words[: len(old) - BINS] == old.words[:-BINS]
    assert set(new.words) == set(old.words) | set(DIALOGUE_WORDS)
    assert (old.dialogue, new.dialogue) == (False, True)
    for request in (*requests("train"), *requests("evaluation")):
        for answer in (request.proper, request.complied):
            assert new.decode(new.encode(f"{request.text} {answer}")) == f"{request.text} {answer}"


def test_the_old_vocabulary_is_what_it_was() -> None:
    old = build_vocabulary(load_lexicon(DRAWN))
    assert old.words[:4] == ("<pad>", ".", "yes", "no")
    assert old.words[2 : 2 + len(TASK_WORDS)] == TASK_WORDS
    assert len(old) == 2 + len(TASK_WORDS) + 4 + 5 + 6 + 12 + 4 + BINS


def test_only_a_chat_model_is_asked_in_its_template() -> None:
    lexicon = load_lexicon(DRAWN)
    base, chat = build_vocabulary(lexicon, dialogue=True), build_vocabulary(lexicon, dialogue=True, chat=True)
    text = "is there a reddisc?"
    assert base.prompt(text) == base.encode(text)
    assert chat.decode(chat.prompt(text)) == "<user> is there a reddisc <assistant>"
    assert chat.words == base.words
