"""What a step says of itself beside its identity: a slug for people, and figures for estimates. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vlmablate.design import trunks
from vlmablate.design.flops import flops, tiles_of
from vlmablate.design.identity import digest, elide
from vlmablate.design.spec import StepSpec
from vlmablate.design.step_table import TRUNK, Row, stage_of
from vlmablate.design.supplied import tower_name

_SEED_FIELDS = frozenset({"seed"})


def hints_of(
    kind: str,
    row: Row,
    config: dict[str, Any],
    deps: dict[str, StepSpec],
    before: Mapping[str, StepSpec],
    scale: str,
) -> dict[str, Any]:
    """What is kept for estimates; the same for every seed."""
    part = _part(kind, config, deps)
    operations = flops(kind, config, {role: step.config for role, step in before.items()})
    return {
        "flops": None if operations is None else part * operations,
        "scale": _alike(kind, config, deps, scale),
        "similar": _similar(kind, row, config, deps),
        "units": part * _units(kind, config),
        "disk_units": _units(kind, config) if kind == "features" else 1.0,
    }


def _without_seeds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_seeds(v) for k, v in value.items() if k not in _SEED_FIELDS}
    return value


def _similar(kind: str, row: Row, config: dict[str, Any], deps: dict[str, StepSpec]) -> str:
    """A key shared by steps that do the same work with another seed; follows the dependencies."""
    parts = {role: step.hints["similar"] for role, step in deps.items()}
    semantic = _without_seeds(elide(config, row.added) if row.added else config)
    return digest({"kind": kind, "version": row.version, "config": semantic, "deps": parts})[:16]


def _part(kind: str, config: Mapping[str, Any], deps: Mapping[str, StepSpec]) -> float:
    """How much of its whole training a step does: less than all of it on a trunk."""
    if kind != trunks.KIND and TRUNK not in deps:
        return 1.0
    before = deps[TRUNK].config["stages"]["finetune"] if TRUNK in deps else None
    return trunks.share(kind, config["stages"]["finetune"], before)


def _alike(kind: str, config: Mapping[str, Any], deps: Mapping[str, StepSpec], scale: str) -> str:
    """The scale, and what else makes steps of a kind differ in seconds per unit: of a short decay the start weighs."""
    live = "" if config.get("live") is None else ", live towers"
    return f"{scale}{live}{', decay of a trunk' if kind == 'finetune' and TRUNK in deps else ''}"


def _units(kind: str, config: dict[str, Any]) -> float:
    """How much work relative to other steps of the kind at one scale: the epochs of a training step, the tiles of
    features, else 1.
    """
    if kind == "features":
        return float(tiles_of(config))
    stage = config.get("stages", {}).get(stage_of(kind)) if isinstance(config.get("stages"), dict) else None
    epochs = stage.get("epochs") if isinstance(stage, dict) else None
    return float(epochs) if isinstance(epochs, int | float) and epochs > 0 else 1.0


_NO_WORD = re.compile(r"[^a-z0-9_.+-]+")


def _words(*parts: Any) -> str:
    text = "-".join(str(part) for part in parts if part not in (None, ""))
    return _NO_WORD.sub("", text.lower())[:60].strip("-.") or "step"


def slug_of(kind: str, config: dict[str, Any], deps: list[StepSpec]) -> str:
    """Readable words for a directory. A function of what the id is made of, so one id always gets
    one slug.
    """
    if kind == "scenes":
        data = config["data"]
        if config.get("validation") is not None:
            return _words(data.get("name"), data.get("pictures"), "validation", config["validation"])
        return _words(data.get("name"), data.get("pictures"), data.get("train_scenes"))
    if kind == "pretrain":
        llm = config["llm"]
        rotary = config.get("rotary") or {}
        return _words(llm.get("name"), llm.get("layers"), llm.get("width"), rotary.get("name"))
    if kind == "posttrain":
        return _words(config["posttrain"].get("text"), config["posttrain"].get("steps"))
    if kind == "features":
        tiles = "tiles" if config["image"].get("tiles") is not None else None
        return _words(tower_name(config["tower"]), config["image"].get("resize"), tiles)
    seeds = config["seed"]
    inherited = [dep.slug for dep in deps if dep.kind == "finetune"]
    if inherited:
        return inherited[0]
    llm = (config.get("llm") or {}).get("name")
    until = f"to{config['stages']['finetune']['epochs']:g}" if kind == trunks.KIND else None
    live = config.get("live")
    if live is not None:
        names = [tower_name(row["tower"]) for row in live["towers"]]
        return _words("+".join(names), live["image"].get("resize"), llm, "tuned", until, f"s{seeds['init']}")
    return _words(
        "+".join(dep.slug for dep in deps if dep.kind == "features"), llm, until, f"s{seeds['init']}"
    )
