"""Evaluated predictions of VLMEvalKit: a table with index, question, answer, prediction, and a column of scores.

VLMEvalKit writes predictions to ``<model>/<model>_<dataset>.xlsx`` (.tsv, .json: PRED_FORMAT), and after evaluation a
second table beside it that has the scores: ``_results`` (VQA, eval_match and eval_score), ``_auxmatch`` (yes or no,
score), ``_<judge>_result`` (multiple choice, hit), ``_detailed_results`` (verifier_score). Written against commit
e8e78f0.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmablate.errors import DataError, UserError
from vlmablate.evaluation.logs.samples import Log, Sample, check_unique, named_picture, number

MATCHES = "eval_match"
SCORES = ("eval_score", "verifier_score", "hit", "score")
"""Columns with a score per question; a table has one of them, as a rule."""

_PICTURE_COLUMNS = ("image_path", "image_id", "image")
_AFTER_EVALUATION = re.compile(
    r"_(?:detailed_results|results|auxmatch|(?:exact_matching|[^_]+)_result|result)$"
)
_ANLS_THRESHOLD = 0.5

Rows = Iterator[tuple[str, Mapping[str, Any]]]
"""(where in the file, the row)"""


def _delimited(delimiter: str) -> Callable[[Path], Rows]:
    def rows(path: Path) -> Rows:
        csv.field_size_limit(sys.maxsize)  # answers may be long, and a picture may stand beside them
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            header = next(reader, [])
            begin = reader.line_num + 1
            for fields in reader:
                where = f"line {begin}"
                if fields and len(fields) != len(header):
                    raise DataError(
                        f"{path}, {where}: {len(fields)} fields under a header of {len(header)}; a field with a "
                        "separator or a line break in it needs quotes"
                    )
                if fields:
                    yield where, dict(zip(header, fields, strict=True))
                begin = reader.line_num + 1

    return rows


def _json(path: Path) -> Rows:
    with open(path, encoding="utf-8") as file:
        value = json.load(file)
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise DataError(f"{path}: expected a list of objects, one per question")
    return ((f"record {i}", row) for i, row in enumerate(value, start=1))


def _excel(path: Path) -> Rows:
    import pandas as pd

    try:
        table = pd.read_excel(path, keep_default_na=False)
    except ImportError:
        raise UserError(
            f"{path} is an Excel file, and no package that reads it is here: pip install openpyxl, or have VLMEvalKit "
            "write tables with PRED_FORMAT=tsv"
        ) from None
    return ((f"row {i}", row) for i, row in enumerate(table.to_dict("records"), start=2))  # type: ignore[misc]


_READERS: Mapping[str, Callable[[Path], Rows]] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".json": _json,
    ".xlsx": _excel,
}


def read(path: Path, benchmark: str | None = None) -> Log:
    """The questions of an evaluated table. benchmark: its name, if it cannot be told from the names of file and folder.

    Example ids are ``benchmark/index``.

    Raises:
        DataError: for a row without an index or a score, an index that is there twice, and a table without the columns
            index, prediction and answer or without a column of scores, naming file and line.
        UserError: for an ending that is not read (.pkl: a pickle can run code), a file that cannot be read, and a
            benchmark that cannot be told.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{path} does not end in {', '.join(_READERS)}. VLMEvalKit writes one of these with PRED_FORMAT=tsv (or "
            "json); a pickle is not read, because it can run any code"
        )
    name = benchmark or _benchmark(path)
    try:
        rows = list(reader(path))
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not rows:
        raise DataError(f"{path} has no rows")
    column = _score_column(path, rows[0][1])
    samples = [_sample(row, name, column, path, where) for where, row in rows]
    check_unique(
        samples, path, "an index must stand for one question; name the table of the evaluation itself"
    )
    return Log(path, name, samples)


def _benchmark(path: Path) -> str:
    """The dataset of ``<model>/…/<model>_<dataset>[_suffix]``."""
    for folder in path.absolute().parents[:2]:
        if path.stem.startswith(f"{folder.name}_"):
            return _AFTER_EVALUATION.sub("", path.stem.removeprefix(f"{folder.name}_"))
    raise UserError(
        f"{path} does not lie in a folder of its model's name, so that the benchmark cannot be told from its name: "
        f"write ARM/SEED:BENCHMARK={path}"
    )


def _score_column(path: Path, row: Mapping[str, Any]) -> str:
    absent = [name for name in ("index", "prediction", "answer") if name not in row]
    if absent:
        raise DataError(
            f"{path} has no column {', '.join(absent)}; it has {', '.join(map(str, row))}. Name a table of predictions "
            "of VLMEvalKit, not one of summed-up accuracies"
        )
    found = [name for name in (MATCHES, *SCORES) if name in row]
    if not found:
        raise DataError(
            f"{path} holds predictions without scores: evaluate them in VLMEvalKit (run.py --mode eval), and name the "
            "table that this writes beside it (…_results, …_auxmatch, …_result)"
        )
    return found[0]


def _sample(row: Mapping[str, Any], benchmark: str, column: str, path: Path, where: str) -> Sample:
    index = str(row.get("index", "")).strip()
    if not index:
        raise DataError(f"{path}, {where}: this row has no index")
    if column == MATCHES:
        score, metric = _of_matches(row.get(column), benchmark), SCORES[0]
    else:
        score, metric = number(row.get(column)), column
    if score is None:
        raise DataError(
            f"{path}, {where}: {column} holds no score for index {index}, but '{str(row.get(column))[:40]}'; evaluate "
            "again what failed, or leave the question out of all tables"
        )
    pictures = (named_picture(row.get(name)) for name in _PICTURE_COLUMNS)
    picture = next((found for found in pictures if found), None)
    return Sample(
        where=where,
        example_id=f"{benchmark}/{index}",
        picture=f"{benchmark}/{picture}" if picture and picture.isdecimal() else picture,
        scores={metric: score},
        prediction=str(row.get("prediction", "")),
        target=str(row.get("answer", "")),
    )


def _of_matches(value: Any, benchmark: str) -> float | None:
    """The score of one question from its comparisons with each right answer, as `hit_calculate` of VLMEvalKit forms it.

    ANLS tasks (DocVQA, InfoVQA) log distances, so that their column eval_score is better when it is lower.
    """
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return None
    matches = [number(match) for match in value] if isinstance(value, Sequence) else []
    found = [match for match in matches if match is not None]
    if not found or len(found) != len(matches):
        return None
    if any(name in benchmark for name in ("DocVQA", "InfoVQA")):
        similarity = 1 - min(found)
        return similarity if similarity >= _ANLS_THRESHOLD else 0.0
    if any(name in benchmark for name in ("ChartQA", "OCRVQA")):
        return max(found)
    return sum(found) / len(found)
