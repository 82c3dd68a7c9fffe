"""Published benchmarks out of their folders, and what is written down of the answers to them.

Imports no torch before something is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmablate.evaluation import answers_store
from vlmablate.evaluation.answers_store import FOLDER, Given
from vlmablate.evaluation.behaviour import with_verbosity
from vlmablate.evaluation.protocol import Benchmark, Example
from vlmablate.evaluation.scores import score_all, write_rows
from vlmablate.evaluation.tasks import load, task_named
from vlmablate.orchestration.context import StepContext
from vlmablate.orchestration.store import CHECKPOINT_PREFIX

ANSWERS = f"{CHECKPOINT_PREFIX}-{FOLDER}"
"""In the folder of a step: what a new attempt finds there of the last one is what is named like a checkpoint."""
SAVED_EVERY_S = 30.0
PATIENCE_S = 150.0
"""With an attempt before, which a scheduler takes for dead: its locks may outlive it."""


@dataclass(frozen=True)
class Asking:
    """Examples of a benchmark, and the folder that their pictures are named from."""

    benchmark: Benchmark
    examples: Sequence[Example]
    folder: Path


def asking(
    names: Sequence[str],
    folders: Mapping[str, Path],
    variants: Mapping[str, str],
    frames: Mapping[str, str],
    slim: int | None,
    root: Path = Path(),
    *,
    verbosity: bool = False,
) -> tuple[list[Asking], list[str]]:
    """The benchmarks of some names, and notes for whoever reads their scores.

    Args:
        folders: of some; the others lie under `root`, by the names that their tasks say.
        variants, frames: how some are read and scored; see `tasks.task_named`.
        slim: at most so many questions of each.
        verbosity: whether further metrics tell how long written answers are; see `behaviour.verbosity`.

    Raises UserError for a name, variant or frame that does not exist, and a folder that is missing or malformed.
    """
    benchmarks = [task_named(name, variants.get(name), frames.get(name)) for name in names]
    if verbosity:
        benchmarks = [with_verbosity(benchmark) for benchmark in benchmarks]
    found: list[Asking] = []
    notes: list[str] = []
    for benchmark in benchmarks:
        folder = folders.get(benchmark.name, root / benchmark.folder)
        examples, told = load(benchmark, folder, slim)
        found.append(Asking(benchmark, examples, folder))
        notes += told
    return found, notes


def scored(
    asked: Sequence[Asking], given: Mapping[str, Sequence[Given]]
) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    """Rows of the table of all benchmarks, and what `scores.score_all` says of each, by name."""
    rows: list[tuple[Any, ...]] = []
    summary: dict[str, Any] = {}
    for one in asked:
        answers = given[one.benchmark.name]
        found, summary[one.benchmark.name] = score_all(
            one.benchmark,
            one.examples,
            [each.answer for each in answers],
            [each.frame for each in answers],
        )
        rows += found
    return rows, summary


def run_published(
    config: Mapping[str, Any], model: Path, folders: Mapping[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """The step `evaluate` of a model of published data: published benchmarks; table and payload as `evaluation.step`.

    What was answered by an attempt before, in ANSWERS, is not asked again. All ranks of the step call it.

    Args:
        config: `benchmark` {names, variants, frames, slim, verbosity} and `precision`.
        model: the folder of the finished model.
        folders: of every benchmark.
    """
    from vlmablate.evaluation.checkpoint_models import own_checkpoint
    from vlmablate.evaluation.runner import put_all
    from vlmablate.training.ranks import ranks_of
    from vlmablate.vlm.features_step import check_precision

    precision, benchmark = config["precision"], config["benchmark"]
    check_precision(precision, str(context.execution.get("device") or "cpu"))
    asked, notes = asking(
        benchmark["names"],
        folders,
        benchmark.get("variants") or {},
        benchmark.get("frames") or {},
        benchmark.get("slim"),
        verbosity=benchmark.get("verbosity", False),
    )
    with ranks_of(context) as ranks:
        given = put_all(
            own_checkpoint(model),
            asked,
            out / ANSWERS,
            ranks,
            precision=precision,
            threads=int(context.execution.get("threads") or 1),
            patience_s=PATIENCE_S,
            progress=_noting(context, out / ANSWERS),
            check=context.check_stop,
        )
        if ranks.rank:
            return {}
        rows, summary = scored(asked, given)
        write_rows(rows, out)
    return {"benchmarks": summary, "precision": precision, "notes": notes}


def _noting(context: StepContext, answers: Path) -> Callable[[int, int], None]:
    """Tells how far the step is, and now and then that what was answered is safe: an evaluation that takes several
    allocations gets on, and is not given up for that."""
    before, last = len(answers_store.read(answers)) if context.rank == 0 else 0, time.monotonic()

    def note(done: int, total: int) -> None:
        nonlocal last
        context.progress(done, total)
        if time.monotonic() - last >= SAVED_EVERY_S or done == total:
            last = time.monotonic()
            context.saved(before + done)

    return note
