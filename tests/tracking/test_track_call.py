"""What a sweep has told to a tracker, and when; the tracker itself is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.orchestration.conftest import Sweeps
from vlmablate.orchestration import controller
from vlmablate.orchestration.study import Sweep

OVERRIDES = ("execution.workers=2", "tracking=wandb")


def test_studies_of_one_sweep_are_told_together_after_their_page(
    sweeps: Sweeps, results: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[Any, ...]] = []

    def track(group: Path, studies: list[Path], runs: list[Any], *_: Any) -> bool:
        seen.append((group, studies, {run.run_id for run in runs}, (group / "index.html").exists()))
        return True

    monkeypatch.setattr(controller, "track", track)
    names = ("image_resize", "stages")
    requests = [sweeps.request(axis=name, study=f"both-{name}", overrides=OVERRIDES) for name in names]
    assert controller.Controller(Sweep("both", tuple(requests), "both"), sweeps.parts()).run() == 0
    ((group, studies, runs, page),) = seen
    assert group == results / "studies" / "both"
    assert studies == [results / "studies" / f"both-{name}" for name in names]
    assert len(runs) == 4
    assert page
