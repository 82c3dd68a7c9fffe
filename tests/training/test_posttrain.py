"""What follows the pretraining of the small language model: more text, or dialogues, at toy size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.vision_world import World, work
from vlmablate.data.text_only import ASSISTANT, REFUSED, USER
from vlmablate.errors import UserError
from vlmablate.training import text_steps
from vlmablate.training.steps import MODEL_FILE, load_language_model, read_card, vocabulary_of
from vlmablate.training.text_world import TextExample

SIZES = ("sizes.posttrain_scenes=24", "sizes.posttrain_steps=8")
LLMS = {"plain": "small_longer", "dialogue": "small_chat"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return World(tmp_path_factory.mktemp("world"))


def job(world: World, text: str, **settings: Any) -> dict[str, Any]:
    found = world.job(world.plan(f"llm={LLMS[text]}", *SIZES), "posttrain")
    return {**found, "config": {**found["config"], "posttrain": {**found["config"]["posttrain"], **settings}}}


@pytest.fixture(scope="module")
def done(world: World) -> dict[str, Path]:
    return {text: world.done(world.plan(f"llm={llm}", *SIZES), "posttrain") for text, llm in LLMS.items()}


@pytest.fixture
def rows(
    world: World, done: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[list[TextExample], dict[str, Any]]]:
    """Text -> the rows that it would be trained on, and the card."""
    found: dict[str, tuple[list[TextExample], dict[str, Any]]] = {}

    def noting(model: Any, card: dict[str, Any], examples: list[TextExample], *more: Any) -> dict[str, Any]:
        found["last"] = (examples, card)
        return {}

    monkeypatch.setattr(text_steps, "_train", noting)
    for text in LLMS:
        work(out=str(tmp_path / text), **job(world, text))
        found[text] = found.pop("last")
    return found


@pytest.mark.parametrize("text", LLMS)
def test_it_goes_on_from_the_pretrained_model_and_says_what_it_became(
    world: World, tmp_path: Path, done: dict[str, Path], text: str
) -> None:
    before = load_file(Path(job(world, text)["deps"]["language"]) / MODEL_FILE)
    payload = work(out=str(tmp_path), **job(world, text, steps=60))
    after = load_file(tmp_path / MODEL_FILE)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert payload["steps"] == len(payload["losses"]) == 60
    assert np.mean(payload["losses"][-10:]) < np.mean(payload["losses"][:10])
    model, card = load_language_model(tmp_path)
    assert (card["dialogue"], card["chat"]) == (True, text == "dialogue")
    assert card["vocabulary"] == len(model.words.weight)


def test_both_texts_start_from_one_pretrained_model_and_end_apart(
    world: World, done: dict[str, Path]
) -> None:
    assert job(world, "plain")["deps"] == job(world, "dialogue")["deps"]
    plain, chat = (load_file(folder / MODEL_FILE) for folder in done.values())
    assert any(not torch.equal(plain[name], chat[name]) for name in plain)


@pytest.mark.parametrize("text", LLMS)
def test_it_is_deterministic_and_goes_on_with_the_same_bits(
    world: World, tmp_path: Path, done: dict[str, Path], text: str
) -> None:
    whole = load_file(done[text] / MODEL_FILE)
    for name, stops in (("again", []), ("cut", [3, 2])):
        for after in stops:
            assert work(out=str(tmp_path / name), stop_after=after, **job(world, text)).get("stopped")
        payload = work(out=str(tmp_path / name), **job(world, text))
        assert payload["resumed_from_step"] == sum(stops)
        state = load_file(tmp_path / name / MODEL_FILE)
        assert all(torch.equal(whole[key], state[key]) for key in whole), name


def test_another_seed_draws_other_scenes(world: World, tmp_path: Path, done: dict[str, Path]) -> None:
    work(out=str(tmp_path), **job(world, "plain", seed=2))
    whole, other = load_file(done["plain"] / MODEL_FILE), load_file(tmp_path / MODEL_FILE)
    assert any(not torch.equal(whole[key], other[key]) for key in whole)


def test_both_texts_are_behind_the_same_scenes_in_the_same_order(rows: Any) -> None:
    (plain, _), (chat, _) = rows["plain"], rows["dialogue"]
    assert len(plain) == len(chat) > 24
    for one, other in zip(plain, chat, strict=True):
        assert np.array_equal(one.words, other.words)
        assert np.array_equal(one.weights, other.weights)
        assert one.pictured == other.pictured
        assert len(one.segments) == len(other.segments)
    assert sum(not row.pictured for row in plain) == round(24 * 0.2 / 0.8)


def test_its_scenes_are_not_those_of_pretraining(
    world: World, tmp_path: Path, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TextExample] = []

    def noting(model: Any, card: Any, examples: list[TextExample], *more: Any) -> dict[str, Any]:
        seen.extend(examples)
        return {}

    monkeypatch.setattr(text_steps, "_train", noting)
    work(out=str(tmp_path), **world.job(world.plan("llm=small_longer", *SIZES), "pretrain"))
    tables = {row.weights.tobytes() for row in seen if row.pictured and row.weights[:, :-1].any()}
    again = [row for row in rows["plain"][0] if row.pictured and row.weights.tobytes() in tables]
    assert tables
    assert not again


def test_a_chat_model_reads_its_template_and_refuses_what_is_harmful(world: World, rows: Any) -> None:
    scenes = Path(job(world, "plain")["deps"]["scenes"])
    said: dict[str, list[tuple[list[str], list[str]]]] = {}
    for text, (examples, card) in rows.items():
        words = {number: word for word, number in vocabulary_of(scenes, card).ids.items()}
        said[text] = [
            ([words[i] for i in segment.prompt], [words[i] for i in segment.answer])
            for example in examples
            for segment in example.segments
            if not example.pictured
        ]
    plain, chat = said["plain"], said["dialogue"]
    assert not any(USER in prompt or ASSISTANT in prompt for prompt, _ in plain)
    assert all(prompt[0] == USER and prompt[-1] == ASSISTANT for prompt, _ in chat)
    assert {prompt.count(USER) for prompt, _ in chat} == {1, 2}
    refused = REFUSED.split()
    assert not any(answer[: len(refused)] == refused for _, answer in plain)
    harmful = {"steal", "burn", "smash", "forge", "bomb", "grenade", "rifle", "landmine"}
    for prompt, answer in chat:
        last = prompt[len(prompt) - prompt[::-1].index(USER) :]
        assert (answer[: len(refused)] == refused) == bool(harmful & set(last)), (prompt, answer)


def test_every_other_question_about_a_scene_follows_an_earlier_turn(world: World, rows: Any) -> None:
    examples, card = rows["dialogue"]
    user = vocabulary_of(Path(job(world, "plain")["deps"]["scenes"]), card).ids[USER]
    turns = [segment.prompt.count(user) for row in examples if row.pictured for segment in row.segments]
    assert set(turns) == {1, 2}
    assert 0.35 < np.mean(np.array(turns) == 2) < 0.55  # half, less where two have no room or are the same
    longest = max(len(s.prompt) + len(s.answer) - 1 for row in examples for s in row.segments)
    assert longest <= card["segment"]


def test_a_model_without_the_words_of_dialogues_is_refused(world: World, tmp_path: Path) -> None:
    deaf = world.done(world.plan("llm=small_causal"), "pretrain")
    assert not read_card(deaf).get("dialogue")
    told = job(world, "dialogue")
    with pytest.raises(UserError, match=r"llm.pretrain.text_only above 0"):
        work(out=str(tmp_path), **{**told, "deps": {**told["deps"], "language": str(deaf)}})


def test_another_kind_of_text_is_refused(world: World, tmp_path: Path) -> None:
    refused = job(world, "dialogue")
    refused["config"]["posttrain"]["text"] = "dialog"
    with pytest.raises(UserError, match="did you mean 'dialogue'"):
        work(out=str(tmp_path), **refused)
