"""Figures of all examples of a benchmark, by name and split: ``auroc/random``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vlmablate.evaluation.protocol import Answer, Example, Verdict
from vlmablate.evaluation.scorers import (
    auroc,
    auroc_one_vs_one,
    average_precision,
    macro_average_precision,
)

ALL = "all"
Summary = Callable[[Sequence[Example], Sequence[Answer], Sequence[Verdict]], Mapping[str, float]]


def places_by_split(examples: Sequence[Example]) -> dict[str, list[int]]:
    """Split -> places of its examples, splits in the order of their first."""
    places: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        places.setdefault(example.split, []).append(place)
    return places


def split_means(name: str) -> Summary:
    """The mean score of each split, as ``name/split``."""

    def summary(
        examples: Sequence[Example], answers: Sequence[Answer], verdicts: Sequence[Verdict]
    ) -> dict[str, float]:
        return means(name, examples, verdicts)

    return summary


def means(name: str, examples: Sequence[Example], verdicts: Sequence[Verdict]) -> dict[str, float]:
    """The mean score of each split, as ``name/split``."""
    return {
        f"{name}/{split}": sum(verdicts[place].score for place in places) / len(places)
        for split, places in places_by_split(examples).items()
    }


def ranking(right: Sequence[bool], scores: Sequence[float], split: str) -> dict[str, float]:
    """Area under the ROC curve, and average precision, of scores that should be high where it is right.

    A figure is left out where it is not defined, because all are right, or none.
    """
    return _defined({"auroc": auroc(right, scores), "aupr": average_precision(right, scores)}, split)


def class_ranking(labels: Sequence[int], scores: np.ndarray, split: str) -> dict[str, float]:
    """The same of several classes: pairs of classes, and each class against all others.

    labels: the number of the right class of each example. scores [n, classes].
    """
    figures = {"auroc": auroc_one_vs_one(labels, scores), "aupr": macro_average_precision(labels, scores)}
    return _defined(figures, split)


def _defined(figures: Mapping[str, float | None], split: str) -> dict[str, float]:
    return {f"{name}/{split}": value for name, value in figures.items() if value is not None}
