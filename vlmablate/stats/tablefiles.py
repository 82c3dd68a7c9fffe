"""The wanted columns of a CSV, TSV or Parquet file; text is kept as a dictionary of what occurs."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from vlmablate.errors import DataError, UserError, unknown_name

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".pq")

_BLOCK_BYTES = 2**24
"""Text read at a time: every block has dictionaries of its own, so that small blocks would hold texts many times."""

_TEXT = pa.dictionary(pa.int32(), pa.string())


def read_columns(
    path: Path, known: Iterable[str], required: Collection[str], columns: Mapping[str, str], *, numeric: str
) -> dict[str, pa.ChunkedArray]:
    """Our name -> column of `path`, for the names of `known` that the file has; the others are not read.

    columns: our name -> the file's. numeric: our name of the column that holds numbers if it can be read as such
    (text otherwise); all others of a text file are dictionaries of text.

    Raises UserError for a file that cannot be read or has an unknown ending, and a name in `columns` that the file
    does not have; DataError for a file without one of the `required` columns, or with one of its columns twice.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the file with the scores in it")
    if not path.exists():
        raise UserError(f"there is no file {path.absolute()}")
    suffix = next((ending for ending in SUFFIXES if path.name.lower().endswith(ending)), None)
    if suffix is None:
        raise UserError(f"{path} does not end in {', '.join(SUFFIXES)}, so it is not clear how to read it")
    try:
        text = suffix not in (".parquet", ".pq")
        names = _header(path, suffix) if text else pa.parquet.ParquetFile(path).schema_arrow.names
        chosen = _choose(path, names, known, required, columns)
        wanted = list(dict.fromkeys(chosen.values()))
        read = _read_text if text else _read_parquet
        table = read(path, suffix, wanted, chosen[numeric])
    except (OSError, EOFError, pa.ArrowException) as error:  # a broken .gz ends in EOFError
        raise UserError(
            f"{path} cannot be read: {str(error).splitlines()[0]}{_hint(suffix, error)}"
        ) from error
    return {name: table.column(column) for name, column in chosen.items()}


def _hint(suffix: str, error: BaseException) -> str:
    if isinstance(error, PermissionError):
        return ""
    if "UTF8" in str(error):
        return "; save it as UTF-8"
    if suffix in (".parquet", ".pq"):
        return "; is it a complete Parquet file?"
    return ""


def _options(suffix: str) -> dict[str, Any]:
    delimiter = "\t" if suffix.startswith(".tsv") else ","
    return {
        "read_options": pa.csv.ReadOptions(block_size=_BLOCK_BYTES),
        "parse_options": pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
    }


def _header(path: Path, suffix: str) -> list[str]:
    if not path.stat().st_size:
        raise DataError(f"{path} is empty")
    with pa.input_stream(str(path), compression="detect") as stream:
        first = stream.read(2**20).split(b"\n")[0].decode("utf-8-sig", errors="replace").strip("\r")
    delimiter = "\t" if suffix.startswith(".tsv") else ","
    names = next(csv.reader([first], delimiter=delimiter), [])
    if len(names) == 1:
        for other, called in ((",", "commas"), (";", "semicolons"), ("\t", "tabs")):
            if other != delimiter and other in first:
                expected = "tabs" if delimiter == "\t" else "commas"
                raise DataError(
                    f"{path}: the columns seem to be separated by {called}; in a {suffix} file it has to be {expected}"
                )
    return names


def _choose(
    path: Path,
    names: Sequence[str],
    known: Iterable[str],
    required: Collection[str],
    columns: Mapping[str, str],
) -> dict[str, str]:
    """Our name -> the file's, for the columns that are there."""
    for column in columns.values():
        if column not in names:
            raise unknown_name("column", column, names, str(path))
    chosen = {name: columns.get(name, name) for name in known}
    chosen = {name: column for name, column in chosen.items() if column in names}
    absent = [name for name in required if name not in chosen]
    if absent:
        raise DataError(
            f"{path} lacks the column(s) {', '.join(absent)}; it has {', '.join(names)}. Say which of them it is: "
            f"columns.{absent[0]}=COLUMN"
        )
    twice = [column for column in chosen.values() if list(names).count(column) > 1]
    if twice:
        raise DataError(
            f"{path} has {list(names).count(twice[0])} columns called '{twice[0]}'; rename all but one"
        )
    return chosen


def _read_text(path: Path, suffix: str, wanted: list[str], numeric: str) -> pa.Table:
    types: dict[str, pa.DataType] = dict.fromkeys(wanted, _TEXT)
    types[numeric] = pa.float64()

    def read() -> pa.Table:
        convert = pa.csv.ConvertOptions(include_columns=wanted, column_types=types)
        with pa.input_stream(str(path), compression="detect") as stream:
            return pa.csv.read_csv(stream, convert_options=convert, **_options(suffix))

    try:
        return read()
    except pa.ArrowInvalid as error:
        # true and false, or something that is no number: the caller looks at the text.
        if "conversion error to double" not in str(error):
            raise
        types[numeric] = _TEXT
        return read()


def _read_parquet(path: Path, suffix: str, wanted: list[str], numeric: str) -> pa.Table:
    file = pa.parquet.ParquetFile(path)
    types = {field.name: field.type for field in file.schema_arrow}
    for name in wanted:
        if pa.types.is_nested(types[name]):
            raise DataError(f"{path}: column '{name}' holds {types[name]}, expected one value in every row")
    texts = [
        name for name in wanted if pa.types.is_string(types[name]) or pa.types.is_large_string(types[name])
    ]
    return pa.parquet.read_table(path, columns=wanted, read_dictionary=texts)
