"""A controller with steps of the tests: ``run_sweep.py HOME word=value ...``.

Words: ``axis``, ``seeds`` or ``max_seeds``, ``launcher``, ``study``, ``scale``, ``detach`` and ``kinds`` (``fakes``,
``adaptive``, ``toy`` or ``real``); every other one is an override. Composing is remembered between the controllers of
one test session, because it has tests of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

from tests.orchestration import adaptive_steps, fakes
from vlmablate.design.catalogue import Axis, parse_axis
from vlmablate.design.compose import composer
from vlmablate.files import read_json, write_json
from vlmablate.orchestration import controller, study
from vlmablate.orchestration.parts import Parts
from vlmablate.orchestration.progress import PlainDisplay
from vlmablate.orchestration.study import Cell, Request

TTL_S, HEARTBEAT_S = 15.0, 0.5


def remembered(request: Request, compose: Any, axes: Path | None = None) -> tuple[Axis, list[Cell]]:
    """compose_cells, once for equal requests of one test session."""
    place = _place(request)
    if not place.exists():
        with composer() as real:
            axis, cells = study.compose_cells(request, real, axes)
        write_json(place, {"axis": axis.to_dict(), "cells": [dataclasses.asdict(cell) for cell in cells]})
    record = read_json(place)
    axis = parse_axis(record["axis"], "", "test", request.axis)
    return axis, [Cell(**cell) for cell in record["cells"]]


def _place(request: Request) -> Path:
    key = repr((request.axis, request.scale, request.launcher, request.overrides))
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    return Path(os.environ["VLMABLATE_TEST_CELLS"]) / f"{name}.json"


class _NoComposer:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def main() -> int:
    """Run the study and return its exit code."""
    words = dict(word.split("=", 1) for word in sys.argv[2:])
    home = Path(sys.argv[1])
    kinds = words.pop("kinds", "fakes")
    detach = words.pop("detach", "false") == "true"
    seeds = int(words.pop("seeds", "1"))
    max_seeds = words.pop("max_seeds", "")
    request = Request(
        axis=words.pop("axis", "stages"),
        seeds=tuple(range(seeds)),
        max_seeds=int(max_seeds) if max_seeds else None,
        scale=words.pop("scale", "smoke"),
        launcher=words.pop("launcher", "slurm"),
        study=words.pop("study", "study"),
        overrides=tuple(f"{key}={value}" for key, value in words.items()),
        command="the same command",
    )
    if kinds != "real":
        controller.compose_cells = remembered  # type: ignore[assignment]
        controller.composer = lambda *_: _NoComposer()  # type: ignore[assignment]
    steps: dict[str, Any] = {}
    if kinds == "fakes":
        steps = {"kinds": fakes.KINDS, "assets": fakes.Assets(), "build": fakes.build}
    elif kinds == "adaptive":
        steps = {"kinds": adaptive_steps.KINDS, "assets": fakes.Assets(), "build": fakes.build}
    elif kinds == "toy":
        from tests.faults import toy

        steps = {"kinds": toy.KINDS, "assets": fakes.Assets(), "build": fakes.build}
    parts = Parts(
        home=home, cache=home / "cache", display=PlainDisplay, heartbeat_s=HEARTBEAT_S, ttl_s=TTL_S, **steps
    )
    return controller.Controller(request, parts).run(detach)


if __name__ == "__main__":
    raise SystemExit(main())
