"""From the folder of a published benchmark to the examples that are asked: all of them, or a slim subset."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from vlmablate.errors import UserError
from vlmablate.evaluation.protocol import Benchmark, Example

SLIM_SEED = 21


def load(benchmark: Benchmark, folder: Path, slim: int | None = None) -> tuple[list[Example], list[str]]:
    """The examples in the official order, and notes for whoever reads the scores.

    folder: not looked at for a benchmark that has none.

    A note says that the folder has another number of questions than the published evaluation, and that a subset is
    asked.

    Raises UserError for a folder or a file that is missing or malformed, an id that occurs twice, and no questions.
    """
    if benchmark.examples is None:
        raise UserError(f"benchmark {benchmark.name} is not read out of a folder: its scenes are made")
    if benchmark.folder and not folder.is_dir():
        raise UserError(f"{folder}, the folder of {benchmark.name}, is not there")
    examples = list(benchmark.examples(folder))
    if not examples:
        raise UserError(f"{folder} has no question of {benchmark.name}")
    _check_ids(examples, folder)
    notes = []
    if len(examples) not in benchmark.sizes:
        official = " or ".join(f"{size:,}" for size in benchmark.sizes)
        notes.append(
            f"{benchmark.name}: {len(examples):,} questions in {folder}; the published evaluation has {official}"
        )
    if slim is not None and slim < len(examples):
        notes.append(f"{benchmark.name}: a slim subset, {slim:,} of {len(examples):,} questions")
        examples = slimmed(examples, slim)
    return examples, notes


def slimmed(examples: Sequence[Example], count: int, seed: int = SLIM_SEED) -> list[Example]:
    """So many of the examples, in their order: those whose ids have the lowest hashes.

    Which ones they are depends on the ids and the seed alone, so every machine takes the same, a larger subset contains
    a smaller one, and a question stays in it when others are added to the file. Questions are drawn, not pictures: the
    errors of questions about one picture go together, so a given number of questions tells most when it is spread over
    many pictures; and the subset's mean estimates the published mean over questions without bias.

    Raises UserError for a count below 1.
    """
    if count < 1:
        raise UserError(f"a slim subset has at least one question, got slim={count}")

    def rank(place: int) -> bytes:
        return hashlib.sha256(f"{seed}:{examples[place].example_id}".encode()).digest()

    kept = sorted(sorted(range(len(examples)), key=rank)[:count])
    return [examples[place] for place in kept]


def _check_ids(examples: Sequence[Example], folder: Path) -> None:
    seen: set[str] = set()
    for example in examples:
        if example.example_id in seen:
            raise UserError(
                f"{folder} has two questions with the id {example.example_id}; scores are joined by it, so take one out"
            )
        seen.add(example.example_id)
