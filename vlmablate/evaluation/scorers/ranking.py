"""How well scores rank: areas under the ROC and the precision-recall curve, with ties, in numpy.

The figures are those of scikit-learn. A figure that is undefined, for want of a class, is None: it is left out of a
summary rather than shown as a number.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmablate.errors import DataError


def auroc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """The probability that a positive example scores above a negative one, ties counting one half (Mann-Whitney U).

    labels [n]: true or 1 for positive. scores [n]. None unless both classes are there.

    Raises DataError for lengths that differ, and scores that are not finite.
    """
    positive, score = _binary(labels, scores)
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return None
    _, tied, counts = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = last - (counts - 1) / 2
    u = mean_rank[tied][positive].sum() - n_positive * (n_positive + 1) / 2
    return float(u / (n_positive * n_negative))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """AP = sum over thresholds of (recall_k - recall_(k-1)) precision_k, from the highest score down; examples of equal
    score pass a threshold together, and nothing is interpolated.

    labels [n]: true or 1 for positive. scores [n]. None where no example is positive (scikit-learn says 0).

    Raises DataError for lengths that differ, and scores that are not finite.
    """
    positive, score = _binary(labels, scores)
    if not positive.any():
        return None
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    ends = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    found = np.cumsum(positive[order])[ends]
    precision = found / (ends + 1)
    recall = found / found[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def auroc_one_vs_one(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Macro AUROC of several classes (Hand and Till 2001): for each pair of classes, among their examples alone, the
    mean of the two AUROCs by the score of the one and of the other; then the mean over pairs.

    labels [n]: number of the class. scores [n, classes]. Classes without an example are left out (scikit-learn raises);
    None where fewer than two are left.

    Raises DataError for shapes that do not fit, labels without a column, and scores that are not finite.
    """
    label, score = _several(labels, scores)
    areas = []
    for a, b in combinations(np.unique(label).tolist(), 2):
        rows = (label == a) | (label == b)
        of_a = auroc(label[rows] == a, score[rows, a])
        of_b = auroc(label[rows] == b, score[rows, b])
        if of_a is not None and of_b is not None:
            areas.append((of_a + of_b) / 2)
    return float(np.mean(areas)) if areas else None


def macro_average_precision(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """The mean over the classes that have an example of the AP of telling that class from all others.

    labels [n]: number of the class. scores [n, classes]. None without examples.

    Raises DataError as `auroc_one_vs_one` does.
    """
    label, score = _several(labels, scores)
    of_each = [average_precision(label == k, score[:, k]) for k in np.unique(label).tolist()]
    return float(np.mean([ap for ap in of_each if ap is not None])) if of_each else None


def _binary(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    positive, score = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    if positive.shape != score.shape or positive.ndim != 1:
        raise DataError(f"one label and one score per example: got shapes {positive.shape} and {score.shape}")
    _check_finite(score)
    return positive, score


def _several(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    label, score = np.asarray(labels, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    if label.ndim != 1 or score.ndim != 2 or len(label) != len(score):
        raise DataError(f"labels [n] and scores [n, classes]: got shapes {label.shape} and {score.shape}")
    if len(label) and not (label.min() >= 0 and label.max() < score.shape[1]):
        raise DataError(
            f"labels must number the {score.shape[1]} columns of the scores from 0, got {label.max()}"
        )
    _check_finite(score)
    return label, score


def _check_finite(score: NDArray[np.float64]) -> None:
    if not np.isfinite(score).all():
        raise DataError("a score is not finite: it has no place in a ranking")
