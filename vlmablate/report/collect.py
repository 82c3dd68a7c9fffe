"""Join the evaluate steps of a study into one long table of example scores.

results.parquet is a function of the example tables alone: rows are sorted by their identity, the schema is
fixed and carries no time or host, so that equal scores give equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vlmablate.errors import UserError
from vlmablate.files import sha256_file, write_json, write_with
from vlmablate.report.study import Run, Study

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("study", "axis", "arm", "context")),
        ("seed", pa.int64()),
        *(
            (name, pa.string())
            for name in ("run_id", "benchmark", "split", "example_id", "cluster_id", "metric")
        ),
        ("score", pa.float64()),
        *((name, pa.string()) for name in ("prediction", "target")),
    ]
)
"""Columns of results.parquet; `score` is a fraction in [0, 1], of secondary metrics a number in a unit of its own."""

EXAMPLE_COLUMNS = [
    "benchmark",
    "split",
    "example_id",
    "cluster_id",
    "metric",
    "score",
    "prediction",
    "target",
]
KEY = ["benchmark", "split", "metric", "example_id"]


@dataclass(frozen=True)
class Collected:
    """The joined scores and what is known about the benchmarks.

    results: the long table. missing: runs without scores, each {arm, context, seed, run_id, reason}.
    benchmarks: name -> {metric, majority, chance}, fractions, as the evaluate steps report them (equal for
    all runs); all None for a benchmark outside the suite, whose metrics are all secondary.
    """

    results: pd.DataFrame
    missing: list[dict[str, Any]]
    benchmarks: dict[str, dict[str, Any]]

    def of(self, study: Study) -> Collected:
        """What is known of the runs of `study` alone. Raises UserError when none of them has scores."""
        ids = {run.run_id for run in study.runs}
        results = self.results[self.results["run_id"].isin(ids)]
        missing = [run for run in self.missing if run["run_id"] in ids]
        if results.empty:
            raise UserError(
                f"study {study.name} has no finished run to compare yet: what was explored is there, the best "
                "configuration was not run again with fresh seeds; the same command goes on"
            )
        return replace(self, results=results.reset_index(drop=True), missing=missing)


def read_examples(study: Study, run: Run) -> pd.DataFrame:
    """One run's example table with text ids, sorted by example.

    Raises UserError naming the file for: a missing or altered file, missing columns, duplicate example ids,
    scores that are not finite, and those of a primary metric that are no fractions.
    """
    step_id = run.steps["evaluate"]
    path = study.directory(step_id) / "examples.parquet"
    redo = f"delete {path.parent / 'result.json'} and run the sweep again to redo it"
    if not path.exists():
        raise UserError(f"{path} is missing although its step is finished; {redo}")
    recorded = study.results[step_id].get("files", {}).get(path.name, {}).get("sha256")
    if recorded and sha256_file(path) != recorded:
        raise UserError(f"{path} is not the file that its result.json recorded; {redo}")
    try:
        table = pq.read_table(path).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); {redo}") from error
    absent = [name for name in EXAMPLE_COLUMNS if name not in table.columns]
    if absent:
        raise UserError(f"{path} lacks the column(s) {', '.join(absent)}")
    table = table[EXAMPLE_COLUMNS]
    for name in EXAMPLE_COLUMNS:
        if name != "score":
            table[name] = table[name].map(str, na_action="ignore").astype(object)
    if table[[*KEY, "cluster_id"]].isna().to_numpy().any():
        raise UserError(f"{path} has rows without an id, cluster, split or metric")
    facts = study.results[step_id]["payload"]["benchmarks"]
    metrics = {name: found.get("metric") for name, found in facts.items()}
    primary = (table["metric"] == table["benchmark"].map(metrics)).to_numpy()
    score = table["score"].to_numpy(dtype=np.float64)
    bad = ~np.isfinite(score) | (primary & ((score < 0) | (score > 1)))
    if bad.any():
        row = table[bad].iloc[0]
        what = "is not in [0, 1]" if np.isfinite(row.score) else "is no finite number"
        raise UserError(f"{path}: score {row.score} of {row.benchmark}/{row.example_id} {what}")
    twice = table.duplicated(KEY, keep=False)
    if twice.any():
        raise UserError(f"{path} scores the same example more than once: {_names(table[twice])}")
    return table.sort_values(KEY, kind="stable", ignore_index=True)


def _names(rows: pd.DataFrame) -> str:
    names = list(dict.fromkeys(f"{row.benchmark}/{row.example_id}" for row in rows.itertuples()))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _check_same_examples(first: tuple[Run, pd.DataFrame], other: tuple[Run, pd.DataFrame]) -> None:
    """Raise UserError unless both runs scored the same examples with the same targets and clusters."""
    (run_a, a), (run_b, b) = first, other
    columns = [*KEY, "cluster_id", "target"]
    if a[columns].equals(b[columns]):
        return
    between = f"between run {run_a.run_id} ({run_a.name}) and run {run_b.run_id} ({run_b.name})"
    merged = a[columns].merge(b[columns], on=KEY, how="outer", indicator=True, suffixes=("_a", "_b"))
    for name in ("target", "cluster_id"):
        both = merged[merged["_merge"] == "both"]
        differ = both[both[f"{name}_a"].fillna("\0") != both[f"{name}_b"].fillna("\0")]
        if len(differ):
            raise UserError(f"example ids disagree {between}: other {name} for {_names(differ)}")
    unmatched = merged[merged["_merge"] != "both"]
    raise UserError(f"example ids differ {between}: scored on one side only: {_names(unmatched)}")


def _check_same_facts(known: dict[str, dict[str, Any]], facts: dict[str, Any], run: Run) -> None:
    """Record a run's benchmark facts; raise UserError if they contradict what earlier runs said."""
    for name, values in facts.items():
        in_suite = values.get("suite", True)
        entry = {key: values.get(key) if in_suite else None for key in ("metric", "majority", "chance")}
        other = known.setdefault(name, entry)
        same_metric = other["metric"] == entry["metric"]
        if not same_metric or abs((other["majority"] or 0.0) - (entry["majority"] or 0.0)) > 1e-6:
            raise UserError(
                f"run {run.run_id} ({run.name}) states other facts about {name}: {entry}, not {other}"
            )


def collect(study: Study) -> Collected:
    """Join all finished runs of a study; runs without scores are listed with the step they wait for.

    Raises UserError if no run is finished, or if runs disagree about an example (other target, other cluster,
    scored on one side only) or about a benchmark (other metric or majority score).
    """
    parts, missing = [], []
    benchmarks: dict[str, dict[str, Any]] = {}
    first: tuple[Run, pd.DataFrame] | None = None
    for run in sorted(study.runs, key=lambda run: (run.arm, run.context, run.seed, run.run_id)):
        reason = study.unfinished(run)
        if reason:
            names = {"arm": run.arm, "context": run.context, "seed": run.seed, "run_id": run.run_id}
            missing.append({**names, "reason": reason})
            continue
        examples = read_examples(study, run)
        first = first or (run, examples)
        _check_same_examples(first, (run, examples))
        _check_same_facts(benchmarks, study.results[run.steps["evaluate"]]["payload"]["benchmarks"], run)
        identity = {"study": study.name, "axis": study.axis_name, "arm": run.arm, "context": run.context}
        parts.append(examples.assign(**identity, seed=run.seed, run_id=run.run_id))
    if not parts:
        waits = "; ".join(f"{run['arm']} seed {run['seed']}: {run['reason']}" for run in missing[:3])
        waits = waits or "what is compared is not chosen yet; the same command goes on"
        raise UserError(f"study {study.name} has no finished run yet ({waits})")
    results = pd.concat(parts, ignore_index=True)[SCHEMA.names]
    return Collected(results, missing, dict(sorted(benchmarks.items())))


def write_results(collected: Collected, folder: Path) -> None:
    """Write results.parquet and, for what the table cannot hold, benchmarks.json beside it."""
    table = pa.Table.from_pandas(
        collected.results, schema=SCHEMA, preserve_index=False
    ).replace_schema_metadata(None)
    with write_with(folder / "results.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")
    facts = {"benchmarks": collected.benchmarks, "missing_runs": collected.missing}
    write_json(folder / "benchmarks.json", facts)
