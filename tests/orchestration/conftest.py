from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # the fake steps are imported by name, here and in worker processes

from tests.orchestration import fakes  # noqa: E402
from vlmablate.design.compose import composer  # noqa: E402
from vlmablate.design.spec import RunSpec  # noqa: E402
from vlmablate.orchestration import controller  # noqa: E402
from vlmablate.orchestration.controller import EXIT_OK, EXIT_WORK, Controller  # noqa: E402
from vlmablate.orchestration.parts import Parts  # noqa: E402
from vlmablate.orchestration.progress import PlainDisplay  # noqa: E402
from vlmablate.orchestration.store import Store  # noqa: E402
from vlmablate.orchestration.study import Request, build_runs, compose_cells  # noqa: E402

DEADLINE_S = 30.0
PINNED = ("sizes.epochs=1.0", "sizes.align_epochs=0.5", "data.train_scenes=96")
"""Values that the tests of the plan count with, whatever the smoke scale says today."""


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The remote control of the fake steps; see :mod:`tests.orchestration.fakes`."""
    folder = tmp_path / "control"
    folder.mkdir()
    monkeypatch.setenv("VLMABLATE_FAKES", str(folder))
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The results folder."""
    return tmp_path / "results"


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a real event of another process; fails after a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {DEADLINE_S:.0f} s in vain for: {what}")


def remembered() -> Callable[..., Any]:
    """compose_cells that composes the same request once per test session.

    Composition is a pure function and has tests of its own; here it would be most of the time.
    """
    known: dict[tuple[Any, ...], Any] = {}

    def cells(request: Request, compose: Any, axes: Path | None = None) -> Any:
        key = (request.axis, request.scale, request.launcher, request.overrides)
        if key not in known:
            known[key] = compose_cells(request, compose, axes)
        axis, made = known[key]
        return axis, copy.deepcopy(made)

    return cells


REMEMBERED = remembered()


class Sweeps:
    """Runs studies with fake steps, in this process or in others."""

    def __init__(self, results: Path, cells: Path) -> None:
        self.results = results
        self._cells = cells
        self.said: list[str] = []

    def request(self, axis: str = "stages", seeds: int = 1, launcher: str = "debug", **more: Any) -> Request:
        defaults = {"scale": "smoke", "study": "study", "command": "the same command"}
        overrides = ("execution.workers=2",)
        arguments = {"overrides": overrides, **defaults, **more}
        return Request(axis=axis, seeds=tuple(range(seeds)), launcher=launcher, **arguments)

    def parts(self, **more: Any) -> Parts:
        defaults: dict[str, Any] = {
            "home": self.results,
            "cache": self.results / "cache",
            "kinds": fakes.KINDS,
            "assets": fakes.Assets(),
            "build": fakes.build,
            "report": self.said.append,
            "display": lambda: PlainDisplay(self.said.append),
            "heartbeat_s": 0.1,
        }
        return Parts(**{**defaults, **more})

    def run(self, parts: dict[str, Any] | None = None, **request: Any) -> int:
        """Run a study in this process; ``said`` then holds what it printed."""
        self.said.clear()
        return Controller(self.request(**request), self.parts(**(parts or {}))).run()

    def plan(self, **request: Any) -> str:
        """What ``mode=plan`` prints."""
        self.said.clear()
        assert Controller(self.request(**request), self.parts()).plan() in (EXIT_OK, EXIT_WORK)
        return self.text

    @property
    def text(self) -> str:
        return "\n".join(self.said)

    def start(self, axis: str = "stages", seeds: int = 1, launcher: str = "local") -> subprocess.Popen[str]:
        """Start a controller in a process of its own, with cells that were composed here."""
        request = self.request(axis, seeds, launcher)
        with composer() as compose:
            made, cells = REMEMBERED(request, compose)
        record = {"axis": made.to_dict(), "cells": [dataclasses.asdict(cell) for cell in cells]}
        self._cells.write_text(json.dumps(record))
        script = Path(__file__).with_name("run_controller.py")
        return subprocess.Popen(
            [sys.executable, str(script), str(self.results), str(self._cells), str(seeds), launcher],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def values(self) -> str:
        """The fake report: the value of every run."""
        return (self.results / "studies" / "study" / "values.json").read_text()


@pytest.fixture
def sweeps(results: Path, control: Path, monkeypatch: pytest.MonkeyPatch) -> Sweeps:
    monkeypatch.setattr(controller, "compose_cells", REMEMBERED)
    return Sweeps(results, control / "cells.json")


@pytest.fixture(scope="session")
def make_runs() -> Callable[..., list[RunSpec]]:
    """Runs of an axis at the smoke scale; composed once per axis and session."""
    composed: dict[str, Any] = {}

    def make(axis: str = "image_resize", seeds: int = 1) -> list[RunSpec]:
        if axis not in composed:
            with composer() as compose:
                composed[axis] = compose_cells(Request(axis=axis, scale="smoke", overrides=PINNED), compose)[
                    1
                ]
        return build_runs(composed[axis], range(seeds), {}, fakes.Assets(), "smoke")

    return make


@pytest.fixture
def store(results: Path) -> Store:
    return Store(results)
