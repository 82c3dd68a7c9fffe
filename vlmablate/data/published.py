"""The public instruction data by name, and how large a mix of it is. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vlmablate.design.shares import read_mix, visits
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


def mix_size(mix: Sequence[Any], language_only: bool = True) -> tuple[int, int]:
    """(samples with a picture, samples of text alone) that an epoch of a mix shows; without `language_only` the latter
    are left out, as in the paper's runs without co-training (section 4.3).

    mix: as `design.shares.read_mix` takes it; a list of names is their concatenation. Of a source of which a part is
    shown, that part is taken to be like the whole.

    Raises UserError for an unknown source, or a share that is none.
    """
    shares, known = read_mix(list(mix)), sources()
    for name in shares:
        if name not in known:
            raise unknown_name("data source", name, known, "data.mix")
    texts = {name: known[name].texts if language_only else 0 for name in shares}
    sizes = {name: known[name].pictures + texts[name] for name in shares}
    shown = visits(shares, sizes)
    text = sum(round(shown[name] * texts[name] / sizes[name]) for name in shares if sizes[name])
    return sum(shown.values()) - text, text
