"""What the page of a study of several axes needs of each axis, read from its folder with the standard library."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmablate.errors import UserError
from vlmablate.files import read_json, sha256_file
from vlmablate.report.study import Run, Study

SUITE = "suite"
"""The benchmark of a row about the mean over benchmarks."""
ALL_CONTEXTS = "(all)"
"""The context of a row that is averaged over the contexts."""
PRIMARY = "primary"
"""The family of the contrasts that decide."""
NO_SIGNAL = "no-signal"
"""How the family of a contrast begins whose benchmark carries no signal. All four as :mod:`vlmablate.stats` has them,
which needs pandas."""

VERDICTS = ("better", "worse", "equivalent", "unresolved", "no signal")
"""What a cell of the grid can say, in the order in which they are counted."""

REPORTED, UNREPORTED, PARTIAL, ABSENT = "reported", "without a report", "unfinished", "not computed"
"""States of an axis: every run is in its report; every run is done, but no report has them; some runs are done; none
is."""


@dataclass(frozen=True)
class Asked:
    """One axis as a study asks for it.

    Attributes:
        axis: its name.
        study: the folder of its results, below studies/.
        question: what it asks.
        command: the command that computes it.
        runs: how many runs that takes (arms x contexts x seeds).
    """

    axis: str
    study: str
    question: str
    command: str
    runs: int


@dataclass(frozen=True)
class Index:
    """What a page is about.

    Attributes:
        name: the folder of the page, below studies/.
        question: what the study asks; empty for studies that nobody declared together.
        command: the command that writes the page again.
        sweep: the command that computes all axes; empty where there is none.
        axes: in the order of the page.
        contrasts: published comparison -> the axis that asks its question.
    """

    name: str
    question: str
    command: str
    sweep: str
    axes: tuple[Asked, ...]
    contrasts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Contrast:
    """One test of significance.csv at the level of the design: arm minus baseline, in points.

    ``verdict`` is one of :data:`VERDICTS`; low and high are not finite where there was no test.
    """

    arm: str
    baseline: str
    context: str
    benchmark: str
    delta: float
    low: float
    high: float
    p_adjusted: float
    correction: str
    verdict: str
    seeds: int
    margin: float
    primary: bool


@dataclass(frozen=True)
class AxisFacts:
    """An axis with what lies in its folder.

    Attributes:
        asked: the axis.
        study: its declaration and results; None where nothing was started.
        contrasts: the tests of its report, in the order of significance.csv; empty without a report.
        verdicts: the sentences of its report.
        stale: whether runs were finished, or declared, after the report was written.
        files: report.html, report.ipynb, significance.csv: those that exist.
    """

    asked: Asked
    study: Study | None
    contrasts: tuple[Contrast, ...] = ()
    verdicts: tuple[str, ...] = ()
    stale: bool = False
    files: tuple[str, ...] = ()

    @property
    def finished(self) -> list[Run]:
        """The runs that have scores."""
        if self.study is None:
            return []
        return [run for run in self.study.runs if run.steps["evaluate"] in self.study.results]

    @property
    def runs(self) -> int:
        """How many runs it has when it is whole."""
        return self.asked.runs if self.study is None else len(self.study.runs)

    @property
    def state(self) -> str:
        """One of the four states."""
        if not self.finished and not self.choosing:
            return ABSENT
        if len(self.finished) < self.runs or self.choosing:
            return PARTIAL
        return REPORTED if self.verdicts and not self.stale else UNREPORTED

    @property
    def choosing(self) -> bool:
        """Whether what it compares is not chosen yet: the runs that it declares are not all that it will have."""
        facts = self.study.facts if self.study else {}
        return any(not (facts.get(name) or {"final": True})["final"] for name in ("tuning", "exploration"))

    @property
    def way(self) -> str:
        """How its arms came about where they were chosen: 'tuned: lr', 'design space'; empty where they are as
        declared."""
        facts = self.study.facts if self.study else {}
        tune = facts.get("tune")
        return f"tuned: {tune['space']}" if tune else "design space" if facts.get("space") else ""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(arm, context) of every line of the grid: the primary contrasts, else what was tested at all."""
        primary = [(test.arm, test.context) for test in self.contrasts if test.primary]
        every = dict.fromkeys((test.arm, test.context) for test in self.contrasts)
        over_all = [pair for pair in every if pair[1] == ALL_CONTEXTS]
        return primary or over_all or list(every)

    def contrast(self, arm: str, context: str, benchmark: str) -> Contrast | None:
        """The test of an arm on a benchmark (or the suite) in a context, if there is one."""
        of_cell = (test for test in self.contrasts if (test.arm, test.context) == (arm, context))
        return next((test for test in of_cell if test.benchmark == benchmark), None)

    @property
    def deciding(self) -> list[tuple[Contrast, str]]:
        """The primary contrasts with their sentences; none where the report says why there is no verdict."""
        primary = [test for test in self.contrasts if test.primary]
        return list(zip(primary, self.verdicts, strict=True)) if len(primary) == len(self.verdicts) else []


def read_axis(asked: Asked, home: Path) -> AxisFacts:
    """The axis with what is in ``home``/studies. Raises UserError for a damaged study.json or significance.csv."""
    folder = home / "studies" / asked.study
    if not (folder / "study.json").exists():
        return AxisFacts(asked, None)
    study = Study.load(folder, home)
    names = ("report.html", "report.ipynb", "significance.csv")
    files = tuple(name for name in names if (folder / name).exists())
    report: dict[str, Any] = {}
    # A damaged one is derived data, and counts as none.
    with suppress(FileNotFoundError, ValueError):
        report = read_json(folder / "report.json")
    verdicts, missing, digests = report.get("verdicts"), report.get("missing"), report.get("digests")
    if "significance.csv" not in files or not isinstance(verdicts, list) or not isinstance(missing, list):
        return AxisFacts(asked, study, files=files)
    unfinished = sum(run.steps["evaluate"] not in study.results for run in study.runs)
    declared = digests.get("study.json") if isinstance(digests, dict) else None
    return AxisFacts(
        asked,
        study,
        read_contrasts(folder / "significance.csv", asked.study),
        tuple(map(str, verdicts)),
        stale=len(missing) != unfinished or declared != sha256_file(folder / "study.json"),
        files=files,
    )


def read_contrasts(path: Path, study: str) -> tuple[Contrast, ...]:
    """The tests at the level of the design. Raises UserError, naming the line, for a table of another form."""
    found = []
    with open(path, encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        for row in lines:
            try:
                if row["level"] == "design":
                    found.append(_contrast(row))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"{path}, line {lines.line_num}: not a line of a table of tests ({error}); write it again: "
                    f"vlmablate report {study}"
                ) from error
    return tuple(found)


def _contrast(row: Mapping[str, str]) -> Contrast:
    family = row["family"]
    return Contrast(
        arm=row["arm"],
        baseline=row["baseline"],
        context=row["context"],
        benchmark=row["benchmark"],
        delta=_number(row["delta"]),
        low=_number(row["ci_low"]),
        high=_number(row["ci_high"]),
        p_adjusted=_number(row["p_adjusted"]),
        correction=row["correction"],
        verdict=VERDICTS[-1] if family.startswith(NO_SIGNAL) else row["verdict"],
        seeds=int(row["n_seeds"]),
        margin=float(row["margin"]),
        primary=family == PRIMARY,
    )


def _number(text: str) -> float:
    return float(text) if text else math.nan
