"""Mixes of sources: how much of each, in which order, and which record a visit shows."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.data.record_folders import SHAREGPT, chat, write  # noqa: E402
from vlmablate.data.published import mix_size  # noqa: E402
from vlmablate.data.records.mix import Mix, pass_order  # noqa: E402
from vlmablate.data.records.source import Source  # noqa: E402
from vlmablate.design.shares import WHOLE, read_mix, visits  # noqa: E402
from vlmablate.errors import UserError  # noqa: E402
from vlmablate.training.balance import DataOrder  # noqa: E402

NAMES = ("llava_pretrain_558k", "llava_v15_mix665k", "lvis_instruct_4v", "lrv_instruct", "sharegpt")
FILES = (
    "chat.json",
    "llava_v1_5_mix665k.json",
    "lvis_instruct4v_220k.json",
    "filter_cap1.json",
    "sharegpt.json",
)
SIZES = (40, 70, 30, 25, 15)
BATCH = 16


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMABLATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    """Five sources; of the second every seventh record has no picture, of the last no record has."""
    for name, file, size in zip(NAMES, FILES, SIZES, strict=True):
        if name == "lrv_instruct":
            rows = [{"image_id": str(i), "question": "q", "answer": "a"} for i in range(size)]
        else:
            bare = {"llava_v15_mix665k": range(0, size, 7), "sharegpt": range(size)}.get(name, ())
            rows = [chat(i, None if i in bare else "p.jpg", "q", f"{name} {i}") for i in range(size)]
        write(tmp_path / name / file, rows)
    return [Source(name, tmp_path / name) for name in NAMES]


def order_of(mix: Mix, epochs: float = 1, seed: int = 3) -> list[list[tuple[int, int]]]:
    """The records of every step, each asked of a step alone."""
    order = DataOrder(mix.count, BATCH, epochs, seed)
    found = []
    for step in range(order.steps):
        slots = order.at(step)
        found.append(mix.locate(slots, (step * BATCH + np.arange(len(slots))) // mix.count))
    return found


def whole(names: tuple[str, ...] = NAMES) -> dict[str, dict[str, float]]:
    return {name: dict(WHOLE) for name in names}


def flat(steps: list[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    return [row for step in steps for row in step]


def test_a_concatenation_shows_every_record_once_an_epoch(sources: list[Source]) -> None:
    mix = Mix(sources, whole(), seed=3)
    assert mix.count == sum(SIZES)
    rows = flat(order_of(mix, 2))
    assert Counter(rows) == {(s, n): 2 for s, source in enumerate(mix.sources) for n in range(len(source))}
    assert len(set(rows[: mix.count])) == mix.count


def test_the_order_of_five_sources_is_the_same_after_a_restart_and_shuffled(sources: list[Source]) -> None:
    shares = {**whole(), "lrv_instruct": {"count": 60}, "sharegpt": {"epochs": 1.5}}
    forwards = order_of(Mix(sources, shares, seed=3), 1.5)
    pass_order.cache_clear()
    mix = Mix(sources[::-1], dict(reversed(shares.items())), seed=3)
    order = DataOrder(mix.count, BATCH, 1.5, 3)
    for step in reversed(range(order.steps)):
        slots = order.at(step)
        assert mix.locate(slots, (step * BATCH + np.arange(len(slots))) // mix.count) == forwards[step]
    assert forwards != order_of(Mix(sources, shares, seed=4), 1.5, seed=4)
    first = [source for source, _ in forwards[0]]
    assert len(set(first)) > 2, "sources are blended, not one behind the other"


def test_another_source_does_not_change_the_order_of_a_source(sources: list[Source]) -> None:
    alone = Mix(sources[:1], whole(NAMES[:1]), seed=3)
    both = Mix(sources[:2], whole(NAMES[:2]), seed=3)
    slots, epochs = np.arange(40), np.zeros(40, np.int64)
    assert alone.locate(slots, epochs) == both.locate(slots, epochs)


def test_part_of_a_source_goes_on_where_the_last_epoch_ended(sources: list[Source]) -> None:
    mix = Mix(sources[:1], {NAMES[0]: {"epochs": 0.5}}, seed=3)
    rows = flat(order_of(mix, 2))
    assert mix.count == 20
    assert sorted(rows) == [(0, number) for number in range(40)]
    more = Mix(sources[:1], {NAMES[0]: {"count": 100}}, seed=3)
    assert set(Counter(flat(order_of(more))).values()) == {2, 3}


def test_weights_deal_the_records_that_there_are() -> None:
    sizes = {"a": 600, "b": 300, "c": 100}
    assert visits({"a": {"weight": 1}, "b": {"weight": 1}, "c": {"weight": 2}}, sizes) == {
        "a": 250,
        "b": 250,
        "c": 500,
    }
    assert visits({"a": {"weight": 0.1}, "b": {"weight": 0.2}, "c": WHOLE}, sizes) == {
        "a": 300,
        "b": 600,
        "c": 100,
    }
    uneven = visits({"a": {"weight": 1}, "b": {"weight": 1}, "c": {"weight": 1}}, sizes)
    assert sum(uneven.values()) == 1000
    assert uneven == {"a": 334, "b": 333, "c": 333}
    assert visits({"a": {"weight": 5}, "b": {"weight": 1}}, {"a": 0, "b": 7}) == {"a": 0, "b": 7}
    with pytest.raises(UserError, match="a has no record"):
        visits({"a": {"count": 1}}, {"a": 0})


def test_without_language_only_data_every_record_has_a_picture(sources: list[Source]) -> None:
    mix = Mix(sources, whole(), language_only=False, seed=3)
    rows = flat(order_of(mix))
    assert all(mix.record(*row).picture for row in rows)
    assert len(rows) == sum(int(source.pictured.sum()) for source in sources) == 40 + 60 + 30 + 25
    assert mix.left_out() == {**dict.fromkeys(NAMES, 0), "llava_v15_mix665k": 10, "sharegpt": 15}
    with pytest.raises(UserError, match="shows no record at all"):
        Mix(sources[4:], whole(NAMES[4:]), language_only=False, seed=3)


def test_dialogues_without_an_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "sharegpt.json", SHAREGPT)
    mix = Mix([Source("sharegpt", tmp_path)], whole(("sharegpt",)), seed=0)
    assert sorted(mix.locate(np.arange(2), np.zeros(2, np.int64))) == [(0, 0), (0, 2)]
    assert mix.left_out() == {"sharegpt": 1}


def test_rows_by_source_are_those_of_the_order(sources: list[Source]) -> None:
    mix = Mix(sources, {**whole(), "sharegpt": {"count": 100}}, seed=3)
    order = DataOrder(mix.count, BATCH, 0.5, 3)
    slots = np.concatenate([order.at(step) for step in range(order.steps)])
    counted = Counter(mix.sources[source].name for source, _ in flat(order_of(mix, 0.5)))
    assert mix.rows(slots) == {name: counted[name] for name in mix.rows(slots)}


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ("lrv_instruct", "is a list of sources"),
        ([], "is a list of sources"),
        ([{"weight": 1}], "a source is a name"),
        ([{"name": "a", "wieght": 1}], "did you mean 'weight'"),
        ([{"name": "a", "weight": 1, "count": 2}], "has weight and count, and takes one"),
        ([{"name": "a", "count": 1.5}], "count of a is a whole number above 0, not 1.5"),
        ([{"name": "a", "epochs": 0}], "epochs of a is a number above 0, not 0"),
        ([{"name": "a", "weight": True}], "weight of a is a number above 0, not True"),
        (["a", {"name": "a"}], "names a twice"),
    ],
)
def test_a_mix_that_is_none_is_told(declared: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_mix(declared)


def test_the_size_of_published_mixes() -> None:
    assert mix_size(["llava_v15_mix665k"]) == (624610, 40688)
    assert mix_size(["llava_v15_mix665k", "lrv_instruct"], language_only=False) == (967409, 0)
    assert mix_size([{"name": "llava_v15_mix665k", "epochs": 2}]) == (1249220, 81376)
    assert sum(mix_size([{"name": "llava_v15_mix665k", "count": 1000}])) == 1000
    with pytest.raises(UserError, match="data source"):
        mix_size(["nothing"])
