"""The public instruction data by name, and how large a mix of it is. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vlmablate.errors import unknown_name


@dataclass(frozen=True)
class Source:
    """One published set: samples with a picture (`pictures`), samples of text alone (`texts`), and where it is from."""

    name: str
    pictures: int
    texts: int
    what: str
    source: str


@cache
def sources() -> dict[str, Source]:
    """Name -> source, in the order of published.yaml."""
    import yaml

    raw = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    return {name: Source(name, **facts) for name, facts in raw.items()}


def mix_size(names: Sequence[str], language_only: bool = True) -> tuple[int, int]:
    """(samples with a picture, samples of text alone) of a concatenation; without `language_only` the latter are left
    out, as in the paper's runs without co-training (section 4.3).

    Raises UserError for an unknown source.
    """
    known = sources()
    for name in names:
        if name not in known:
            raise unknown_name("data source", name, known, "data.mix")
    chosen = [known[name] for name in names]
    return sum(s.pictures for s in chosen), sum(s.texts for s in chosen) if language_only else 0
