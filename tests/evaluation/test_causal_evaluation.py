"""The step `evaluate` of a model around a language model of the registry: prompts, answers, table, stopping."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.training.vision_world import World, work  # noqa: E402
from vlmablate.data.dialogue_text import asked, box_text, read_answer  # noqa: E402
from vlmablate.data.questions import VISIBLE_SHARE, Question  # noqa: E402
from vlmablate.errors import UserError  # noqa: E402
from vlmablate.evaluation import causal  # noqa: E402
from vlmablate.evaluation.benchmarks import benchmark_named, example_of  # noqa: E402
from vlmablate.evaluation.choices import stops  # noqa: E402
from vlmablate.evaluation.protocol import Benchmark, Example  # noqa: E402
from vlmablate.evaluation.scores import COLUMNS, EXAMPLES_FILE  # noqa: E402
from vlmablate.training.causal_model import CausalParts, load_causal  # noqa: E402
from vlmablate.training.causal_steps import sample_of  # noqa: E402
from vlmablate.training.dialogues import encode  # noqa: E402
from vlmablate.vlm.image import Frame  # noqa: E402
from vlmablate.vlm.merge import IGNORED, TEXT, Sample  # noqa: E402
from vlmablate.vlm.prompts import Turn, template_named  # noqa: E402

LLAMA = ("llm=random_llama", "position=rope_1d")
NAMES = "benchmark.names=[open_vqa,existence,counting,spatial,localisation,text_reading,refusal]"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return World(tmp_path_factory.mktemp("causal_evaluation"))


def evaluate(
    world: World, out: Path, *overrides: str, **more: Any
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    payload = work(out=str(out), **world.job(world.plan(*LLAMA, NAMES, *overrides), "evaluate"), **more)
    table = {} if payload.get("stopped") else pq.read_table(out / EXAMPLES_FILE).to_pydict()
    return payload, table


def let_answer(answer: Callable[[Example, Frame | None], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model write that instead; it gets the frame of the picture."""
    known: dict[str, Any] = {}
    texts: dict[int, str] = {}
    look_at, ask = causal.features_for, causal.prompt_of

    def looked(*arguments: Any) -> Any:
        known["seen"] = look_at(*arguments)
        return known["seen"]

    def noted(example: Example, benchmark: Benchmark, parts: CausalParts) -> Sample:
        sample = ask(example, benchmark, parts)
        frames = dict(zip(known["seen"].ids, known["seen"].frames, strict=True))
        texts[id(sample)] = answer(example, frames.get(example.picture))
        known["tokenizer"] = parts.tokenizer
        return sample

    def generated(model: Any, look: Any, groups: Sequence[Sequence[Sample]], *rest: Any, **more: Any) -> Any:
        words = [[texts[id(sample)] for sample in group] for group in groups]
        ids = [
            [known["tokenizer"](text, add_special_tokens=False).input_ids for text in group]
            for group in words
        ]
        assert max(len(tokens) for group in ids for tokens in group) < more["limit"]
        return ids

    monkeypatch.setattr(causal, "features_for", looked)
    monkeypatch.setattr(causal, "prompt_of", noted)
    monkeypatch.setattr(causal, "generate", generated)


def test_a_general_model_is_evaluated_on_the_examples_of_the_small_one(world: World, tmp_path: Path) -> None:
    payload, table = evaluate(world, tmp_path / "general")
    assert tuple(table) == COLUMNS
    names = [name.strip() for name in NAMES.partition("[")[2].rstrip("]").split(",")]
    assert list(payload["benchmarks"]) == names
    assert payload["precision"] == "fp32"
    small = world.plan("llm=small_text", NAMES)
    other = work(out=str(tmp_path / "small"), **world.job(small, "evaluate"))
    reference = pq.read_table(tmp_path / "small" / EXAMPLES_FILE).to_pydict()
    for column in set(COLUMNS) - {"score", "prediction"}:
        assert table[column] == reference[column], column
    for name, summary in payload["benchmarks"].items():
        scores = [s for s, b in zip(table["score"], table["benchmark"], strict=True) if b == name]
        assert summary == {**other["benchmarks"][name], "mean": pytest.approx(sum(scores) / len(scores))}
    progress = (tmp_path / "general" / "progress.json").read_text()
    assert f'"done": {len(set(table["cluster_id"]))}' in progress


def test_the_answers_that_are_taught_score_in_full_and_others_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def right(example: Example, frame: Frame | None) -> str:
        if example.box is None:
            return f" {example.answers[0]}."
        assert frame is not None
        box = frame.visible(example.box, VISIBLE_SHARE)
        assert box is not None
        return f" {box_text(box)}."

    with monkeypatch.context() as patch:
        let_answer(right, patch)
        payload, table = evaluate(world, tmp_path / "right")
    assert [summary["mean"] for summary in payload["benchmarks"].values()] == [1.0] * 7
    assert set(table["score"]) == {1.0}
    with monkeypatch.context() as patch:
        let_answer(lambda example, frame: "[0.00, 0.00, 0.01, 0.01]", patch)
        _, table = evaluate(world, tmp_path / "wrong")
    assert set(table["score"]) == {0.0}


@pytest.mark.parametrize("template", ["base", "vicuna_v1.5", "llama2_chat", "phi2"])
@pytest.mark.parametrize("pictured", [True, False])
def test_a_prompt_is_what_training_shows_in_front_of_an_answer(
    world: World, template: str, pictured: bool
) -> None:
    parts = load_causal(world.done(world.plan(*LLAMA), "finetune"))
    parts = replace(parts, template=template_named(template))
    name = "existence" if pictured else "refusal"
    question = Question("e", "scene-1", name, "positive", "is there a zebra?", "yes")
    prompt = causal.prompt_of(example_of(question), benchmark_named(name), parts)
    turns = [Turn("human", asked(question)), Turn("gpt", question.answer)]
    dialogue = encode(parts.tokenizer, parts.template, turns, image="after_bos" if pictured else "none")
    taught = sample_of(dialogue, ["scene-1"] if pictured else [], parts.tokens)
    length = len(prompt)
    assert prompt.tokens.tolist() == taught.tokens[:length].tolist()
    assert prompt.slots.tolist() == taught.slots[:length].tolist()
    assert prompt.pictures == taught.pictures
    assert int((taught.targets != IGNORED).argmax()) == length - 1
    assert (prompt.slots != TEXT).sum() == (parts.tokens if pictured else 0)
    # Given the taught tokens, the end is found and the answer is read.
    written = taught.tokens[length:].tolist()
    ends = [i for i, token in enumerate(written) if token in stops(parts.tokenizer, parts.template)]
    assert ends[:1] == [len(written) - 1]
    assert read_answer(causal.read(parts, written[:-1])) == "yes"


def test_a_template_without_an_end_is_told(world: World) -> None:
    parts = load_causal(world.done(world.plan(*LLAMA), "finetune"))
    parts.tokenizer.eos_token = None
    with pytest.raises(UserError, match="nothing ends an answer"):
        stops(parts.tokenizer, parts.template)


def test_an_evaluation_stops_when_it_should(world: World, tmp_path: Path) -> None:
    payload, _ = evaluate(world, tmp_path, stop_after=3)
    assert payload["stopped"]
    assert not (tmp_path / EXAMPLES_FILE).exists()


def test_towers_that_were_trained_are_looked_through(world: World, tmp_path: Path) -> None:
    change = ("stages.finetune.vision=full", "stages=single")
    payload, table = evaluate(world, tmp_path, *change)
    assert set(payload["benchmarks"]) == set(table["benchmark"])


def test_a_benchmark_without_questions_is_told_before_any_weights_are_read(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal, "load_causal", None)
    with pytest.raises(UserError, match="benchmark"):
        evaluate(world, tmp_path, "benchmark.names=[pope]")


BEHAVIOUR = "benchmark.names=[existence,captioning,negative_instructions,safety_probes]"


def test_what_goes_beyond_accuracy_is_asked_beside_the_benchmarks_and_changes_none(
    world: World, tmp_path: Path
) -> None:
    payload, table = evaluate(world, tmp_path / "all", BEHAVIOUR)
    metrics = set(zip(table["benchmark"], table["metric"], strict=True))
    for name, summary in payload["benchmarks"].items():
        further = set(summary.get("further", {}))
        assert {metric for benchmark, metric in metrics if benchmark == name} == {summary["metric"], *further}
        assert bool(further) == (name != "existence")
    assert len(set(zip(table["metric"], table["example_id"], strict=True))) == len(table["score"])
    alone, _ = evaluate(world, tmp_path / "alone", "benchmark.names=[existence]")
    assert payload["benchmarks"]["existence"] == alone["benchmarks"]["existence"]


def test_a_small_language_model_is_asked_in_its_own_words_only(world: World, tmp_path: Path) -> None:
    names = "benchmark.names=[captioning,negative_instructions]"
    job = world.job(world.plan("llm=small_text", names), "evaluate")
    payload = work(out=str(tmp_path), **job)
    assert all(summary["n"] > 0 for summary in payload["benchmarks"].values())
    job = world.job(world.plan("llm=small_text", "benchmark.names=[safety_probes]"), "evaluate")
    with pytest.raises(UserError, match="asks in natural language"):
        work(out=str(tmp_path / "natural"), **job)
