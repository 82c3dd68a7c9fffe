"""A results folder with the studies of several axes: reported, unfinished, and not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_study import axis, make_study

from vlmablate.report import figures, notebook
from vlmablate.report.build import build_study
from vlmablate.report.study_page_facts import Asked, Index


def _asked(name: str, question: str, runs: int) -> Asked:
    command = f"python -m vlmablate.sweep axis={name} seeds=2 scale=tiny study=demo-{name}"
    return Asked(name, f"demo-{name}", question, command, runs)


INDEX = Index(
    name="demo",
    question="Which of these choices matter?",
    command="vlmablate report study=demo",
    sweep="python -m vlmablate.sweep study=demo",
    axes=(
        _asked("image_resize", "Does the way a picture is made square matter?", 6),
        _asked("stages", "Is a separate alignment stage needed?", 8),
        _asked("fusion", "Do two encoders beat one?", 6),
        _asked("projector", "Does it matter how features are brought in?", 24),
    ),
)
"""A study of four axes, the last of which nobody has started."""


def add_study(home: Path, name: str, **of_study: Any) -> Path:
    """A study as :func:`make_study` makes it, in a folder of its own; returns the folder."""
    made = make_study(home, **{"seeds": (0, 1), "scenes": 12, "per_scene": 2, "picture": False, **of_study})
    folder = made.with_name(name)
    made.rename(folder)
    declared = json.loads((folder / "study.json").read_text())
    declared["name"] = name
    declared["command"] = f"python -m vlmablate.sweep axis={declared['axis']['name']} study={name} seeds=2"
    (folder / "study.json").write_text(json.dumps(declared))
    return folder


def put_report(folder: Path, verdicts: list[str], table: str) -> None:
    """A report of these sentences and this significance.csv, without its page."""
    (folder / "significance.csv").write_text(table)
    (folder / "report.json").write_text(json.dumps({"verdicts": verdicts, "missing": [], "digests": {}}))


def make_site(home: Path) -> Path:
    """The studies of :data:`INDEX` below ``home``; reports have no figures and their notebooks did not run."""
    two = {
        "baseline": "letterbox",
        "arms": {"letterbox": {"overrides": []}, "resize_naive": {"overrides": []}},
    }
    stages = axis(name="stages", question="Is a separate alignment stage needed?", **two)
    fusion = axis(name="fusion", question="Do two encoders beat one?")
    resize = add_study(home, "demo-image_resize", analysis={"signal_margin": 15.0, "margin": 4.0})
    aligned = add_study(home, "demo-stages", axis_facts=stages, contexts=("default", "large"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebook, "execute", lambda document, folder: 0.0)
        patch.setattr(figures, "save_all", lambda *_: {section: [] for section in figures.SECTIONS})
        for folder in (resize, aligned):
            build_study(folder, home)
    # Steps are shared by their ids; the runs of this axis are its own, so that one of them can be missing.
    add_study(home, "demo-fusion", axis_facts=fusion, contexts=("pair",), unfinished=[("resize_crop", 1)])
    return home
