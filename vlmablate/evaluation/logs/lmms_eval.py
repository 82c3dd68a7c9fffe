"""Sample logs of lmms-eval: ``<date>_samples_<task>.jsonl`` beside ``<date>_results.json`` (``--log_samples``).

One line of JSON per document: doc_id (its number in the split), target, filtered_resps (the answer; in a list before
February 2026, and for tasks with several requests per document), the metrics as further fields, and, by version, doc,
input, resps, doc_hash, input_media and token_counts. Written against commit 75571cf (`evaluation_tracker.py`).

Of a metric an lmms-eval task logs a number, or what its aggregation needs. Read are numbers and truth values,
``{"score": number}``, and ``{"pred": box, "bbox": box}`` of the metrics IoU and ACC@threshold (RefCOCO). The doc_hash
is of no use for pairing: it covers the address of the picture in memory, and differs from run to run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmablate.errors import DataError, UserError
from vlmablate.evaluation.logs.samples import Log, Sample, check_unique, named_picture, number
from vlmablate.evaluation.scorers import box_iou

FILES = "*_samples_*.jsonl"
OURS = "vlmablate"
"""The field that holds what the format has no place for in a log that we wrote."""

_NAME = re.compile(r"(?P<date>.+?)_samples_(?P<task>.+)\.jsonl")
_NOT_METRICS = frozenset(
    {
        "doc_id", "doc", "doc_hash", "target", "input", "arguments", "resps", "filtered_resps", "token_counts",
        "input_media", "submission", OURS,
    }
)  # fmt: skip
_PICTURE_FIELDS = ("image_id", "imageId", "image_path", "image_name", "image_file", "image")
_NUMBER_TEXT = re.compile(r"\d+")
_ACCURACY = re.compile(r"ACC@(0?\.\d+)$", re.IGNORECASE)


def is_log(path: Path) -> bool:
    """True for a name that lmms-eval gives to its sample logs."""
    return _NAME.fullmatch(path.name) is not None


def read(path: Path, benchmark: str | None = None) -> Log:
    """The samples of a log. benchmark: its name, if it is not to be the task of the file's name.

    Example ids are ``benchmark/doc_id``, so that logs of one version of a data set pair, and no others.

    Raises:
        DataError: for a line that is no sample, a document that is there twice, and a log without a score, naming file
            and line.
        UserError: for a file without the name of a log, where `benchmark` is not given.
    """
    name = _NAME.fullmatch(path.name)
    if name is None and benchmark is None:
        raise UserError(
            f"{path} is not called <date>_samples_<task>.jsonl: name its benchmark, ARM/SEED:BENCHMARK={path}"
        )
    task = benchmark or (name["task"] if name else "")
    samples = [_sample(row, task, path, line) for line, row in _rows(path)]
    if not samples:
        raise DataError(f"{path} is empty: lmms-eval writes one line per document with --log_samples")
    advice = "lmms-eval appends to a log that is there: keep the lines of one run"
    check_unique(samples, path, advice)
    return Log(path, task, samples)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with open(path, encoding="utf-8") as file:
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                try:
                    row = json.loads(text)
                except ValueError as error:
                    raise DataError(
                        f"{path}, line {line}: this is no JSON ({error}); a run that was killed leaves half a line at "
                        "the end: evaluate again, or cut the line out of all logs"
                    ) from None
                if not isinstance(row, dict):
                    raise DataError(f"{path}, line {line}: a sample must be a JSON object, got {_short(row)}")
                yield line, row
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _sample(row: Mapping[str, Any], task: str, path: Path, line: int) -> Sample:
    where = f"line {line}"
    absent = [name for name in ("doc_id", "filtered_resps", "target") if name not in row]
    if absent:
        raise DataError(f"{path}, {where}: a sample of lmms-eval has {', '.join(absent)}, this one has not")
    kept = row.get(OURS, {})
    if not isinstance(kept, dict):
        raise DataError(
            f"{path}, {where}: the field {OURS} must be an object as we write it, got {_short(kept)}"
        )
    found = {name: _score(name, value) for name, value in _metrics(row).items()}
    scores = {name: score for name, score in found.items() if score is not None}
    if not scores:
        logged = ", ".join(found) or "none"
        raise DataError(
            f"{path}, {where}: no metric is a number (logged: {logged}); a task that is scored by a judge or on a "
            "server, or run with --predict_only, has no score per sample"
        )
    return Sample(
        where=where,
        example_id=str(kept.get("example_id", f"{task}/{row['doc_id']}")),
        picture=None if kept else _picture(row, task),
        scores=scores,
        prediction=_answer(row["filtered_resps"]),
        target=str(row["target"]),
        kept=kept,
    )


def _metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a sample. Of several that log one and the same verdict, which only their aggregations tell apart
    (precision, recall, F1 of POPE), the first."""
    metrics: dict[str, Any] = {}
    verdicts: list[Any] = []
    for name, value in row.items():
        verdict = isinstance(value, dict) and "score" in value
        if name in _NOT_METRICS or (verdict and value in verdicts):
            continue
        metrics[name] = value
        if verdict:
            verdicts.append(value)
    return metrics


def _score(name: str, value: Any) -> float | None:
    if isinstance(value, dict):
        if "score" in value:
            return number(value["score"])
        if "pred" in value and "bbox" in value:
            return _box_score(name, value["pred"], value["bbox"])
        return None
    return None if isinstance(value, str) else number(value)


def _box_score(name: str, predicted: Any, target: Any) -> float | None:
    """lmms-eval scores boxes when all are there; until then the log has the two boxes under each metric."""
    boxes = [[number(edge) for edge in box] if isinstance(box, list) else [] for box in (predicted, target)]
    if any(len(box) != 4 or None in box for box in boxes):
        return None
    iou = box_iou(tuple(boxes[0]), tuple(boxes[1]))  # type: ignore[arg-type]
    if name.lower().endswith("iou"):
        return iou
    threshold = _ACCURACY.search(name)
    return float(iou >= float(threshold[1])) if threshold else None


def _picture(row: Mapping[str, Any], task: str) -> str | None:
    """The first of the sample's pictures, or what its document says of it; a bare number belongs to the task."""
    media = row.get("input_media")
    if isinstance(media, list) and media and isinstance(media[0], str):
        return named_picture(media[0])
    doc = row.get("doc")
    if not isinstance(doc, dict):
        return None
    for name in _PICTURE_FIELDS:
        value = doc.get(name)
        if isinstance(value, (str, int)) and str(value).strip():
            return f"{task}/{value}" if _NUMBER_TEXT.fullmatch(str(value)) else named_picture(value)
    return None


def _answer(value: Any) -> str:
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def sample_line(doc_id: int, row: Mapping[str, Any], scores: Mapping[str, float]) -> str:
    """One of our examples as a line of lmms-eval's log.

    row: of the long table, with benchmark, example_id, cluster_id, prediction, target, and a question where there is
    one. What lmms-eval has no field for stands under `OURS`, so that `read` gives back what was written.
    """
    doc = {"example_id": row["example_id"], "question": row.get("question", "")}
    kept = ("study", "axis", "context", "run_id", "split", "example_id", "cluster_id")
    return json.dumps(
        {
            "doc_id": doc_id,
            "target": row["target"],
            "filtered_resps": row["prediction"],
            "doc_hash": hashlib.sha256(json.dumps(doc, indent=2, ensure_ascii=False).encode()).hexdigest(),
            **scores,
            "input": doc["question"],
            OURS: {name: row[name] for name in kept},
        },
        ensure_ascii=False,
    )


def results_summary(
    model: str, date: str, means: Mapping[str, Mapping[str, float]], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """The content of ``<date>_results.json``. means: benchmark -> metric -> mean; sizes: benchmark -> examples."""
    return {
        "results": {
            task: {"alias": task, **{f"{metric},none": mean for metric, mean in scores.items()}}
            for task, scores in means.items()
        },
        "n-samples": {task: {"original": n, "effective": n} for task, n in sizes.items()},
        "date": date,
        "model_source": OURS,
        "model_name": model,
        "model_name_sanitized": model,
    }


def sample_files(folder: Path) -> Sequence[Path]:
    """The sample logs in the folder of a model, one per task.

    Raises UserError for a folder without one, and where a task was logged on several dates.
    """
    found = sorted(folder.rglob(FILES))
    if not found:
        raise UserError(
            f"{folder} has no {FILES}: name a folder of lmms-eval's --output_path with --log_samples"
        )
    by_task: dict[str, Path] = {}
    for path in found:
        name = _NAME.fullmatch(path.name)
        task = name["task"] if name else path.name
        other = by_task.setdefault(task, path)
        if other is not path:
            raise UserError(
                f"{folder} has two logs of {task}: {other.relative_to(folder)} and {path.relative_to(folder)}; name "
                "the files instead of the folder, each with its arm and seed"
            )
    return found
