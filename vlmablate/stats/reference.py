"""The published tables of Prismatic VLMs, as copied into analysis/reference and checked by digest.

Source: Karamcheti et al., ICML 2024, arXiv 2402.07865 v2 (analysis/reference/README.md). Scores are percentages
(0-100) as printed.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vlmablate.errors import DataError
from vlmablate.paths import resource
from vlmablate.stats.rounding import half_unit

BENCHMARKS = (
    "VQAv2",
    "GQA",
    "VizWiz",
    "TextVQA",
    "RefCOCO",
    "RefCOCO+",
    "RefCOCOg",
    "OCIDRef",
    "VSR",
    "POPE",
    "TallyQA",
    "AI2D",
)
"""The 12 benchmarks of the paper's aggregate. The tables' thirteenth column, TextVQA+OCR, is not one of them."""
FIRST_VERSION = tuple(name for name in BENCHMARKS if name != "AI2D")
"""The 11 benchmarks of the paper's first version."""

OFFICIAL = "official:"
"""Prefix of the ids of the four checkpoints that the authors did not train."""

DIGESTS = {
    "results.csv": "03928f65d98e9c9a9fe62d486e0027a4d2902fe76918db08114fb867d7dfeb6b",
    "comparisons.csv": "a74440e886d8ab20b06a889438ffdc2cbac90cd3a288d71933baba2bc27a3d09",
}
"""SHA-256 of the reference files with newlines as LF: a changed table would no longer be the published one."""


@dataclass(frozen=True)
class Reference:
    """The published tables.

    scores: [48 models, 13 columns] percent, nan where the paper prints N/A; half_units: the same shape, half a
    unit of each entry's last printed digit; comparisons: [12] text, index = comparison key.
    """

    scores: pd.DataFrame
    half_units: pd.DataFrame
    comparisons: pd.DataFrame

    @property
    def trained(self) -> list[str]:
        """Ids of the 44 models that the authors trained themselves."""
        return [name for name in self.scores.index if not name.startswith(OFFICIAL)]

    def pairs(self, comparison: str) -> list[tuple[str, str]]:
        """The (base, alternate) model ids of a comparison."""
        row = self.comparisons.loc[comparison]
        return list(zip(row["base_models"].split(";"), row["alternate_models"].split(";"), strict=True))


def reference_folder() -> Path:
    """Where the published tables lie, in a checkout and in an installed copy."""
    return resource("analysis") / "reference"


def load_reference(folder: Path | None = None) -> Reference:
    """Read the published tables and make sure that they are the published ones.

    Raises:
        DataError: if a file is missing or differs from the digest known to this module.
    """
    folder = folder or reference_folder()
    tables = {name: _read(folder / name, digest) for name, digest in DIGESTS.items()}
    printed = tables["results.csv"].set_index("model_id").drop(columns="model")
    scores = printed.apply(lambda column: pd.to_numeric(column.where(column != "N/A")))
    half_units = printed.map(lambda text: math.nan if text == "N/A" else float(half_unit(text)))
    return Reference(scores, half_units, tables["comparisons.csv"].set_index("comparison"))


def _read(path: Path, digest: str) -> pd.DataFrame:
    repair = "reinstall vlmablate, or in a checkout run: git checkout -- analysis/reference"
    try:
        # A checkout on Windows may have CRLF line ends; that does not change the numbers.
        data = path.read_bytes().replace(b"\r\n", b"\n")
    except OSError as error:
        raise DataError(f"cannot read the published table {path}: {error.strerror}\n{repair}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise DataError(
            f"{path} is not the published table any more (sha256 {found[:12]}..., expected {digest[:12]}...), "
            f"so the printed p-values cannot be compared with it\n{repair}"
        )
    return pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
