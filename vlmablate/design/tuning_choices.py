"""What a configuration may say of which parameters of a module train. Data and a pure function.

``how``, as it stands in ``stages.finetune.language`` and ``stages.finetune.vision``:

* ``frozen``: nothing;
* ``full``: everything;
* ``{last: n}``: the last n of the module's layers, nothing else;
* ``{lora: {rank, alpha, targets, dropout}}``: low-rank adapters beside frozen weights. ``targets`` are the exact names
  of linear layers: their last part, or several parts with dots.

What is done with it is in :mod:`vlmablate.training.tuning`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmablate.errors import UserError, unknown_name

WAYS = ("frozen", "full", "last", "lora")
LORA_FIELDS = ("rank", "alpha", "targets", "dropout")
HERE = "what trains (stages.<stage>.language and the like)"
How = str | Mapping[str, Any]


def read(how: How, where: str = HERE) -> tuple[str, dict[str, Any]]:
    """The way and its checked options. Raises UserError that names ``where`` it stands."""
    if isinstance(how, str):
        if how not in ("frozen", "full"):
            raise unknown_name("way to train a module", how, WAYS, where)
        return how, {}
    if not isinstance(how, Mapping) or len(how) != 1:
        raise UserError(
            f"{where} is frozen, full, {{last: n}} or {{lora: {{{', '.join(LORA_FIELDS)}}}}}, not {how!r}"
        )
    (way, value), *_ = how.items()
    if way == "last":
        return "last", {"last": _whole(value, f"{where}.last")}
    if way != "lora":
        raise unknown_name("way to train a module", str(way), WAYS, where)
    return "lora", _lora(value, f"{where}.lora")


def _lora(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or set(value) != set(LORA_FIELDS):
        given = ", ".join(sorted(map(str, value))) if isinstance(value, Mapping) else repr(value)
        raise UserError(f"{where} needs exactly the settings {', '.join(LORA_FIELDS)}; given: {given}")
    targets, alpha, dropout = value["targets"], value["alpha"], value["dropout"]
    named = isinstance(targets, list | tuple) and targets and all(isinstance(name, str) for name in targets)
    if not named:
        raise UserError(f"{where}.targets must be a list of names of linear layers, not {targets!r}")
    if not (_number(alpha) and alpha > 0.0):
        raise UserError(f"{where}.alpha must be a number above 0, not {alpha!r}")
    if not (_number(dropout) and 0.0 <= dropout < 1.0):
        raise UserError(f"{where}.dropout must be a share from 0 to below 1, not {dropout!r}")
    rank = _whole(value["rank"], f"{where}.rank")
    return {"rank": rank, "alpha": float(alpha), "targets": list(targets), "dropout": float(dropout)}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name} must be a whole number of at least 1, not {value!r}")
    return value
