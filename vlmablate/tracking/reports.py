"""What a tracker is told of the report of a study: its files as one artifact, versioned by their digest."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlmablate.design.identity import short_id
from vlmablate.files import read_json, sha256_file
from vlmablate.report.study import Study
from vlmablate.report.study_page_facts import SUITE, read_contrasts
from vlmablate.tracking.history import History, short_tags
from vlmablate.tracking.settings import MARK

REPORT = "report"
"""The type of the job, and of the artifact."""
FILES = (
    "report.html",
    "report.ipynb",
    "significance.csv",
    "effects.csv",
    "importance.csv",
    "results.parquet",
)
PAGE = "index.html"
"""The page over several studies, in the folder of their set."""
_DECLARED = ("command", "seeds", "replicate", "tune", "space", "overrides", "analysis", "provenance")


def report_id(group: Path) -> str:
    """The id of the run that carries the reports of a study, or of a set of studies: one for each results folder."""
    return f"{REPORT}-{short_id(str(group))}"


def report_files(group: Path, studies: Sequence[Path]) -> dict[str, Path]:
    """Name in the artifact -> file, of those that are there.

    A name begins with the study's folder, so that the links of a page over several studies lead to their reports.

    Args:
        group: the folder of the study, or of the set that the studies are computed in.
        studies: their folders.
    """
    paths = [*(folder / name for folder in studies for name in FILES), group / PAGE]
    return {f"{path.parent.name}/{path.name}": path for path in paths if path.exists()}


def digest_of(files: Mapping[str, Path]) -> str:
    """Digest of names and contents; empty for no files."""
    lines = [f"{name} {sha256_file(path)}\n" for name, path in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else ""


def untold_report(group: Path, studies: Sequence[Path]) -> str:
    """The digest of the reports that are there; empty when there are none, or just these were told."""
    found, told = digest_of(report_files(group, studies)), ""
    with suppress(FileNotFoundError, ValueError, KeyError):
        told = str(read_json(group / MARK)["digest"])
    return "" if found == told else found


def report_history(group: Path, studies: Sequence[Study]) -> History:
    """The reports of some studies: what was declared, and the verdicts.

    Raises:
        UserError: for a table of tests that cannot be read.
    """
    sentences: list[str] = []
    summary: dict[str, float | str] = {}
    for study in studies:
        with suppress(FileNotFoundError, ValueError, KeyError):
            sentences += map(str, read_json(study.folder / "report.json")["verdicts"])
        summary |= _verdicts(study)
    axes = [study.axis_name for study in studies]
    scales = dict.fromkeys(study.facts.get("scale") for study in studies)
    return History(
        name=f"{REPORT} {group.name}",
        job=REPORT,
        tags=short_tags(REPORT, *axes, *scales),
        config={
            "study": group.name,
            "axes": {study.axis_name: _declared(study) for study in studies},
            "scale": ", ".join(map(str, scales)),
        },
        curves={},
        summary=summary,
        notes="\n".join(sentences),
    )


def _declared(study: Study) -> dict[str, Any]:
    facts = {key: study.facts[key] for key in _DECLARED if key in study.facts}
    return {
        "study": study.name,
        "baseline": study.baseline,
        "arms": study.arms,
        "contexts": study.contexts,
        **facts,
    }


def _verdicts(study: Study) -> dict[str, float | str]:
    """``axis/arm[/context]/…`` of the contrasts that decide, in the words of significance.csv."""
    path = study.folder / "significance.csv"
    found: dict[str, float | str] = {}
    for test in read_contrasts(path, study.name) if path.exists() else ():
        if test.primary and test.benchmark == SUITE:
            where = f"{test.arm}/{test.context}" if len(study.contexts) > 1 else test.arm
            numbers = {
                "delta": test.delta,
                "ci_low": test.low,
                "ci_high": test.high,
                "p_adjusted": test.p_adjusted,
            }
            known = {key: value for key, value in numbers.items() if math.isfinite(value)}
            told: dict[str, float | str] = {**known, "verdict": test.verdict}
            found |= {f"{study.axis_name}/{where}/{key}": value for key, value in told.items()}
    return found
