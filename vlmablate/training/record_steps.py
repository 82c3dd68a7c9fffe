"""Published records as the lessons of a stage: pictures from the folders of their sources, through live towers.

What a configuration calls ``records`` is {"sources": [{"source", "digest", and one of "epochs", "count", "weight"}, …],
"language_only"}: the sources by name and by the content of their annotations (`data.records.folders`), how much of each
an epoch shows (`design.shares`), and whether records without a picture are kept. Settings of the stage are
``epochs`` over the mix, ``batch_samples`` of a global batch, and ``longest``: tokens of text that a sample has at most.

Features of a million pictures would fill terabytes, so the towers are in the loop even where they stay frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from vlmablate.data.records import folders
from vlmablate.data.records.mix import Mix
from vlmablate.data.records.source import Source
from vlmablate.design.published import NEEDED, whole_setting
from vlmablate.design.shares import KINDS
from vlmablate.training.balance import DataOrder, epoch_order
from vlmablate.training.lessons import Asked, Lessons
from vlmablate.training.sight import open_folder_sight


@contextmanager
def record_lessons(stage: str, config: Mapping[str, Any]) -> Iterator[Lessons]:
    """The lessons of records, whose files stay open in the ``with``.

    Raises UserError for a source that is gone, was changed or holds a malformed record, for settings that are wrong,
    and for weights of the towers that are missing.
    """
    declared, settings, seed = config["records"], config["stages"][stage], int(config["seed"]["order"])
    batch, longest = (whole_setting(settings, name, stage) for name in NEEDED)
    rows = declared["sources"]
    shares = {row["source"]: {kind: row[kind] for kind in KINDS if kind in row} for row in rows}
    with ExitStack() as opened:
        sources = []
        for row in rows:
            folder = folders.find(row["source"], row["digest"])
            sources.append(opened.enter_context(Source(row["source"], folder)))
        mix = Mix(sources, shares, language_only=bool(declared["language_only"]), seed=seed)
        order = DataOrder(mix.count, batch, float(settings["epochs"]), seed)

        def at(step: int) -> list[Asked]:
            return [_asked(mix, *place) for place in mix.locate(*_slots(order, step))]

        sight = open_folder_sight(config["live"])
        yield Lessons(sight, order.steps, at, longest, _counts(mix, order))


def _slots(order: DataOrder, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The slots of a step, and the epoch of each."""
    slots = order.at(step)
    return slots, (step * order.batch + np.arange(len(slots))) // order.count


def _asked(mix: Mix, source: int, number: int) -> Asked:
    """Pictures are named by their paths: sources that share a folder share pictures."""
    record = mix.record(source, number)
    picture = None if record.picture is None else str(mix.sources[source].folder / record.picture)
    return Asked(record.turns, picture)


def _counts(mix: Mix, order: DataOrder) -> dict[str, dict[str, int]]:
    """Source -> its rows in the whole stage, its records that may be shown, and those that are left out."""
    epochs, rest = divmod(order.visits, order.count)
    whole = mix.rows(np.arange(order.count))
    partial = mix.rows(epoch_order(order.count, order.seed, epochs)[:rest])
    left_out = mix.left_out()
    return {
        source.name: {
            "rows": epochs * whole[source.name] + partial[source.name],
            "records": len(source) - left_out[source.name],
            "left_out": left_out[source.name],
        }
        for source in mix.sources
    }
