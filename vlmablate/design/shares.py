"""How much of every source a mix takes, as a configuration says it. Imports no numpy.

A mix is a list: the name of a source, or {name, and one of weight, count, epochs}::

    mix:
      - llava_v15_mix665k                       # all of it, once
      - {name: lvis_instruct_4v, epochs: 0.5}   # half of it; 2 shows every record twice
      - {name: lrv_instruct, count: 100000}     # so many records
      - {name: sharegpt, weight: 2}             # see `visits`
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from vlmablate.errors import UserError, unknown_name

WHERE = "data.mix"
Share = Mapping[str, float]
"""{"epochs": e}, {"count": n} or {"weight": w}."""
WHOLE: Share = MappingProxyType({"epochs": 1})
KINDS = ("weight", "count", "epochs")


def read_mix(declared: Any) -> dict[str, Share]:
    """Source -> share, of a mix as it is declared.

    Raises UserError for what is no list, two shares of a source, a source that is named twice, and a share that is no
    number above 0 (for `count` a whole one). Whether the source exists is not looked at.
    """
    if isinstance(declared, str) or not isinstance(declared, Sequence) or not declared:
        raise UserError(f"{WHERE} is a list of sources, not {declared!r}")
    found: dict[str, Share] = {}
    for entry in declared:
        name, share = _entry(entry)
        if name in found:
            raise UserError(
                f"{WHERE} names {name} twice; to see it more often, write {{name: {name}, epochs: 2}}"
            )
        found[name] = share
    return found


def visits(shares: Mapping[str, Share], sizes: Mapping[str, int]) -> dict[str, int]:
    """Source -> how many of its records one epoch of the mix shows.

    Epochs and counts stand for themselves. Sources with weights share as many visits as they have records together, in
    the proportion of their weights: a weight changes what is seen, and not how long training takes. A source without
    records (text alone, where pictures are needed) gives none.

    sizes: source -> the records that it has. Raises UserError for a count of a source without records.
    """
    weighted = {
        name: Fraction(str(share["weight"]))
        for name, share in shares.items()
        if "weight" in share and sizes[name]
    }
    dealt = _dealt(weighted, sum(sizes[name] for name in weighted))
    found = {}
    for name, share in shares.items():
        if "weight" in share:
            found[name] = dealt.get(name, 0)
        elif "count" in share:
            found[name] = int(share["count"])
        else:
            found[name] = round(Fraction(str(share["epochs"])) * sizes[name])
        if found[name] and not sizes[name]:
            raise UserError(f"{WHERE}: {name} has no record to learn from, so it cannot give {found[name]}")
    return found


def _dealt(weights: Mapping[str, Fraction], total: int) -> dict[str, int]:
    """`total` in proportion, in whole numbers: the largest remainders are rounded up, among equals by name."""
    whole = sum(weights.values())
    exact = {name: total * weight / whole for name, weight in weights.items()}
    dealt = {name: math.floor(value) for name, value in exact.items()}
    left = total - sum(dealt.values())
    for name in sorted(exact, key=lambda name: (dealt[name] - exact[name], name))[:left]:
        dealt[name] += 1
    return dealt


def _entry(entry: Any) -> tuple[str, Share]:
    if isinstance(entry, str):
        return entry, WHOLE
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise UserError(
            f"{WHERE}: a source is a name, or {{name, and weight, count or epochs}}, not {entry!r}"
        )
    name = str(entry["name"])
    shares = {key: value for key, value in entry.items() if key != "name"}
    for key in shares:
        if key not in KINDS:
            raise unknown_name("share", str(key), KINDS, f"{WHERE}, {name}")
    if len(shares) > 1:
        raise UserError(f"{WHERE}: {name} has {' and '.join(shares)}, and takes one of {', '.join(KINDS)}")
    for key, value in shares.items():
        allowed = int if key == "count" else int | float
        if isinstance(value, bool) or not isinstance(value, allowed) or not 0 < value < math.inf:
            what = "a whole number" if key == "count" else "a number"
            raise UserError(f"{WHERE}: {key} of {name} is {what} above 0, not {value!r}")
    return name, shares or WHOLE
