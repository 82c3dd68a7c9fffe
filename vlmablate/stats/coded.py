"""Columns of text as numbers: a number per row, and every text once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlmablate.errors import DataError


@dataclass(frozen=True)
class Coded:
    """A column of text: `texts` in sorted order, each once, and the number of every row's text (-1: none) [rows]."""

    codes: NDArray[np.int32]
    texts: list[str]

    def __getitem__(self, row: int) -> str:
        return self.texts[self.codes[row]]

    def as_categories(self) -> pd.Categorical[str]:
        return pd.Categorical.from_codes(self.codes, categories=pd.Index(self.texts, dtype="str"))


def encoded(column: pa.ChunkedArray) -> Coded:
    """A column of a file as text; an empty text is none."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries()
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    if not chunks:
        return Coded(np.empty(0, dtype=np.int32), [])
    texts = pc.cast(chunks[0].dictionary, pa.string()).to_pylist()
    order = sorted((i for i, text in enumerate(texts) if text), key=lambda i: texts[i])
    rank = np.full(len(texts) + 1, -1, dtype=np.int32)
    rank[order] = np.arange(len(order))
    codes = np.empty(len(column), dtype=np.int32)
    start = 0
    for chunk in chunks:  # a null has the index -1 and so takes the last rank, which is -1
        indices = chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        np.take(rank, indices, out=codes[start : start + len(chunk)], mode="wrap")
        start += len(chunk)
    return Coded(codes, [texts[i] for i in order])


def joined(*columns: Coded) -> Coded:
    """The columns' texts with slashes between them. Raises DataError if two combinations give one text."""
    combined = np.zeros(len(columns[0].codes), dtype=np.int64)
    for column in columns:
        combined = combined * len(column.texts) + column.codes
    codes, kept = pd.factorize(combined)
    parts = []
    for column in reversed(columns):
        kept, own = np.divmod(kept, len(column.texts))
        parts.append([column.texts[i] for i in own])
    texts = ["/".join(names) for names in zip(*reversed(parts), strict=True)]
    order = sorted(range(len(texts)), key=texts.__getitem__)
    for i, j in pairwise(order):
        if texts[i] == texts[j]:
            raise DataError(
                f"two different things would be called {texts[i]}: names must not differ by a / alone"
            )
    rank = np.empty(len(texts), dtype=np.int32)
    rank[order] = np.arange(len(order))
    return Coded(rank[codes], [texts[i] for i in order])
