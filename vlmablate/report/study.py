"""A study as it lies on disk: its declaration, its runs, and the records of the steps behind them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmablate.errors import UserError
from vlmablate.files import read_json

STEP_ORDER = ("scenes", "pretrain", "posttrain", "features", "align", "trunk", "finetune", "evaluate")


def in_order(kind: str) -> int:
    """Where steps of a kind stand in the order of the work; unknown kinds last."""
    return STEP_ORDER.index(kind) if kind in STEP_ORDER else len(STEP_ORDER)


@dataclass(frozen=True)
class Run:
    """One training with its evaluation; `steps` maps the role of a step (features0, finetune, ...) to its
    id."""

    arm: str
    context: str
    seed: int
    run_id: str
    steps: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.arm} / {self.context} / seed {self.seed}"


@dataclass(frozen=True)
class Trial:
    """One training that settings were only chosen by: a trial of a tuned arm."""

    arm: str
    context: str
    number: int
    steps: dict[str, str]


@dataclass(frozen=True)
class Study:
    """Read-only view of ${home}/studies/<name>; `facts` is its study.json."""

    folder: Path
    home: Path
    facts: dict[str, Any]

    @classmethod
    def load(cls, folder: Path, home: Path) -> Study:
        """Raises UserError when study.json is missing or unreadable."""
        try:
            return cls(Path(folder), Path(home), read_json(Path(folder) / "study.json"))
        except FileNotFoundError:
            raise UserError(f"{folder} holds no study.json, so there is nothing to report on") from None
        except ValueError as error:
            raise UserError(str(error)) from error

    @property
    def name(self) -> str:
        return str(self.facts["name"])

    @property
    def axis(self) -> dict[str, Any]:
        return dict(self.facts["axis"])

    @property
    def axis_name(self) -> str:
        return str(self.axis["name"])

    @property
    def baseline(self) -> str:
        return str(self.facts.get("baseline") or self.axis["baseline"])

    @cached_property
    def runs(self) -> list[Run]:
        return [
            Run(run["arm"], run["context"], int(run["seed"]), run["run_id"], dict(run["steps"]))
            for run in self.facts["runs"]
        ]

    @property
    def trials(self) -> list[Trial]:
        """The trials of all tuned cells; none without tuning."""
        cells = (self.facts.get("tuning") or {}).get("cells") or []
        return [
            Trial(cell["arm"], cell["context"], int(trial["number"]), dict(trial.get("steps") or {}))
            for cell in cells
            for trial in cell["trials"]
        ]

    @property
    def work(self) -> list[Run | Trial]:
        """Everything that was, or is to be, computed: runs and trials."""
        return [*self.runs, *self.trials]

    @cached_property
    def compared(self) -> Study:
        """The study as its verdicts see it: with the runs that are compared, and no others.

        Of a design space those are the runs with fresh seeds of the baseline and of the best other configuration; the
        runs that were explored to find it are left out. Any other study compares all its runs.
        """
        space = self.facts.get("exploration")
        if not space:
            return self
        again, arms = set(space["confirmed"]), (space["baseline"], space["best"])
        runs = [run for run in self.facts["runs"] if run["run_id"] in again and run["arm"] in arms]
        return replace(self, facts={**self.facts, "baseline": space["baseline"], "runs": runs})

    @property
    def arms(self) -> list[str]:
        """Arms that have runs, in the order in which the axis declares them."""
        present = {run.arm for run in self.runs}
        declared = [arm for arm in self.axis.get("arms", {}) if arm in present]
        return declared + sorted(present - set(declared))

    @property
    def contexts(self) -> list[str]:
        present = {run.context for run in self.runs}
        declared = [str(context) for context in self.facts.get("contexts", []) if context in present]
        return declared + sorted(present - set(declared))

    def kind(self, step_id: str) -> str:
        return str(self.facts["steps"][step_id]["kind"])

    def directory(self, step_id: str) -> Path:
        """The step's folder. Raises UserError for an id that study.json does not declare."""
        try:
            return self.home / self.facts["steps"][step_id]["dir"]
        except KeyError:
            raise UserError(
                f"{self.folder / 'study.json'} names step {step_id} but does not declare it"
            ) from None

    def result(self, step_id: str) -> dict[str, Any] | None:
        """The step's result.json, or None while it is not finished."""
        try:
            return dict(read_json(self.directory(step_id) / "result.json"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(str(error)) from error

    @cached_property
    def results(self) -> dict[str, dict[str, Any]]:
        """result.json of every finished step of the study, by id."""
        found = {step_id: self.result(step_id) for step_id in self.facts["steps"]}
        return {step_id: result for step_id, result in found.items() if result is not None}

    def spec(self, step_id: str) -> dict[str, Any]:
        """The step's frozen spec.json; empty if it was never written."""
        try:
            return dict(read_json(self.directory(step_id) / "spec.json"))
        except FileNotFoundError:
            return {}

    def curve(self, step_id: str) -> list[dict[str, float]]:
        """The step's training curve; a torn last line of a killed attempt is skipped."""
        path = self.directory(step_id) / "metrics.jsonl"
        if not path.exists():
            return []
        points = []
        for line in path.read_text().splitlines():
            try:
                point = json.loads(line)
            except ValueError:
                continue
            if isinstance(point, dict) and "step" in point and "loss" in point:
                points.append(point)
        return sorted(points, key=lambda point: point["step"])

    def unfinished(self, run: Run) -> str | None:
        """Why a run has no scores: its first step without a result, as 'kind id'; None for a finished run."""

        def position(role: str) -> tuple[int, str]:
            return (in_order(self.kind(run.steps[role])), role)

        if run.steps["evaluate"] in self.results:
            return None
        for role in sorted(run.steps, key=position):
            if run.steps[role] not in self.results:
                return f"{self.kind(run.steps[role])} step {run.steps[role]} has no result"
        return None
