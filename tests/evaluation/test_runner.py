"""Benchmarks put to a model: each answer is that of its question alone, and none is given twice, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.evaluation import runner_world as world  # noqa: E402
from tests.training.pairs import Pair  # noqa: E402
from tests.vlm.exports.export_models import logits, model_of, pictures  # noqa: E402
from vlmablate.errors import UserError  # noqa: E402
from vlmablate.evaluation import answers_store, runner  # noqa: E402
from vlmablate.evaluation.answers_store import Given  # noqa: E402
from vlmablate.evaluation.choices import stops  # noqa: E402
from vlmablate.evaluation.protocol import Example  # noqa: E402
from vlmablate.evaluation.runner import Answering, narrow, put_all, shares  # noqa: E402
from vlmablate.training.dialogues import encode  # noqa: E402
from vlmablate.training.precision import computing  # noqa: E402
from vlmablate.vlm.image import letterbox  # noqa: E402
from vlmablate.vlm.merge import IMAGE_MARK, TEXT, expand, place  # noqa: E402
from vlmablate.vlm.prompts import Turn  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("pictures")
    world.draw(made)
    return made


@pytest.fixture(scope="module")
def opened() -> Answering:
    torch.set_num_threads(1)
    return world.answering()


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Given]]:
    """All answers, undisturbed."""
    return world.put(folder, tmp_path_factory.mktemp("whole"))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """The same texts, and probabilities up to the rounding of sums in another order."""
    for name in one:
        for (a_id, a_text, a_shares), (b_id, b_text, b_shares) in zip(one[name], other[name], strict=True):
            if (a_id, a_text, list(a_shares)) != (b_id, b_text, list(b_shares)):
                return False
            if any(abs(a_shares[option] - b_shares[option]) > 1e-5 for option in a_shares):
                return False
    return one.keys() == other.keys()


def stored(out: Path) -> list[str]:
    """The keys of all whole lines."""
    lines = [line for path in sorted(out.glob("part-*")) for line in path.read_bytes().splitlines(True)]
    return [json.loads(line)["key"] for line in lines if line.endswith(b"\n")]


def alone(
    opened: Answering, text: str, picture: Path | None, told: str | None
) -> tuple[list[int], list[float]]:
    """The model's own words behind a prompt, and the logs of the probabilities of each letter of what it is told."""
    turns = [Turn("human", text), *([] if told is None else [Turn("gpt", told)])]
    asked = encode(opened.tokenizer, opened.template, turns[:1], image="after_bos" if picture else "none")
    tokens = asked.tokens.tolist()
    patches = torch.zeros(0, opened.tokens, opened.model.language.width)
    if picture is not None:
        tokens.insert(asked.image_at, IMAGE_MARK)
        square = np.asarray(letterbox(Image.open(picture).convert("RGB"), 56, (122, 116, 104))[0])
        patches = opened.model.projector(opened.see([torch.from_numpy(square.copy())[None, None]]))
    sample = expand(tokens, [False] * len(tokens), [0] if picture else [], opened.tokens)
    ids, slots = sample.tokens.tolist(), sample.slots.tolist()
    whole = encode(opened.tokenizer, opened.template, turns).tokens.tolist()[len(asked.tokens) :]
    logs: list[float] = []
    for place_ in range(len(whole) if told else world.WRITTEN_TOKENS):
        embeddings = place(opened.model.language.embed(torch.tensor([ids])), patches, torch.tensor([slots]))
        scores = opened.model.logits(opened.model.language(embeddings, torch.arange(len(ids))[None])[0, -1])
        token = whole[place_] if told else int(scores.argmax())
        if not told and token in stops(opened.tokenizer, opened.template):
            break
        logs.append(float(torch.log_softmax(scores, -1)[token]))
        ids, slots = [*ids, token], [*slots, TEXT]
    return ids[len(sample) :], logs


def test_every_answer_is_that_of_its_question_alone(
    folder: Path, opened: Answering, whole: dict[str, list[Given]]
) -> None:
    with torch.inference_mode():
        for benchmark, examples in world.benchmarks():
            for example, given in zip(examples, whole[benchmark.name], strict=True):
                assert given.example_id == example.example_id
                picture = None if example.picture is None else folder / example.picture
                text = benchmark.prompt(example)
                if benchmark.name != "compared":
                    tokens, _ = alone(opened, text, picture, None)
                    assert (
                        given.answer.text == opened.tokenizer.decode(tokens, skip_special_tokens=True).strip()
                    )
                    assert not given.answer.probabilities
                    continue
                # Bytes: a space that both begin with, then the letter that tells them apart.
                logs = {option: alone(opened, text, picture, option)[1][1] for option in ("Yes", "No")}
                expected = 1 / (1 + np.exp(logs["No"] - logs["Yes"]))
                assert list(given.answer.probabilities) == ["Yes", "No"]
                assert given.answer.probabilities["Yes"] == pytest.approx(expected, abs=1e-5)
    assert len({given.answer.text for given in whole["written"]}) > 3
    assert np.ptp([given.answer.probabilities["Yes"] for given in whole["compared"]]) > 1e-3


def test_the_frame_is_that_of_the_picture_as_it_was_seen(folder: Path, whole: dict[str, list[Given]]) -> None:
    for benchmark, examples in world.benchmarks():
        for example, given in zip(examples, whole[benchmark.name], strict=True):
            if example.picture is None:
                assert given.frame is None
                continue
            assert given.frame == letterbox(Image.open(folder / example.picture), 56, (0, 0, 0))[1]


def counting(opened: Answering, looks: list[tuple[int, int]]) -> Any:
    """The same, noting the size of each picture that is made square."""
    from dataclasses import replace

    def squares(picture: Image.Image) -> Any:
        looks.append(picture.size)
        return opened.squares(picture)

    return world.checkpoint(lambda: replace(opened, squares=squares))


def test_a_picture_is_looked_at_once_by_all_benchmarks_also_through_links(
    folder: Path, opened: Answering, tmp_path: Path
) -> None:
    looks: list[tuple[int, int]] = []
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "seen").symlink_to(folder / "seen")
    asked = world.asking(folder)
    linked = [asked[0], *(type(one)(one.benchmark, one.examples, tmp_path / "linked") for one in asked[1:])]
    put_all(counting(opened, looks), linked, tmp_path / "out", threads=2)
    assert len(looks) == len(set(looks)) == world.PICTURES


def test_what_is_answered_is_not_asked_again_and_no_model_is_opened_for_it(
    folder: Path, tmp_path: Path, whole: dict[str, list[Given]]
) -> None:
    world.put(folder, tmp_path)

    def never() -> Answering:
        raise AssertionError

    again = world.put(folder, tmp_path, checkpoint=world.checkpoint(never))
    assert world.plain(again) == world.plain(whole)
    assert [given.frame for given in again["written"]] == [given.frame for given in whole["written"]]
    with pytest.raises(AssertionError):
        world.put(folder, tmp_path, checkpoint=world.checkpoint(never), precision="bf16")


@pytest.mark.parametrize("stop_after", [1, 9, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 14))])
def test_an_evaluation_that_was_stopped_goes_on(
    folder: Path, tmp_path: Path, whole: dict[str, list[Given]], opened: Answering, stop_after: int
) -> None:
    with pytest.raises(world.Stopped):
        world.put(folder, tmp_path, stop_after=stop_after)
    before = stored(tmp_path)
    looks: list[tuple[int, int]] = []
    assert same(
        world.plain(world.put(folder, tmp_path, checkpoint=counting(opened, looks))), world.plain(whole)
    )
    after = stored(tmp_path)
    assert after[: len(before)] == before
    assert max(Counter(after).values()) == 1
    assert len(after) == sum(map(len, whole.values()))
    assert (len(before) > 0) == (len(looks) < world.PICTURES) == (stop_after > 1)


KILLS = ("before", "within a line", "between lines", "after")


def killed_while_writing(folder: Path, out: Path, opened: Answering, where: str, nth: int) -> None:
    """An evaluation in a process of its own that is killed in its nth write."""
    child = os.fork()
    if child:
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        return
    writes = 0
    write = os.write

    def deadly(descriptor: int, data: Any) -> int:
        nonlocal writes
        writes += 1
        if writes < nth:
            return write(descriptor, data)
        text = bytes(data)
        first = text.index(b"\n") + 1
        keep = {"before": 0, "within a line": first + 20, "between lines": first, "after": len(text)}[where]
        write(descriptor, text[:keep])
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    try:
        answers_store.os.write = deadly  # type: ignore[assignment]
        world.put(folder, out, checkpoint=world.checkpoint(lambda: opened))
    finally:
        os._exit(1)


@pytest.mark.parametrize(
    "where", [KILLS[1], *(pytest.param(where, marks=pytest.mark.slow) for where in (KILLS[0], *KILLS[2:]))]
)
def test_an_evaluation_that_was_killed_in_a_write_goes_on(
    folder: Path, tmp_path: Path, whole: dict[str, list[Given]], opened: Answering, where: str
) -> None:
    for nth in (2, 1, 2):  # three times in a row
        killed_while_writing(folder, tmp_path, opened, where, nth)
        assert max(Counter(stored(tmp_path)).values(), default=1) == 1
    before = len(stored(tmp_path))
    found = world.put(folder, tmp_path, checkpoint=world.checkpoint(lambda: opened))
    assert same(world.plain(found), world.plain(whole))
    assert max(Counter(stored(tmp_path)).values()) == 1
    assert before < len(stored(tmp_path)) == sum(map(len, whole.values()))


def test_an_evaluation_that_still_writes_is_told(folder: Path, tmp_path: Path) -> None:
    told = pytest.raises(UserError, match="another evaluation writes")
    with answers_store.attempt(tmp_path) as number, told:
        world.put(folder, tmp_path)
    with answers_store.part(tmp_path, number, 1), told:  # a rank that survived its leader
        world.put(folder, tmp_path)
    world.put(folder, tmp_path)


@pytest.mark.parametrize("damage", ["missing", pytest.param("torn", marks=pytest.mark.slow)])
def test_a_picture_that_cannot_be_used_is_named(tmp_path: Path, damage: str) -> None:
    world.draw(tmp_path)
    bad = tmp_path / "seen" / "3.png"
    torn = bad.read_bytes()[:900]
    bad.unlink()
    if damage == "torn":
        bad.write_bytes(torn)
    with pytest.raises(UserError, match=r"seen/3\.png"):
        world.put(tmp_path, tmp_path / "out")
    world.draw(tmp_path)
    world.put(tmp_path, tmp_path / "out")


def test_what_does_not_fit_together_is_asked_in_parts(
    folder: Path, tmp_path: Path, whole: dict[str, list[Given]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, rows = runner.answer, []

    def small(model: Any, look: Any, trees: Any, *more: Any) -> Any:
        rows.append(len(trees))
        if len(trees) > fits:
            raise torch.OutOfMemoryError
        return answer(model, look, trees, *more)

    monkeypatch.setattr(runner, "answer", small)
    fits = 2
    found = world.put(folder, tmp_path, cells_at_once=10_000)
    assert same(world.plain(found), world.plain(whole))
    assert max(rows) > 4
    fits = 0
    with pytest.raises(torch.OutOfMemoryError):
        world.put(folder, tmp_path / "none")


def test_progress_tells_of_every_batch(folder: Path, tmp_path: Path, whole: dict[str, list[Given]]) -> None:
    told: list[tuple[int, int]] = []
    world.put(folder, tmp_path, progress=lambda done, total: told.append((done, total)))
    assert len(told) > 2
    assert told == sorted(set(told))
    assert told[-1] == (sum(map(len, whole.values())),) * 2


@pytest.mark.parametrize("llm", ["test_llama", "test_qwen2"])  # words and head apart, and tied
def test_weights_in_the_format_of_the_products_change_no_bit(llm: str) -> None:
    found = []
    for narrowed in (False, True):
        model = model_of("test_clip", llm=llm)
        if narrowed:
            narrow(model, "bf16")
            formats = {parameter.dtype for parameter in model.parameters()}
            assert formats == {torch.float32, torch.bfloat16}
        with computing("bf16", torch.device("cpu")), torch.inference_mode():
            found.append(logits(model, pictures(model.vision), [1], [*b"What?"]))
    assert torch.equal(*found)
    whole = model_of("test_clip", llm=llm)
    narrow(whole, "fp32")
    assert {parameter.dtype for parameter in whole.parameters()} == {torch.float32}


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_shares_hold_every_group_once_and_are_even(ranks: int) -> None:
    lengths = np.random.default_rng(0).integers(600, 2400, 200).tolist()
    found = shares(lengths, ranks)
    assert sorted(number for share in found for number in share) == list(range(200))
    totals = [sum(lengths[number] for number in share) for share in found]
    assert max(totals) - min(totals) <= max(lengths)
    assert max(totals) < 1.02 * sum(lengths) / ranks
    assert found == shares(lengths, ranks)
    assert shares([], ranks) == [[] for _ in range(ranks)]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    found = Pair("tests.evaluation.runner_world")
    yield found
    found.close()


@pytest.mark.slow
def test_two_ranks_answer_as_one_does(
    pair: Pair, folder: Path, tmp_path: Path, whole: dict[str, list[Given]]
) -> None:
    first, second = pair.run(tmp_path, folder=str(folder))
    assert same(first["given"], world.plain(whole))
    assert second["given"] == {}
    parts = sorted(tmp_path.glob("part-*"))
    assert len(parts) == 2
    assert all(path.read_bytes().count(b"\n") >= 8 for path in parts)
    assert max(Counter(stored(tmp_path)).values()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("before", [1, 2])
def test_another_number_of_ranks_goes_on(
    pair: Pair, folder: Path, tmp_path: Path, whole: dict[str, list[Given]], before: int
) -> None:
    if before == 2:
        assert [answer["stopped"] for answer in pair.run(tmp_path, folder=str(folder), stop_after=5)] == [
            True
        ] * 2
        kept = len(stored(tmp_path))
        found = world.plain(world.put(folder, tmp_path))
    else:
        with pytest.raises(world.Stopped):
            world.put(folder, tmp_path, stop_after=5)
        kept = len(stored(tmp_path))
        found = pair.run(tmp_path, folder=str(folder))[0]["given"]
    assert same(found, world.plain(whole))
    assert 0 < kept < len(stored(tmp_path)) == sum(map(len, whole.values()))
    assert max(Counter(stored(tmp_path)).values()) == 1


def test_a_question_without_a_picture_is_alone(whole: dict[str, list[Given]]) -> None:
    example: Example = world.benchmarks()[2][1][0]
    assert example.picture is None
    assert whole["blind"][0].frame is None
