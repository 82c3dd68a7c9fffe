"""Which rows a stage visits: the old ones without a mixture, and exactly what a mixture adds."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from vlmablate.data.mixtures import Mixture
from vlmablate.training.packing import Segment
from vlmablate.training.visits import Visits, order_of, picked

# Picture p has p % 5 questions, so every fifth has none; the first word of a prompt says where a segment comes from.
BASE = [[Segment((0, picture, i), (1,)) for i in range(picture % 5)] for picture in range(23)]
SOURCES = {
    name: [[Segment((number, picture, i), (1,)) for i in range(1 + picture % 4)] for picture in range(23)]
    for number, name in ((1, "detailed"), (2, "negative"))
}
REQUESTS = [Segment((9, i), (2,)) for i in range(11)]


def visits(mixture: Mixture | None = None, **changes: Any) -> Visits:
    settings: dict[str, Any] = {"epochs": 3.0, "batch": 4, "questions": 3, "seed": 5}
    return Visits(BASE, SOURCES, REQUESTS, mixture or Mixture(), **{**settings, **changes})


def of_source(segments: list[Segment], number: int) -> list[Segment]:
    return [segment for segment in segments if segment.prompt[0] == number]


def whole(stage: Visits) -> list[tuple[int, bool, list[Segment]]]:
    rows = []
    for step in range(stage.steps):
        visit = stage.at(step)
        assert (visit.pictures == stage.pictures_at(step)).all()
        rows += list(zip(visit.pictures.tolist(), visit.pictured.tolist(), visit.segments, strict=True))
    return rows


def test_without_a_mixture_the_rows_are_those_of_old_runs() -> None:
    """Written out as it was before there were mixtures: results on disks were made so."""
    asked = np.flatnonzero([len(row) > 0 for row in BASE])
    steps = max(1, round(3.0 * len(asked) / 4))
    epochs = [np.random.default_rng([5, 12, epoch]).permutation(len(asked)) for epoch in range(4)]
    order = asked[np.concatenate(epochs)[: steps * 4]]
    stage = visits()
    assert stage.steps == steps
    for step in range(steps):
        chosen, rng = order[step * 4 : (step + 1) * 4], np.random.default_rng([5, 13, step])
        expected = [[BASE[p][i] for i in rng.permutation(len(BASE[p]))[:3]] for p in chosen]
        visit = stage.at(step)
        assert visit.pictures.tolist() == chosen.tolist()
        assert visit.segments == expected
        assert visit.pictured.all()
    assert list(stage.counts()) == ["base"]


def test_added_questions_come_on_top_in_exact_numbers() -> None:
    plain, mixed = whole(visits()), whole(visits(Mixture({"detailed": 2, "negative": 5})))
    assert len(plain) == len(mixed)
    for (picture, _, before), (same, _, after) in zip(plain, mixed, strict=True):
        assert picture == same
        assert of_source(after, 0) == before
        assert (len(of_source(after, 1)), len(of_source(after, 2))) == (2, 5)
        assert {segment.prompt[1] for segment in after} == {picture}
        repeats = Counter(of_source(after, 2)).values()
        assert max(repeats) - min(repeats) <= 1  # a small pool is gone through evenly


def test_rows_without_a_picture_come_between_the_same_pictures() -> None:
    share = Fraction(1, 5)
    stage = visits(Mixture({"detailed": 1}, share))
    assert stage.steps == round(Fraction(3 * 18) / (1 - share) / 4)
    rows, plain = whole(stage), whole(visits())
    flags = np.array([not pictured for _, pictured, _ in rows])
    assert [int(flags[:n].sum()) for n in range(len(flags))] == [n // 5 for n in range(len(flags))]
    assert [picture for picture, pictured, _ in rows if pictured][: len(plain)] == [p for p, _, _ in plain][
        : sum(~flags)
    ]
    text = [segments for _, pictured, segments in rows if not pictured]
    assert all(len(segments) == 3 and len(of_source(segments, 9)) == 3 for segments in text)
    assert all(not of_source(segments, 9) for _, pictured, segments in rows if pictured)
    told = Counter(segment for segments in text for segment in segments)
    assert max(told.values()) - min(told[request] for request in REQUESTS) <= 1


def test_the_counts_are_what_was_shown() -> None:
    stage = visits(Mixture({"negative": 2}, Fraction("0.3")))
    rows = whole(stage)
    shown = Counter(segment.prompt[0] for _, _, segments in rows for segment in segments)
    pictured = sum(seen for _, seen, _ in rows)
    assert stage.counts() == {
        "base": {"rows": pictured, "questions": shown[0]},
        "negative": {"rows": pictured, "questions": shown[2]},
        "text_only": {"rows": len(rows) - pictured, "questions": shown[9]},
    }


def test_a_step_needs_no_earlier_one_and_the_seed_decides() -> None:
    mixture = Mixture({"detailed": 2, "negative": 1}, Fraction("0.3"))
    forward, stage = whole(visits(mixture)), visits(mixture)
    backward = [stage.at(step) for step in reversed(range(stage.steps))][::-1]
    assert [row for visit in backward for row in visit.segments] == [segments for _, _, segments in forward]
    assert whole(visits(mixture, seed=6)) != forward


def test_a_picture_without_a_question_of_a_source_is_an_error_and_no_short_row() -> None:
    stage = Visits(
        BASE,
        {"detailed": [[] for _ in BASE]},
        [],
        Mixture({"detailed": 1}),
        epochs=1.0,
        batch=4,
        questions=2,
        seed=0,
    )
    with pytest.raises(ValueError, match="no question about one of the pictures"):
        stage.at(0)


def test_nothing_needed_is_no_order() -> None:
    assert order_of(3, 0, 0).tolist() == []
    assert picked([], 3, 0, 0) == []
