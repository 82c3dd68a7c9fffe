"""What a page of several axes is about: a declared study (sweeps/NAME.yaml), or study folders that exist."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmablate.errors import unknown_name
from vlmablate.report.study import Study
from vlmablate.report.study_page_facts import Asked, Index

if TYPE_CHECKING:
    from vlmablate.orchestration.study import Sweep

TOGETHER = "overview"
"""The folder of the page about studies that are only named together."""


def index_of_sweep(sweep: Sweep, axes: Path | None = None) -> Index:
    """The page of a sweep over several axes; its question and contrasts are those of sweeps/NAME.yaml, if it is there.

    Args:
        sweep: what was asked for, as :func:`vlmablate.sweep.asked` gives it.
        axes: the folder of axis files, None for the package's own.

    Raises:
        UserError: for an axis or a file of a study that breaks its format.
    """
    from vlmablate.design.catalogue import load_axis
    from vlmablate.design.declarations import declaration_names, load_declaration

    asked = []
    for request in sweep.requests:
        axis = load_axis(request.axis, request.scale, axes)
        runs = len(axis.arms) * len(axis.contexts) * len(request.seeds)
        asked.append(Asked(axis.name, request.name, axis.question, request.command, runs))
    words = shlex.split(sweep.command)
    name = next((word.partition("=")[2] for word in words if word.startswith("study=")), "")
    question, contrasts = "", {}
    if name in declaration_names():
        declared = load_declaration(name)
        question, contrasts = declared.question, dict(declared.contrasts)
    # Where it was computed means nothing to a page.
    asking = [
        word for word in words if ("=" in word or word.startswith("~")) and not word.startswith("launcher=")
    ]
    again = shlex.join(["vlmablate", "report", *asking])
    return Index(sweep.name, question, again, sweep.command, tuple(asked), contrasts)


def index_of_folders(names: Sequence[str], home: Path) -> Index:
    """The page of studies that exist, in the order in which they are named.

    Raises:
        UserError: for a name without a study (lists those there are), and for a damaged study.json.
    """
    studies = home / "studies"
    known = sorted(path.parent.name for path in studies.glob("*/study.json"))
    asked = []
    for name in dict.fromkeys(names):
        if name not in known:
            raise unknown_name("study", name, known, where=str(studies))
        study = Study.load(studies / name, home)
        question = str(study.axis.get("question") or study.axis_name)
        command = str(study.facts.get("command") or f"python -m vlmablate.sweep axis={study.axis_name}")
        asked.append(Asked(study.axis_name, name, question, command, len(study.runs)))
    again = shlex.join(["vlmablate", "report", f"study={','.join(dict.fromkeys(names))}"])
    return Index(TOGETHER, "", again, "", tuple(asked))
