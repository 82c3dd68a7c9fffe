"""Several logs, each of one arm and seed, as the long table that `vlmablate analyze` takes.

Logs of different runs are compared example by example, so that a mixture that does not pair is refused here, where the
files can still be named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from vlmablate.errors import DataError
from vlmablate.evaluation.logs.samples import Log

CONTEXT, AXIS, STUDY, SPLIT = "default", "arm", "imported", "test"
_SHOWN = 3


@dataclass(frozen=True)
class Scored:
    """What one run, of an arm and a seed, scored on one benchmark."""

    arm: str
    seed: int
    log: Log

    @property
    def context(self) -> str:
        """Of a log of ours, the one that it carries."""
        return str(self.log.samples[0].kept.get("context", CONTEXT))

    @property
    def run(self) -> str:
        """The name of the run, for people and for telling runs apart."""
        return f"{self.arm}/{self.seed}" + (f" in {self.context}" if self.context != CONTEXT else "")


@dataclass(frozen=True)
class Imported:
    """The long table, the metrics of each benchmark, the first being the one to decide on, and what to know of them."""

    table: pd.DataFrame
    metrics: Mapping[str, Sequence[str]]
    notes: Sequence[str]


def long_table(scored: Sequence[Scored]) -> Imported:
    """The scores of all runs, one row per run, example and metric, in the columns of results.parquet.

    Metrics that not all samples of a benchmark have, or that leave [0, 1], are left out, with a note.

    Raises DataError for two logs of one run and benchmark, a run without a benchmark that another has, logs of a
    benchmark with different examples or targets, and a benchmark without a metric in [0, 1]. Files are named.
    """
    notes: list[str] = []
    metrics: dict[str, list[str]] = {}
    parts: list[pd.DataFrame] = []
    for benchmark, of_runs in _by_benchmark(scored).items():
        logs = [each.log for each in of_runs]
        _check_pairs(benchmark, logs)
        metrics[benchmark] = _usable(benchmark, logs, notes)
        clusters = _clusters(benchmark, logs, notes)
        parts += [_part(each, name, clusters) for each in of_runs for name in metrics[benchmark]]
    return Imported(pd.concat(parts, ignore_index=True), metrics, notes)


def _by_benchmark(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    """Benchmark -> one log of every run."""
    found: dict[str, dict[str, Scored]] = {}
    for each in scored:
        of_runs = found.setdefault(each.log.benchmark, {})
        if each.run in of_runs:
            other = of_runs[each.run].log
            raise DataError(
                f"{each.run} has two logs of {each.log.benchmark}: {other.path} and {each.log.path}; if they are two "
                f"training runs, number them: {each.arm}/{each.seed}=…, {each.arm}/{each.seed + 1}=…"
            )
        of_runs[each.run] = each
    runs = dict.fromkeys(each.run for each in scored)
    for benchmark, of_runs in found.items():
        absent = [run for run in runs if run not in of_runs]
        if absent:
            there = next(iter(of_runs.values()))
            raise DataError(
                f"{', '.join(absent)} has no log of {benchmark}, which {there.run} has ({there.log.path}): runs are "
                "compared on the same benchmarks; add its log, or leave this benchmark out of all runs"
            )
    return {benchmark: list(of_runs.values()) for benchmark, of_runs in found.items()}


def _check_pairs(benchmark: str, logs: Sequence[Log]) -> None:
    """Every run answered the same questions. Raises DataError that names two files and a sample."""
    first, *others = logs
    targets = {sample.example_id: sample for sample in first.samples}
    for log in others:
        ids = {sample.example_id for sample in log.samples}
        alone = [[i for i in targets if i not in ids], [i for i in ids if i not in targets]]
        for names, has, lacks in zip(alone, (first, log), (log, first), strict=True):
            if names:
                raise DataError(
                    f"{len(names)} samples of {benchmark} are in {has.path} and not in {lacks.path}, the first "
                    f"{', '.join(sorted(names)[:_SHOWN])}: evaluate all runs on the same questions (--limit, --offset)"
                )
        for sample in log.samples:
            other = targets[sample.example_id]
            if sample.target != other.target:
                raise DataError(
                    f"{sample.example_id} is not the same question in two logs: its target is '{other.target[:40]}' in "
                    f"{first.path}, {other.where}, and '{sample.target[:40]}' in {log.path}, {sample.where}. The "
                    "harness numbers the questions of a data set: these are of two versions of it"
                )


def _usable(benchmark: str, logs: Sequence[Log], notes: list[str]) -> list[str]:
    """The metrics that score every sample with a share; why another does not is added to `notes`."""
    places = [(log, sample) for log in logs for sample in log.samples]
    usable, reasons = [], []
    for name in dict.fromkeys(name for _, sample in places for name in sample.scores):
        lacking = next(((log, sample) for log, sample in places if name not in sample.scores), None)
        if lacking is not None:
            reasons.append(f"{benchmark}: {name} left out, which {lacking[0].path}, {lacking[1].where} lacks")
            continue
        scores = [sample.scores[name] for _, sample in places]
        low, high = min(scores), max(scores)
        if low < 0 or high > 1:
            reasons.append(
                f"{benchmark}: {name} left out, its scores go from {low:g} to {high:g} and not from 0 to 1"
            )
            continue
        usable.append(name)
    if not usable:
        raise DataError(
            f"{logs[0].path}: no metric scores every sample with a number from 0 to 1. {'; '.join(reasons)}"
        )
    notes += reasons
    return usable


def _clusters(benchmark: str, logs: Sequence[Log], notes: list[str]) -> dict[str, str]:
    """Example -> its cluster, for those of which a log knows it: versions of a harness tell more or less."""
    known: dict[str, str] = {}
    for log in logs:
        for sample in log.samples:
            cluster = sample.kept.get("cluster_id", sample.picture)
            if cluster is not None:
                known.setdefault(sample.example_id, str(cluster))
    unknown = len(logs[0].samples) - len(known)
    if unknown:
        which = f"{unknown} samples are" if known else "a sample is"
        notes.append(
            f"{benchmark}: the logs do not tell which picture {which} about, so that each counts as a picture of its "
            "own; where questions share pictures, intervals come out too narrow"
        )
    return known


def _part(scored: Scored, metric: str, clusters: Mapping[str, str]) -> pd.DataFrame:
    """The rows of one run, benchmark and metric, in the order of the log."""
    samples = scored.log.samples

    def kept(name: str, default: str) -> list[str]:
        return [str(sample.kept.get(name, default)) for sample in samples]

    return pd.DataFrame(
        {
            "study": kept("study", STUDY),
            "axis": kept("axis", AXIS),
            "arm": scored.arm,
            "context": scored.context,
            "seed": scored.seed,
            "run_id": kept("run_id", f"{scored.arm}/{scored.context}/{scored.seed}"),
            "benchmark": scored.log.benchmark,
            "split": kept("split", SPLIT),
            "example_id": [sample.example_id for sample in samples],
            "cluster_id": [clusters.get(sample.example_id, sample.example_id) for sample in samples],
            "metric": metric,
            "score": [sample.scores[metric] for sample in samples],
            "prediction": [sample.prediction for sample in samples],
            "target": [sample.target for sample in samples],
        }
    )
